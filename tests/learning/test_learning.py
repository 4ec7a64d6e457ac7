"""Scores that preset `quick` reaches on small tasks, every seed. Minutes each."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.learning.checks import CHECKS, score

CASES = [
    pytest.param(name, seed, id=f"{name}-{seed}")
    for name, check in CHECKS.items()
    for seed in check.seeds
]


@pytest.mark.learning
@pytest.mark.parametrize(("name", "seed"), CASES)
def test_quick_preset_learns(name: str, seed: int, tmp_path: Path) -> None:
    check = CHECKS[name]
    if check.env.startswith("MinAtar/"):
        pytest.importorskip("minatar", reason="MinAtar is not installed")
    assert score(check, seed, tmp_path / "run") >= check.least
