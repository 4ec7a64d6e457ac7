"""Counts faults: ``pytest -p tests.faults.count -m faults`` ends with ``faults survived N of N``.

A test is one fault, unless it counts more with the fixture ``faults``. A skipped test is none. A
test that fails with all its counted faults survived adds one that was not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest


@dataclass
class Faults:
    """Faults that one test injected, and how many were survived."""

    total: int = 0
    failures: list[str] = field(default_factory=list)
    lost: int = 0

    def check(self, survived: bool, what: str, count: int = 1) -> None:
        """Count faults.

        Args:
            survived: Whether every requirement held.
            what: Description of the fault, reported if it was not survived.
            count: How many faults.
        """
        self.total += count
        if not survived:
            self.lost += count
            self.failures.append(what)


@pytest.fixture
def faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    """Count the faults of a test; fail at its end if one was not survived."""
    found = Faults()
    yield found
    request.node.user_properties.append(("faults", (found.total - found.lost, found.total)))
    if found.failures:
        shown = "\n".join(found.failures[:20])
        pytest.fail(f"{found.lost} of {found.total} faults were not survived:\n{shown}", False)


@dataclass
class _Test:
    counted: tuple[int, int] | None = None
    skipped: bool = False
    failed: bool = False

    def result(self) -> tuple[int, int]:
        """Return the number of survived faults and of all faults."""
        survived, total = self.counted or ((0, 0) if self.skipped else (1, 1))
        if not self.failed:
            return survived, total
        if self.counted is None:
            return 0, 1
        return (survived, total + 1) if survived == total else (survived, total)


_tests: dict[str, _Test] = {}
_broken_files: set[str] = set()


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Count a file that cannot be collected."""
    if report.failed:
        _broken_files.add(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record the outcome of one phase of a test."""
    test = _tests.setdefault(report.nodeid, _Test())
    test.skipped |= report.skipped
    test.failed |= report.failed
    for name, value in report.user_properties:
        if name == "faults":
            test.counted = value


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the summary line."""
    results = [test.result() for test in _tests.values()]
    survived = sum(result[0] for result in results)
    total = sum(result[1] for result in results) + len(_broken_files)
    terminalreporter.write_line(f"faults survived {survived} of {total}")
