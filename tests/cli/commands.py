"""Run the command line under test and read its one-line errors."""

from __future__ import annotations

from typing import Any

import pytest
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import options

from drama.cli import main

WALK = env_id(Walk)
Capture = pytest.CaptureFixture[str]


def train(*args: str, changes: dict[str, Any] | None = None, env: str = WALK) -> int:
    return main(["train", "quick", "--env", env, *options(changes), *args])


def complaint(capfd: Capture, code: int, expected: int = 2) -> str:
    """The one line on standard error that begins with ``drama: error:``; it is the last."""
    captured = capfd.readouterr()
    assert code == expected, captured.err
    lines = captured.err.strip().splitlines()
    assert "Traceback" not in captured.err
    assert [line.startswith("drama: error: ") for line in lines].count(True) == 1, captured.err
    assert lines[-1].startswith("drama: error: ")
    return lines[-1]
