"""The summary line of the campaign counts correctly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

def test_one(): pass

def test_many(faults): faults.check(True, "", 40)

@pytest.mark.skipif(True, reason="not here")
def test_none(faults): faults.check(True, "", 500)

def test_no_fault_happened(faults): pass
"""
BAD = """
def test_one_fails(): assert False

def test_two_of_ten(faults):
    for i in range(10): faults.check(i not in (3, 4), f"fault {i}")

def test_breaks_after_three(faults):
    faults.check(True, "", 3)
    raise ValueError
"""


def campaign(directory: Path, **files: str) -> tuple[int, str]:
    for name, text in files.items():
        (directory / f"test_{name}.py").write_text(text)
    (directory / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.faults.count"]
    answer = subprocess.run(
        [*command, "-p", "no:cacheprovider", "--rootdir", str(directory), str(directory)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    [line] = [line for line in answer.stdout.splitlines() if line.startswith("faults survived")]
    return answer.returncode, line


def test_survived_faults_are_counted(tmp_path: Path) -> None:
    assert campaign(tmp_path, good=TESTS) == (0, "faults survived 41 of 41")


def test_faults_not_survived_are_listed_and_fail(tmp_path: Path) -> None:
    # 1 + 40 survived; 0 of 1; 8 of 10; 3 of 4; one file that cannot be read.
    code, line = campaign(tmp_path, good=TESTS, bad=BAD, broken="import nothing_like_this")
    assert code != 0
    assert line == "faults survived 0 of 1"  # no test runs if a file cannot be collected
    (tmp_path / "test_broken.py").unlink()
    code, line = campaign(tmp_path)
    assert code != 0
    assert line == "faults survived 52 of 56"
