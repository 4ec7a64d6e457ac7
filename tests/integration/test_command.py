"""The installed command in separate processes, with real signals at random moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import assert_same_run, json_rows, options, tiny

import drama
from drama import Agent
from drama.cli import main
from drama.training.checkpoint import CheckpointDir

ROOT = Path(__file__).parents[2]
CHANGES = {"steps": 240, "evaluation.episodes": 0, "training.checkpoint_every": 30}

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there"),
]


def command(*args: str, errors: Path) -> subprocess.Popen[bytes]:
    source = str(Path(drama.__file__).parents[1])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source, str(ROOT)]),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "80",
    }
    with errors.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "drama", *args],
            stdout=subprocess.DEVNULL,
            stderr=file,
            env=env,
            cwd=errors.parent,
        )


def wait_for_episodes(run: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not (run / "episodes.jsonl").exists() or len(json_rows_so_far(run)) < count:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, "it does not get on"
        time.sleep(0.02)


def json_rows_so_far(run: Path) -> list[str]:
    return (run / "episodes.jsonl").read_text().splitlines()


def test_interrupted_and_killed_run_resumes_bit_for_bit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, errors = tmp_path / "run", tmp_path / "stderr"
    args = ["train", "quick", "--env", env_id(Walk), *options(CHANGES), "--run-dir", str(run)]
    with command(*args, errors=errors) as process:
        wait_for_episodes(run, 8, process)
        # No other process may train there meanwhile.
        if (run / "checkpoints" / "last").exists():
            assert main(["train", "--resume", str(run)]) == 2
            assert f"in use by process {process.pid}" in capfd.readouterr().err
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    said = errors.read_text()
    assert "Traceback" not in said
    assert f"drama train --resume {run}" in said.replace("\n", "")
    saved = CheckpointDir(run).last().step
    assert 8 * 7 <= saved < 240

    with command("train", "--resume", str(run), errors=errors) as process:
        wait_for_episodes(run, saved // 7 + 5, process)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
    assert saved <= CheckpointDir(run).last().step < 240

    with command("train", "--resume", str(run), errors=errors) as process:
        assert process.wait(100) == 0, errors.read_text()
    Agent(config=tiny({**CHANGES, "env.id": env_id(Walk)})).learn(240, run_dir=tmp_path / "whole")
    assert_same_run(run, tmp_path / "whole", files=False)
    assert [row["step"] for row in json_rows(run / "metrics.jsonl")] == list(range(10, 241, 10))


def test_user_error_exits_with_code_2_and_one_line(tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    with command("train", "quik", errors=errors) as process:
        assert process.wait(60) == 2
    (line,) = errors.read_text().splitlines()
    assert line.startswith("drama: error: unknown preset 'quik'; did you mean quick?")
