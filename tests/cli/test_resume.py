"""``drama train --resume``: continuing a run."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import WALK, Capture, complaint
from tests.training.runs import assert_same_run, contents, tiny

from drama import Agent
from drama.cli import main
from drama.config import Config
from drama.training.checkpoint import CheckpointDir


def test_resume_makes_the_missing_steps(run: Path, capfd: Capture, tmp_path: Path) -> None:
    assert main(["train", "--resume", str(run), "--steps", "60"]) == 0
    err = capfd.readouterr().err
    assert "from step 40" in err
    assert "steps=60 (the run has 40)" in err
    assert CheckpointDir(run).last().step == 60
    assert json.loads((run / "eval.json").read_text())["greedy"]["protocol"]["train_steps"] == 60
    assert Config.from_json((run / "config.json").read_text()).steps == 60
    (run / "eval.json").unlink()
    Agent(WALK, tiny({"steps": 60, "env.id": WALK})).learn(60, run_dir=tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole")
    capfd.readouterr()
    # The run records its 60 steps.
    assert "60 steps" in complaint(capfd, main(["train", "--resume", str(run)]))


def test_resume_of_a_finished_run_makes_no_steps(run: Path, capfd: Capture) -> None:
    before = contents(run)
    line = complaint(capfd, main(["train", "--resume", str(run)]))
    assert "40 steps" in line
    assert "--steps" in line
    line = complaint(capfd, main(["train", "--resume", str(run), "--steps", "30"]))
    assert "--steps" in line
    assert contents(run) == before


def test_resume_keeps_the_settings_of_the_run(run: Path, capfd: Capture) -> None:
    before = contents(run)
    args = ["--seed", "7", "--behaviour.gamma", "0.9", "--training.log-every", "5", "--steps", "60"]
    args += ["--training.random-action-repeat", "8"]
    line = complaint(capfd, main(["train", "--resume", str(run), *args]))
    assert "seed=7 (the run has 0)" in line
    assert "behaviour.gamma=0.9 (the run has 0.985)" in line
    assert "training.random_action_repeat=8.0 (the run has 1.0)" in line.partition("allowed")[0]
    refused, _, taken = line.partition("allowed")
    assert "log_every" not in refused
    assert "training.log_every=5" in taken
    assert "steps=60" in taken
    for other in (["--env", "CartPole-v1"], ["--training.warmup-steps", "30"]):
        assert "cannot change" in complaint(capfd, main(["train", "--resume", str(run), *other]))
    assert contents(run) == before


def test_resume_may_use_another_backend(run: Path, capfd: Capture) -> None:
    args = ["train", "--resume", str(run), "--steps", "60", "--world-model.dynamics.backend"]
    before = contents(run)
    assert "cannot be used" in complaint(capfd, main([*args, "kernels"]))
    assert contents(run) == before
    assert main([*args, "torch"]) == 0
    err = capfd.readouterr().err
    assert "world_model.dynamics.backend=torch (the run has auto)" in err
    assert "backend torch: requested" in err


def test_resume_from_a_given_checkpoint(run: Path, capfd: Capture, tmp_path: Path) -> None:
    older = run / "checkpoints" / "000000020"
    assert main(["train", "--resume", str(older), "--steps", "40"]) == 0
    assert "from step 20" in capfd.readouterr().err
    (run / "eval.json").unlink()
    Agent(WALK, tiny({"steps": 40, "env.id": WALK})).learn(40, run_dir=tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole")
