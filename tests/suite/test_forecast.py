"""Cost of suites, from made-up measurements."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.suite.suites import tiny_spec, tiny_variant

from drama.machine.costs import Memory, PresetCost, UpdateCost
from drama.suite import forecast as module
from drama.suite.forecast import forecast
from drama.suite.layout import scan
from drama.suite.local import Plan

GAMES = ("drama/Catch-v0", "drama/Recall8-v0", "drama/Sparse-v0", "CartPole-v1")
STEPS = {GAMES[0]: 3_600, GAMES[1]: 3_600, GAMES[2]: 36_000, GAMES[3]: 3_600}


allowed: list[float] = []
"""Time limit of each measurement."""


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Each step takes a second; the environments that were measured."""
    games: list[str] = []
    allowed.clear()
    free = UpdateCost({"update": 0.0, "imagination": 0.0}, 0, 1, 1)
    memory = Memory(1_000, 0, 0, 0, None, None, None)

    def calibrate(presets: Any, *, env: str, **options: Any) -> SimpleNamespace:
        games.append(env)
        allowed.append(options["seconds"])
        cost = PresetCost(
            *("quick", "float32", "torch", 1, 1.0, 0.0, free, free, (0.0, 0.0), 0, memory)
        )
        return SimpleNamespace(presets=(cost,))

    monkeypatch.setattr(module, "calibrate", calibrate)
    return games


def test_runs_of_another_length_are_counted_separately(measured: list[str]) -> None:
    variant = tiny_variant("one", {"replay.capacity": 36_000})
    spec = tiny_spec(GAMES, seeds=(0, 1), variants=(variant,), steps=STEPS)
    found = forecast(scan(Path("nowhere"), spec), Plan((), 2, 1))
    rows = [(s.games, s.runs, s.steps_left, s.hours, s.disk) for s in found.shares]
    assert rows == [
        (GAMES[:2], 4, 4 * 3_600, pytest.approx(4.0), 100),
        (GAMES[2:3], 2, 2 * 36_000, pytest.approx(20.0), 1_000),
        (GAMES[3:], 2, 2 * 3_600, pytest.approx(2.0), 100),
    ]
    # The lengths share the measurement of their observation shape.
    assert measured == [GAMES[0], GAMES[3]]
    assert found.hours == pytest.approx(26.0)
    assert found.disk == 2 * 1_000 + 6 * 100
    assert "13 h of wall time if 2 parallel runs" in found.render()


def test_wall_time_is_at_least_that_of_the_longest_run(measured: list[str]) -> None:
    spec = tiny_spec(GAMES, steps=STEPS)
    found = forecast(scan(Path("nowhere"), spec), Plan((), 4, 1))
    assert found.hours == pytest.approx(13.0)
    assert "10 h of wall time if 4 parallel runs" in found.render()


def test_time_that_one_measurement_leaves_goes_to_the_others(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    games = (*GAMES[:1], GAMES[3], "Acrobot-v1", "MountainCar-v0")
    now = iter([0.0, 0.0, 2.0, 4.0, 50.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    forecast(scan(Path("nowhere"), tiny_spec(games)), Plan((), 1, 1), seconds=40.0)
    # A quarter; a third of 38; half of 36; and, after the limit, half of an equal share.
    assert allowed == [10.0, pytest.approx(38 / 3), 18.0, 5.0]
    assert len(measured) == 4
