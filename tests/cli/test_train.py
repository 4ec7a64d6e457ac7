"""``drama train``: what a run writes and prints."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commands import WALK, Capture, complaint, train
from tests.training.runs import assert_same_run, json_rows, tiny

from drama import Agent, registry
from drama.cli import main
from drama.config import Config
from drama.dynamics import GRUDynamics
from drama.errors import ConfigError
from drama.training.checkpoint import CheckpointDir


def test_complete_run_writes_its_files(capfd: Capture, tmp_path: Path) -> None:
    assert train("--run-dir", str(tmp_path / "run"), changes={"steps": 40}) == 0
    captured = capfd.readouterr()
    assert str(tmp_path / "run") in captured.out
    assert "mean return" in captured.out
    assert "drama: error" not in captured.err
    assert captured.err.count("backend torch: tensors are on the CPU") == 1
    names = {p.name for p in (tmp_path / "run").iterdir()} - {".lock"}
    assert names == {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "episodes.jsonl",
        "eval.json",
        "checkpoints",
        "replay",
    }
    config = Config.from_json((tmp_path / "run" / "config.json").read_text())
    assert config == tiny({"steps": 40, "env.id": WALK})
    assert [row["step"] for row in json_rows(tmp_path / "run" / "metrics.jsonl")] == [
        10,
        20,
        30,
        40,
    ]
    first = json_rows(tmp_path / "run" / "episodes.jsonl")[0]
    assert list(first) == ["step", "return", "length", "seconds"]
    assert first["step"] == first["length"] == 7
    evaluated = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert list(evaluated) == ["greedy"]
    assert len(evaluated["greedy"]["episodes"]) == 4
    assert evaluated["greedy"]["protocol"]["train_steps"] == 40
    Agent(WALK, tiny({"steps": 40})).learn(40, run_dir=tmp_path / "api")
    (tmp_path / "run" / "eval.json").unlink()
    assert_same_run(tmp_path / "run", tmp_path / "api")


def test_directory_with_special_characters(capfd: Capture, tmp_path: Path) -> None:
    run = tmp_path / "a [bold]run[/x] of mine"
    assert train("--run-dir", str(run), changes={"steps": 5}) == 0
    assert f"run: {run}" in capfd.readouterr().out
    assert main(["train", "--resume", str(run), "--steps", "8"]) == 0
    captured = capfd.readouterr()
    assert f"continuing {run} from step 5" in captured.err
    assert main(["eval", str(run), "--episodes", "1"]) == 0
    assert f"written to {run}" in capfd.readouterr().out


def test_runs_are_numbered(capfd: Capture) -> None:
    changes = {"steps": 5, "evaluation.episodes": 0}
    for _ in range(2):
        assert train(env="CartPole-v1", changes=changes) == 0
    out = capfd.readouterr().out.split()
    assert [word for word in out if word.startswith("runs/")] == [
        "runs/CartPole-v1-quick-changed-s0-1",
        "runs/CartPole-v1-quick-changed-s0-2",
    ]


def test_runs_that_start_at_the_same_time_get_separate_directories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second chooses its name after the first has chosen and before it has written."""
    changes = {"steps": 5, "evaluation.episodes": 0}
    learn, codes = Agent.learn, []

    def second_first(agent: Agent, *args: Any, **kwargs: Any) -> Agent:
        monkeypatch.setattr(Agent, "learn", learn)
        codes.append(train(changes=changes, env="CartPole-v1"))
        return learn(agent, *args, **kwargs)

    monkeypatch.setattr(Agent, "learn", second_first)
    codes.append(train(changes=changes, env="CartPole-v1"))
    assert codes == [0, 0]
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "CartPole-v1-quick-changed-s0-1",
        "CartPole-v1-quick-changed-s0-2",
    ]


def test_unused_run_name_is_released(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConfigError("not today")

    monkeypatch.setattr(Agent, "learn", refuse)
    assert "not today" in complaint(capfd, train(env="CartPole-v1"))
    assert list(Path("runs").iterdir()) == []
    (Path("mine")).mkdir()  # but the user's own directory stays
    assert "not today" in complaint(capfd, train("--run-dir", "mine"))
    assert Path("mine").is_dir()


# -- runs without updates ----------------------------------------------------------------------


def test_run_without_updates_warns_before_and_after(capfd: Capture) -> None:
    assert train("--run-dir", "run", changes={"steps": 20, "evaluation.episodes": 1}) == 0
    err = capfd.readouterr().err
    reason = (
        "the warm-up of random actions takes 24 steps (training.warmup_steps), training ends at "
        "step 20"
    )
    assert err.index(f"warning: nothing will be learnt: {reason}") < err.index(
        f"warning: nothing was learnt: {reason}"
    )


def test_run_reports_its_time_split(capfd: Capture) -> None:
    assert train("--run-dir", "run") == 0
    *_, told, where = capfd.readouterr().out.splitlines()
    assert where == "run: run"
    assert told.startswith("time: ")
    assert told.endswith(" env steps/s")
    (entry,) = json.loads(Path("run/run.json").read_text())["starts"]
    split = entry["time_split"]
    assert f"; {split['steps_per_second']:.3g} env steps/s" in told
    largest = max(split["fractions"], key=split["fractions"].get)
    assert told.startswith(f"time: {largest.replace('_', ' ')} ")


def test_end_of_a_run_prints_the_next_commands(capfd: Capture) -> None:
    def named(*args: str, **changes: Any) -> list[str]:
        assert train(*args, changes={"steps": 30, "evaluation.episodes": 0, **changes}) == 0
        return [line for line in capfd.readouterr().err.splitlines() if line.startswith("next: ")]

    assert named("--run-dir", "my run") == ["next: drama eval 'my run'"]
    assert named("--run-dir", "b", **{"training.tensorboard": True}) == [
        "next: drama eval b",
        "next: tensorboard --logdir b/tensorboard",
    ]
    Path("suites/toy/base/Walk").mkdir(parents=True)
    Path("suites/toy/suite.json").write_text("{}")
    assert named("--run-dir", "suites/toy/base/Walk/seed-0") == [
        "next: drama eval suites/toy/base/Walk/seed-0",
        f"next: drama report {Path('suites/toy').resolve()}",
    ]


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "gru", "transformer", "elsewhere"])
def test_dynamics_selects_the_backbone(
    name: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including backbones of installed packages."""
    entry = importlib.metadata.EntryPoint(
        "elsewhere", "drama.dynamics.gru:GRUDynamics", "drama.dynamics"
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] * (group == entry.group))
    changes = {"steps": 28, "evaluation.episodes": 0}
    assert train("--dynamics", name, "--run-dir", "run", changes=changes) == 0
    assert f"parameters ({name})" in capfd.readouterr().err
    assert json_rows(Path("run/metrics.jsonl"))[-1]["step"] == 20
    agent = Agent.load("run")
    assert agent.config.world_model.dynamics.name == name
    kind = type(agent.world_model.dynamics).__name__.lower()
    assert kind == ("gru" if name == "elsewhere" else name) + "dynamics"
    assert isinstance(agent.world_model.dynamics, GRUDynamics) == (name in ("gru", "elsewhere"))
    # The same name is accepted at resume; another one is refused.
    args = ["train", "--resume", "run", "--steps", "30", "--dynamics"]
    other = "mamba1" if name == "mamba2" else "mamba2"
    line = complaint(capfd, main([*args, other]))
    assert f"world_model.dynamics.name={other} (the run has {name})" in line
    error = complaint(capfd, main([*args, "zzz"]))
    assert "gru" in error
    assert "elsewhere" in error
    assert main([*args, name]) == 0
    assert CheckpointDir(Path("run")).last().step == 30


def test_short_and_long_option_may_agree(capfd: Capture) -> None:
    args = ["--dynamics", "gru", "--world-model.dynamics.name", "gru", "--run-dir", "run"]
    assert train(*args, changes={"steps": 4, "evaluation.episodes": 0}) == 0
    assert "parameters (gru)" in capfd.readouterr().err
