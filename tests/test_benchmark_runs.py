"""``benchmarks/runs.py`` against hand-computed values."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import tiny

from drama.training.clock import PHASES, TimeSplit

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import runs  # noqa: E402


def row(step: int, steps: int, seconds: dict[str, float]) -> dict[str, Any]:
    return {"step": step, **TimeSplit(seconds, steps).row()}


def test_rows_before_the_first_update_are_left_out() -> None:
    rows = [
        row(100, 100, {"env": 1.0}),
        row(200, 100, {"env": 1.0, "world_model": 50.0}),  # begins before step 150
        row(300, 100, {"env": 1.0, "world_model": 150.0, "other": 49.0}),
        row(400, 100, {"env": 3.0, "world_model": 250.0, "other": 47.0}),
    ]
    found = runs.after_warmup(rows, warmup=150)
    assert found["env_steps_per_second"] == pytest.approx(200 / 500, rel=1e-3)
    assert found["env"] == pytest.approx(4 / 200, rel=1e-3)
    assert found["world_model"] == pytest.approx(400 / 200, rel=1e-3)
    assert found["imagination"] == 0.0
    assert set(found) == {"env_steps_per_second", *PHASES}
    assert runs.after_warmup(rows, warmup=100)["world_model"] == pytest.approx(450 / 300, rel=1e-3)


def test_both_trainers_make_the_same_updates() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(runs.presets.PRESETS, "tiny", tiny)
        found = runs.in_turn("tiny", "drama/Catch-v0", rounds=2)
    assert set(found) == {"doctor", "training"}
    for seconds in found.values():
        assert list(seconds) == ["env", "acting", "world_model", "imagination", "behaviour"]
        assert min(seconds.values()) > 0


def test_published_block_matches_the_published_numbers() -> None:
    docs = ROOT / "docs"
    text = runs.markdown(json.loads((docs / "assets/performance/runs.json").read_text()))
    assert f"<!-- begin runs -->\n{text}\n<!-- end runs -->" in (docs / "runs.md").read_text()


def test_only_model_updates_take_more_than_5_percent() -> None:
    """As stated on the page."""
    result = json.loads((ROOT / "docs/assets/performance/runs.json").read_text())
    fractions = result["time_split"]["fractions"]
    model = {"acting", "world_model", "imagination", "behaviour"}
    assert max(fractions[phase] for phase in PHASES if phase not in model) < 0.05
