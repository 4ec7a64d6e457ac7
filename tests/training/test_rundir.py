"""Run directories: numbered, never overwritten, never shared by two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import contents, tiny

from drama import Agent
from drama.errors import CheckpointError, RunDirError
from drama.files import read_tensors
from drama.training.rundir import RunLock, create_run_dir, fresh_run_dir


def test_numbering_uses_the_first_free_number(tmp_path: Path) -> None:
    first = fresh_run_dir(tmp_path, "ALE/Pong-v5", "xs", 3)
    assert first == tmp_path / "Pong-v5-xs-s3-1"
    assert list(first.iterdir()) == []
    create_run_dir(first)  # its creator may use it
    assert fresh_run_dir(tmp_path, "ALE/Pong-v5", "xs", 3).name == "Pong-v5-xs-s3-2"
    assert fresh_run_dir(tmp_path, "ALE/Pong-v5", "xs", 4).name == "Pong-v5-xs-s4-1"
    assert (
        fresh_run_dir(tmp_path, "my.module:Env_(1)-v0", "s", 0).name == "my-module-Env-1-v0-s-s0-1"
    )


def test_label_becomes_a_portable_file_name(tmp_path: Path) -> None:
    for label, name in (("quick*", "quick-changed"), ("a/b: c", "a-b-c"), ("v1.2_x", "v1.2_x")):
        assert fresh_run_dir(tmp_path, "A-v0", label, 0) == tmp_path / f"A-v0-{name}-s0-1"


def test_no_two_processes_choose_the_same_name(tmp_path: Path) -> None:
    """Neither checks before the other has created its directory."""
    with ThreadPoolExecutor(8) as pool:
        together = Barrier(8)

        def choose(_: int) -> Path:
            together.wait()
            return fresh_run_dir(tmp_path / "runs", "ALE/Pong-v5", "xs", 3)

        names = sorted(path.name for path in pool.map(choose, range(8)))
    assert names == [f"Pong-v5-xs-s3-{n}" for n in range(1, 9)]


def test_name_is_refused_if_no_directory_can_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(RunDirError, match="cannot make run directory"):
            fresh_run_dir(root, "ALE/Pong-v5", "xs", 3)


def test_an_empty_directory_may_be_used(tmp_path: Path) -> None:
    create_run_dir(tmp_path / "a" / "b")
    create_run_dir(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "x").write_text("mine")
    with pytest.raises(RunDirError, match="exists already; choose another"):
        create_run_dir(tmp_path / "a" / "b")
    with pytest.raises(RunDirError, match="exists already"):
        create_run_dir(tmp_path / "a" / "b" / "x")
    with pytest.raises(RunDirError, match="cannot make"):
        create_run_dir(tmp_path / "a" / "b" / "x" / "y")


def test_name_too_long_for_the_file_system_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="cannot"):
        create_run_dir(tmp_path / ("x" * 300))


def test_a_lock_excludes_others_until_released(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    with pytest.raises(RunDirError, match=r"in use by process \d+"):
        second.acquire()
    first.release()
    first.release()  # releasing twice is allowed
    second.acquire()
    second.release()


def test_lock_is_released_when_its_process_ends(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys, time; from pathlib import Path; from drama.training.rundir import RunLock\n"
        "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True)\n"
        "time.sleep(60)"
    )
    args = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RunDirError, match=f"in use by process {other.pid}"):
            RunLock(tmp_path).acquire()
        other.kill()
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.release()


def test_lock_released_during_acquisition_still_excludes_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process releases between another's open and lock."""
    fcntl = pytest.importorskip("fcntl")
    first, second, third = RunLock(tmp_path), RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    flock = fcntl.flock

    def late(*args: Any) -> Any:
        monkeypatch.setattr(fcntl, "flock", flock)
        first.release()
        return flock(*args)

    monkeypatch.setattr(fcntl, "flock", late)
    second.acquire()
    try:
        with pytest.raises(RunDirError, match="in use"):
            third.acquire()
    finally:
        second.release()
        third.release()


def test_directory_in_use_is_unchanged(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    run = tmp_path / "run"
    Agent(env_id(Walk), tiny()).learn(25, run_dir=run)
    lock = RunLock(run)
    lock.acquire()
    before = contents(run)
    agent = Agent.load(run)
    with pytest.raises(RunDirError, match="in use"):
        agent.learn(5)
    assert contents(run) == before
    lock.release()
    assert agent.learn(5).num_timesteps == 30


def test_run_directory_cannot_change_during_training(tmp_path: Path) -> None:
    agent = Agent(env_id(Walk), tiny()).learn(5, run_dir=tmp_path / "a")
    agent.learn(5, run_dir=tmp_path / "a")  # the same directory is no change
    with pytest.raises(RunDirError, match="cannot move"):
        agent.learn(5, run_dir=tmp_path / "b")
    assert not (tmp_path / "b").exists()
    in_memory = Agent(env_id(Walk), tiny()).learn(5)
    with pytest.raises(RunDirError, match="in memory"):
        in_memory.learn(5, run_dir=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_failing_lock_is_not_reported_as_in_use(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    (tmp_path / ".lock").mkdir()
    with pytest.raises(RunDirError, match=r"^cannot lock .*: \.lock: Is a directory$"):
        RunLock(tmp_path).acquire()
    (tmp_path / ".lock").rmdir()
    with pytest.raises(RunDirError, match=r"^cannot lock .*: \.lock: No such file"):
        RunLock(tmp_path / "nowhere").acquire()


@pytest.mark.faults
def test_run_in_a_non_utf8_path_resumes(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    Agent(env_id(Walk), tiny()).learn(40, run_dir=path)
    agent = Agent.load(path)
    assert agent.evaluate(1).episodes
    assert agent.learn(5).num_timesteps == 45
    weights = path / "checkpoints" / "000000045" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="damaged"):
        read_tensors(weights)
