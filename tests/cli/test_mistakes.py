"""A user's mistake is one line and exit code 2, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.commands import Capture, complaint, train
from tests.training.runs import contents

from drama.cli import main
from drama.training.rundir import RunLock
from drama.training.stream import EnvStream

# -- invalid arguments -------------------------------------------------------------------------


TYPOS: dict[str, tuple[list[str], list[str]]] = {
    "command": (["trian"], ["'trian'", "train"]),
    "preset": (["train", "quik"], ["'quik'", "quick"]),
    "two spellings": (["train", "quick", "--preset", "xs"], ["PRESET quick", "--preset xs"]),
    "preset by option": (["train", "--preset", "quik"], ["'quik'", "did you mean quick?"]),
    "resume with preset by option": (["train", "--resume", "x", "--preset", "s"], ["--resume"]),
    "resume with config": (["train", "--resume", "x", "--config", "y"], ["--resume"]),
    "no such command": (["zzz"], ["'zzz'; choose from train, eval, "]),
    "no such preset": (["train", "zzz"], ["'zzz'; there are quick, "]),
    "preset after options": (["train", "--seed", "1", "quick"], ["quick"]),
    "two presets": (["train", "quick", "xs"], ["xs"]),
    "environment": (["train", "quick", "--env", "drama/Cacth-v0"], ["drama/Catch-v0"]),
    "environment by field": (["train", "quick", "--env.id", "CartPol-v1"], ["CartPole-v1"]),
    "environment's module": (["train", "quick", "--env", "nothere:A-v0"], ["'nothere'"]),
    "unsupported environment": (["train", "quick", "--env", "Pendulum-v1"], ["Discrete"]),
    "option": (["train", "quick", "--training.precison", "x"], ["--training.precision"]),
    "section": (["train", "quick", "--trainin.precision", "x"], ["--training.precision"]),
    "option of one word": (["train", "quick", "--dynamcis", "gru"], ["did you mean --dynamics?"]),
    "field of one word": (["train", "quick", "--stepz=5"], ["--stepz", "did you mean --steps?"]),
    "integer": (["train", "quick", "--steps", "many"], ["--steps", "'many'"]),
    "fraction": (["train", "quick", "--steps", "1.5"], ["--steps", "1.5"]),
    "range": (["train", "quick", "--steps", "0"], ["steps", "positive", "0"]),
    "negative seed": (["train", "quick", "--seed", "-1"], ["seed", "-1"]),
    "huge seed": (["train", "quick", "--seed", "9" * 25], ["seed"]),
    "probability": (["train", "quick", "--env.sticky-actions", "2"], ["sticky_actions", "2"]),
    "choice": (["train", "quick", "--replay.sampler", "best"], ["best", "dfs"]),
    "nan": (["train", "quick", "--behaviour.entropy", "nan"], ["entropy", "nan"]),
    "inf": (["train", "quick", "--world-model.optim.lr", "inf"], ["lr", "inf"]),
    "evaluation seed": (["train", "quick", "--evaluation.seed", "-3"], ["seed", "-3"]),
    "contradiction": (["train", "quick", "--replay.capacity", "3"], ["capacity", "window"]),
    "sizes": (["train", "quick", "--world-model.dynamics.headdim", "48"], ["headdim"]),
    "backbone": (
        ["train", "quick", "--world-model.dynamics.name", "mamba3"],
        ["did you mean mamba"],
    ),
    "dynamics": (
        ["train", "quick", "--dynamics", "mamba3"],
        ["'mamba3'", "did you mean mamba", "mamba2, mamba1, ", ", gru"],
    ),
    "dynamics without a name": (["train", "quick", "--dynamics"], ["--dynamics"]),
    "empty dynamics": (["train", "quick", "--dynamics", ""], ["there are mamba2, mamba1, "]),
    "dynamics twice": (
        ["train", "quick", "--dynamics", "mamba1", "--world-model.dynamics.name", "gru"],
        ["--dynamics mamba1", "--world-model.dynamics.name gru"],
    ),
    "dynamics and sizes": (
        ["train", "quick", "--dynamics", "transformer", "--world-model.dynamics.num-heads", "7"],
        ["num_heads"],
    ),
    "backend": (["train", "quick", "--world-model.dynamics.backend", "cuda"], ["kernels"]),
    "backend that is not there": (
        ["train", "quick", "--world-model.dynamics.backend", "kernels"],
        ["backend 'kernels' cannot be used", "tensors are on the CPU"],
    ),
    "device": (["train", "quick", "--device", "tpu"], ["'tpu'", "cpu, cuda or mps"]),
    "no value": (["train", "quick", "--env"], ["--env"]),
    "no directory": (["train", "quick", "--run-dir"], ["--run-dir"]),
    "empty directory": (["train", "quick", "--run-dir", ""], ["run-dir"]),
    "empty preset": (["train", ""], ["preset"]),
    "too long a directory": (["train", "quick", "--run-dir", "x" * 300], ["run directory"]),
    "a file in the way": (["train", "quick", "--run-dir", "/dev/null/x"], ["/dev/null/x"]),
    "resume nothing": (["train", "--resume", "nowhere"], ["nowhere"]),
    "resume with preset": (["train", "quick", "--resume", "x"], ["--resume"]),
    "resume with run dir": (["train", "--resume", "x", "--run-dir", "y"], ["--resume"]),
    "eval nothing": (["eval", "nowhere"], ["nowhere"]),
    "eval no argument": (["eval"], ["DIR"]),
    "eval episodes": (["eval", ".", "--episodes", "0"], ["--episodes", "at least 1"]),
    "eval mode": (["eval", ".", "--mode", "best"], ["best", "greedy"]),
    "doctor steps": (["doctor", "--steps", "0"], ["--steps"]),
    "doctor preset": (["doctor", "--preset", "quik"], ["'quik'", "did you mean quick"]),
    "doctor device": (["doctor", "--device", "tpu"], ["'tpu'", "cpu, cuda or mps"]),
    "doctor seconds": (["doctor", "--seconds", "0"], ["--seconds", "positive"]),
    "doctor no seconds": (["doctor", "--seconds", "nan"], ["--seconds", "positive"]),
    "doctor environment": (["doctor", "--env", "drama/Cacth-v0"], ["drama/Catch-v0"]),
}


@pytest.mark.parametrize("case", TYPOS)
def test_user_error_is_reported_in_one_line(
    case: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("training began all the same")

    monkeypatch.setattr(EnvStream, "step", refuse)
    args, words = TYPOS[case]
    if args[0] == "train" and "--device" not in args:
        args = [*args, "--device", "cpu"]
    line = complaint(capfd, main(args))
    for word in words:
        assert word in line
    assert not list(Path().iterdir()), "something was left behind"


def test_hint_names_one_option(capfd: Capture) -> None:
    line = complaint(capfd, main(["train", "quick", "--training.compil", "auto"]))
    assert line.endswith("did you mean --training.compile?")


def test_os_error_is_reported_in_one_line(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from drama.cli import app

    for error, words in (
        (OSError(28, "No space left on device", "x/y"), "x/y: No space left on device"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("odd"), "odd"),
    ):

        def refuse(args: list[str], error: OSError = error) -> int:
            raise error

        monkeypatch.setitem(app.COMMANDS, "doctor", app.Command(refuse, ""))
        assert complaint(capfd, main(["doctor"])) == f"drama: error: {words}"


def test_replay_larger_than_the_memory_is_refused(capfd: Capture) -> None:
    line = complaint(capfd, main(["train", "quick", "--replay.capacity", str(10**14)]))
    assert "replay.capacity" in line or "memory" in line


def test_too_short_warm_up_is_refused_at_once(capfd: Capture) -> None:
    code = train("--run-dir", "run", changes={"training.warmup_steps": 3, "steps": 40})
    assert "warmup" in complaint(capfd, code)


# -- directories -------------------------------------------------------------------------------


def test_existing_run_directory_is_unchanged(run: Path, capfd: Capture) -> None:
    before = contents(run)
    line = complaint(capfd, train("--run-dir", str(run)))
    assert f"--resume {run}" in line
    assert contents(run) == before


def test_run_directory_in_use_is_unchanged(run: Path, capfd: Capture) -> None:
    pytest.importorskip("fcntl")
    lock = RunLock(run)
    lock.acquire()
    before = contents(run)
    line = complaint(capfd, main(["train", "--resume", str(run), "--steps", "60"]))
    assert "in use by process" in line
    assert contents(run) == before
    lock.release()


def test_damaged_checkpoint_is_unchanged(run: Path, capfd: Capture) -> None:
    for name in ("model", "optimiser", "loop"):
        path = run / "checkpoints" / "000000040" / f"{name}.safetensors"
        sound = path.read_bytes()
        path.write_bytes(sound[:-1])
        before = contents(run)
        line = complaint(capfd, main(["train", "--resume", str(run), "--steps", "60"]))
        assert "damaged" in line
        assert path.name in line
        assert contents(run) == before
        path.write_bytes(sound)
