"""Resources of a suite on one machine, and settings of its processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.suite.suites import WALK, tiny_spec, tiny_variant

import drama
from drama.cli import child
from drama.errors import ConfigError, RunDirError
from drama.suite import local, process
from drama.suite.layout import Cell, scan
from drama.suite.local import LocalPool, Plan, SuiteLock, plan
from drama.suite.process import arguments

GB = 10**9


def cells(count: int, **changes: Any) -> list[Cell]:
    changes = {"training.threads": 0, **changes}
    spec = tiny_spec(seeds=range(count), variants=(tiny_variant("one", changes),))
    return scan(Path("nowhere"), spec)


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 8)
    monkeypatch.setattr(local, "available_bytes", lambda device: 64 * GB)


def gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        local, "pick_device", lambda name: torch.device(name.replace("auto", "cuda"))
    )
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("runs", "jobs", "expected"),
    [
        (20, None, Plan((), 8, 1)),
        (3, None, Plan((), 3, 2)),
        (20, 3, Plan((), 3, 2)),
        (20, 16, Plan((), 16, 1)),
        (1, None, Plan((), 1, 8)),
    ],
)
def test_cores_are_divided_among_runs(runs: int, jobs: int | None, expected: Plan) -> None:
    assert plan(cells(runs), jobs) == expected


def test_given_number_of_threads_is_reported() -> None:
    assert plan(cells(3, **{"training.threads": 1})) == Plan((), 3, 1)


def test_memory_limits_the_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    # 3 x 64 x 64 bytes a row, 100 000 rows: 1.23 GB. 4 x 8 frames, halved by the first convolution,
    # with 8 channels: 36 x 32 x 32 x 32 x 8 bytes, 9 MB. 0.6 GB on top.
    many = cells(20, **{"replay.capacity": 100_000})
    assert local._run_bytes(many[0].config) == 1_228_800_000 + 9_437_184 + 600_000_000
    monkeypatch.setattr(local, "available_bytes", lambda device: 10 * GB)
    assert plan(many).jobs == 5
    monkeypatch.setattr(local, "available_bytes", lambda device: 1 * GB)
    assert plan(many).jobs == 1
    monkeypatch.setattr(local, "available_bytes", lambda device: None)
    assert plan(many).jobs == 8


def test_several_runs_share_each_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(2, monkeypatch)
    many = cells(20, device="auto")
    assert plan(many) == Plan(("0", "1"), 2, 4)
    assert plan(many, None, 3) == Plan(("0", "1", "0", "1", "0", "1"), 6, 1)
    assert plan(many, 3) == Plan(("0", "1", "0"), 3, 2)
    assert plan(cells(1, device="auto"), None, 3) == Plan(("0",), 1, 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 7")
    assert plan(many).gpus == ("5", "7")
    assert plan(many).describe() == "2 runs in parallel, 4 threads each, on GPU 5, 7"
    for named, seen in (("3,-1,4", ("3",)), ("GPU-a, 1", ("GPU-a", "1"))):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert plan(many).gpus == seen
    # A device number selects the same GPU in the parent and the child.
    assert plan(cells(20, device="cuda:1")) == Plan((), 2, 4)


def test_invalid_numbers_are_refused() -> None:
    for jobs, per_gpu, words in ((0, None, "--jobs"), (None, 0, "--per-gpu"), (None, 2, "CUDA")):
        with pytest.raises(ConfigError, match=words):
            plan(cells(2), jobs, per_gpu)


def test_each_process_gets_its_gpu_and_its_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[list[str], dict[str, str]]] = []

    class Popen:
        pid = 7

        def __init__(self, args: list[str], env: dict[str, str], **_: Any) -> None:
            made.append((args, env))
            self.code: int | None = None

        def poll(self) -> int | None:
            return self.code

    monkeypatch.setattr(process.subprocess, "Popen", Popen)
    first, second, third = scan(
        tmp_path,
        tiny_spec(seeds=(0, 1, 2), variants=(tiny_variant("one", {"training.threads": 0}),)),
    )
    pool = LocalPool(Plan(("4", "6"), 2, 3))
    pool.start(first)
    assert pool.has_capacity()
    pool.start(second)
    assert not pool.has_capacity()
    pool._slots[1].process.code = 0  # type: ignore[union-attr]
    assert pool.has_capacity()
    pool.start(third)
    assert [env["CUDA_VISIBLE_DEVICES"] for _, env in made] == ["4", "6", "6"]
    assert {env["OMP_NUM_THREADS"] for _, env in made} == {"3"}
    args = made[0][0]
    assert args[:3] == [sys.executable, "-m", "drama.cli.child"]
    assert args[4:9] == ["train", "quick", "--env", WALK, f"--run-dir={first.path}"]
    assert "--training.threads=3" in args
    assert first.log.read_text().startswith("--- 2")
    # The preset of these tests uses one thread, for the evaluation too.
    (chosen,) = scan(tmp_path, tiny_spec())
    process.RunProcess(chosen, 3)
    assert made[-1][1]["OMP_NUM_THREADS"] == "1"


def test_given_number_of_threads_is_kept() -> None:
    (cell,) = cells(1, **{"training.threads": 5})
    assert "--training.threads=5" in arguments(cell, 3)
    assert "--training.threads=3" not in arguments(cell, 3)
    assert "--training.threads=3" in arguments(cells(1)[0], 3)


def test_run_ends_as_on_sigterm_when_its_parent_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([70, 70, 1])
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr(child, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(child.os, "getppid", lambda: next(parents))
    monkeypatch.setattr(child.os, "kill", lambda *what: killed.append(what))
    child._watch(70)
    assert killed == [(os.getpid(), signal.SIGTERM)]
    assert list(parents) == []


def test_process_of_a_run_is_the_drama_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert child.main([str(os.getppid()), "--version"]) == 0
    assert capfd.readouterr().out == f"drama {drama.__version__}\n"


def test_two_processes_do_not_share_a_suite(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with (
        SuiteLock(tmp_path),
        pytest.raises(RunDirError, match=r"process \d+ already runs suite"),
        SuiteLock(tmp_path),
    ):
        pytest.fail("it was let in")
    (tmp_path / ".lock").write_text("12345")  # the remains of a SIGKILL
    with SuiteLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_suite_that_cannot_be_locked_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunDirError, match=r"^cannot lock .*: \.lock: "):
        SuiteLock(tmp_path).__enter__()
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match=r"^cannot make suite .*file"):
        SuiteLock(tmp_path / "file" / "suite").__enter__()
