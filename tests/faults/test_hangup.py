"""Closing the terminal ends a run as SIGTERM does: saved at its current step."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.training.runs import json_rows, options

from drama.training.checkpoint import CheckpointDir

pytestmark = pytest.mark.faults

ENDLESS = {"steps": 100_000, "training.checkpoint_every": 100_000, "evaluation.episodes": 0}


def wait_for(run: Path) -> None:
    """Wait until a run has written metrics."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (run / "metrics.jsonl").is_file() and json_rows(run / "metrics.jsonl"):
            return
        time.sleep(0.1)
    raise AssertionError("the run has written nothing")


def start(run: Path, before: tuple[str, ...] = (), **how: object) -> subprocess.Popen[bytes]:
    args = ["-m", "drama", "train", "quick", "--env", "drama/Catch-v0", f"--run-dir={run}"]
    command = [*before, sys.executable, *args, *options(ENDLESS)]
    return subprocess.Popen(command, cwd=run.parent, **how)  # type: ignore[call-overload,no-any-return]


def test_a_closed_terminal_saves_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ours, theirs = pty.openpty()

    def own_the_terminal() -> None:
        import fcntl
        import termios

        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = start(run, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_the_terminal)
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        wait_for(run)
        os.close(ours)  # the kernel sends SIGHUP to the session of the terminal
        assert process.wait(timeout=120) == 130
    finally:
        process.kill()
        process.wait()
    assert CheckpointDir(run).last().step > 0


def test_run_under_nohup_continues_after_hangup(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(
        run,
        ("nohup",),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(run)
    process.send_signal(signal.SIGHUP)
    rows = len(json_rows(run / "metrics.jsonl"))
    deadline = time.monotonic() + 120
    while len(json_rows(run / "metrics.jsonl")) < rows + 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 130
