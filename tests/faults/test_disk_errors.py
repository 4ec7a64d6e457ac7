"""A disk error or a process limit ends a run with one line that names a path; it can resume."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.faults.count import Faults
from tests.faults.disk import CODES
from tests.faults.test_kills import SEED, is_complete, start_or_resume
from tests.training.conftest import Forks
from tests.training.runs import STEPS, assert_same_run

pytestmark = pytest.mark.faults

ERRORS = int(os.environ.get("DRAMA_DISK_ERRORS", "3"))
"""Injected errors; the long campaign uses more than a hundred."""
CASE: dict[str, Any] = {
    "env": "drama/Catch-v0",
    "config": {"training.keep_checkpoints": 1},
    "steps": STEPS,
}


def faulty(rng: random.Random, number: int) -> tuple[Any, ...]:
    """Sample a fault: mostly one disk operation, every fourth one a process limit."""
    if number % 4 == 1:
        return ("FSIZE", rng.choice((0, 100, 3000, 20_000, 300_000, rng.randint(0, 800_000))))
    if number % 8 == 3:
        return ("NOFILE", rng.randint(0, 4))
    return ("disk", rng.randint(1, 90), rng.choice(CODES))


def lost(answer: dict[str, Any]) -> str | None:
    """Describe the defect of a faulty run's error; None if there is none."""
    error: str = answer["error"]
    if "\n" in error or not re.search(r"(?<!\w)/\w+/", error):
        return f"not one line that names a path: {error}"
    return None


def test_disk_error_names_its_path_and_keeps_the_checkpoint(
    forks: Forks, tmp_path: Path, faults: Faults
) -> None:
    assert forks("train", tmp_path / "whole", **CASE) == {"killed": False, "error": ""}
    number = 0
    while faults.total < ERRORS:
        run, fault = tmp_path / "run", faulty(random.Random(f"{number} {SEED}"), number)
        number += 1
        assert number < 10 * ERRORS
        answer = forks("train", run, **CASE, fault=fault)
        if answer["error"]:  # otherwise it was tolerated, or came after the end
            try:
                wrong = lost(answer)
                assert wrong is None, wrong
                if run.exists() and not is_complete(run):
                    answer = start_or_resume(forks, run, CASE, {})
                    assert answer == {"killed": False, "error": ""}, answer
                    assert_same_run(run, tmp_path / "whole")
                elif run.exists():
                    assert_same_run(run, tmp_path / "whole", files=False)
            except AssertionError as error:
                faults.check(False, f"{fault}: {error}")
            else:
                faults.check(True, "")
        shutil.rmtree(run, ignore_errors=True)
