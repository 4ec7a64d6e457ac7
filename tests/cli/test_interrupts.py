"""Training that fails or is interrupted: exit codes, messages, what is saved."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.commands import WALK, Capture, complaint, train
from tests.training.faulty_envs import Crash, NanReward, Walk, WildObs, env_id
from tests.training.runs import assert_same_run, options, tiny

from drama import Agent
from drama.cli import main
from drama.evaluation import EvaluationResult
from drama.training.checkpoint import CheckpointDir
from drama.training.checkpointer import Checkpointer
from drama.training.stream import EnvStream
from drama.training.trainer import Trainer


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_ctrl_c_keeps_the_progress_line_intact() -> None:
    import pty

    ours, theirs = pty.openpty()
    args = [*options({"steps": 1_000_000}), "--run-dir", "run"]
    child = subprocess.Popen(
        [sys.executable, "-m", "drama", "train", "quick", "--env", "drama/Catch-v0", *args],
        stdout=theirs,
        stderr=theirs,
        env={
            **os.environ,
            "TERM": "xterm",
            "COLUMNS": "150",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
    )
    os.close(theirs)
    said, asked = b"", False
    try:
        while True:
            said += os.read(ours, 65536)
            if not asked and b"steps/s" in said:
                child.send_signal(signal.SIGINT)
                asked = True
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 130
    (before,) = re.findall(rb"(.{0,4})stopping after the current step", said, re.DOTALL)
    assert before.endswith((b"\n", b"\r", b"\x1b[2K", b"\x1b[0m")), said


@pytest.mark.faults
def test_full_disk_at_a_checkpoint_is_reported_in_one_line(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = pytest.importorskip("resource")
    # A file size limit simulates a full disk; its signal would end the process.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = Checkpointer.save

    def tight(checkpointer: Checkpointer, step: int, logs: dict[str, int]) -> Path:
        if step == 40:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
        return save(checkpointer, step, logs)

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Checkpointer, "save", tight)
            code = train("--run-dir", "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    line = complaint(capfd, code)
    assert line.endswith(".safetensors: File too large")
    assert CheckpointDir(Path("run")).last().step == 20
    assert main(["train", "--resume", "run", "--steps", "45"]) == 0


@pytest.mark.parametrize("kind", [NanReward, WildObs])
def test_faulty_environment_is_reported_in_one_line_and_training_is_kept(
    kind: type[Walk], capfd: Capture
) -> None:
    code = train("--run-dir", "run", env=env_id(kind))
    line = complaint(capfd, code)
    assert kind.__name__ in line
    assert "47" in line
    assert CheckpointDir(Path("run")).last().step == 46


def test_exception_of_the_environment_is_shown_with_its_traceback(capfd: Capture) -> None:
    """It is not a usage error: the author of the environment needs the traceback."""
    with pytest.raises(ZeroDivisionError):
        train("--run-dir", "run", env=env_id(Crash))
    assert CheckpointDir(Path("run")).last().step == 46


def test_nan_ends_with_code_1(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from drama.world_model import WorldModel

    original, calls = WorldModel.loss, 0

    def loss(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        value, metrics = original(*args, **kwargs)
        return (value * float("nan"), metrics) if calls == 10 else (value, metrics)

    monkeypatch.setattr(WorldModel, "loss", loss)
    line = complaint(capfd, train("--run-dir", "run"), expected=1)
    assert "NaN" in line
    assert "000000040" in line
    assert CheckpointDir(Path("run")).last().step == 40


def interrupt(at: int, times: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    original = EnvStream.step

    def step(stream: EnvStream, action: int) -> Any:
        if len(stream.actions) == at:
            for _ in range(times):
                signal.raise_signal(number)
        return original(stream, action)

    monkeypatch.setattr(EnvStream, "step", step)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_saved_and_resumes(
    number: int, capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        interrupt(32, 1, number, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert "saved at step 33" in err
    assert "drama train --resume run" in err
    assert CheckpointDir(Path("run")).last().step == 33
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert main(["train", "--resume", "run"]) == 0
    (Path("run") / "eval.json").unlink()
    Agent(WALK, tiny({"env.id": WALK})).learn(60, run_dir=tmp_path / "whole")
    assert_same_run(Path("run"), tmp_path / "whole", files=False)


def test_second_interrupt_aborts_at_once(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(32, 2, signal.SIGINT, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "stopped without saving" in err
    assert "Traceback" not in err
    assert CheckpointDir(Path("run")).last().step == 20
    assert main(["train", "--resume", "run"]) == 0
    assert CheckpointDir(Path("run")).last().step == 60


def test_interrupt_in_the_last_step_prints_the_eval_command(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(59, 1, signal.SIGINT, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "saved at step 60; all steps are done; evaluate with: drama eval run" in err
    assert "--resume" not in err
    assert main(["eval", "run", "--episodes", "1"]) == 0


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("before", "stopped without saving; continue from step 40 with: drama train --resume run"),
        ("after", "stopped without saving; all steps are done; evaluate with: drama eval run"),
    ],
)
def test_abort_at_the_last_save_reports_the_last_checkpoint(
    moment: str, words: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Trainer.save

    def twice(trainer: Trainer) -> None:
        if moment == "after":
            save(trainer)
        if trainer.step == 60:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        save(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", twice)
        assert train("--run-dir", "run") == 130
    assert words in capfd.readouterr().err
    command = words.partition("drama ")[2].split()
    assert main(command) == 0


def test_abort_before_the_first_checkpoint_reports_none(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(5, 2, signal.SIGINT, patch)
        assert train("--run-dir", "run") == 130
    err = capfd.readouterr().err
    assert "stopped without saving; run has no checkpoint to continue from" in err
    assert "--resume" not in err
    assert "holds no checkpoint" in complaint(capfd, main(["train", "--resume", "run"]))


def test_interrupt_before_the_first_step(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(0, 1, signal.SIGINT, monkeypatch)
    assert train("--run-dir", "run") == 130
    assert "saved at step 1" in capfd.readouterr().err
    assert CheckpointDir(Path("run")).last().step == 1


def test_an_interrupted_evaluation_leaves_a_finished_run(
    run: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> EvaluationResult:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the signal came to nothing")

    monkeypatch.setattr(Agent, "evaluate", stop)
    assert train("--run-dir", "run") == 130
    assert CheckpointDir(Path("run")).last().step == 60
    assert main(["eval", str(run)]) == 130
    err = capfd.readouterr().err
    assert "Traceback" not in err
    assert not (run / "eval.json").exists()


def test_interrupt_during_construction(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Agent, "__init__", stop)
    assert train("--run-dir", "run") == 130
    assert "Traceback" not in capfd.readouterr().err
