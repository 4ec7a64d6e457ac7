"""A long run uses no more memory, descriptors or threads than a short one.

The long campaign makes as many updates as the preset ``quick`` makes in eight hours of CPU time on
this machine, measured first; at the small size of the soak they take less than one hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.faults.count import Faults
from tests.faults.soak import MOST_GROWTH, excess, updates_in

ROOT = Path(__file__).parents[2]
HOURS = float(os.environ.get("DRAMA_SOAK_HOURS", "0"))
SHORT = 170
"""Updates of a soak of no hours."""


@pytest.mark.faults
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_long_run_uses_no_more_resources_than_a_short_one(tmp_path: Path, faults: Faults) -> None:
    updates = updates_in(HOURS) if HOURS else SHORT
    command = [sys.executable, "-m", "tests.faults.soak", str(tmp_path / "run"), str(updates)]
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    answer = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    samples = [json.loads(line) for line in answer.stdout.splitlines()]
    assert samples[-1]["updates"] >= updates
    bad = excess(samples)
    faults.check(not bad, "; ".join(bad), len(samples))


def made_up(**last: int) -> list[dict[str, int]]:
    samples = [
        {"updates": 100 * i, "resident": 300 * 2**20, "descriptors": 6, "threads": 1}
        for i in range(20)
    ]
    return [*samples[:16], *({**sample, **last} for sample in samples[16:])]


def test_growing_quantities_are_named() -> None:
    assert excess(made_up()) == []
    assert excess(made_up(resident=300 * 2**20 + MOST_GROWTH)) == []
    assert excess(made_up(resident=400 * 2**20)) == ["resident memory grew by 100 MiB"]
    assert excess(made_up(threads=2))[0] == "after 1600 updates 2 threads, not 1"
    assert len(excess(made_up(descriptors=7))) == 4
