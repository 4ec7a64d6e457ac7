"""Estimated time of a run: when it is measured, what it reports, no side effects."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.machine.test_calibration import preset_cost
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import differences, everything, global_random_state, tiny

from drama import Agent, agent, presets
from drama.machine import estimate, measurement
from drama.machine.costs import PresetCost
from drama.machine.estimate import long_run_warning, may_be_long, measure_updates
from drama.training.events import Event
from drama.training.progress import Progress

WALK = env_id(Walk)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement, "ENV_SECONDS", 0.0)
    monkeypatch.setattr(measurement, "MOST_REPEATS", 1)
    monkeypatch.setattr(estimate, "DEADLINE", 120.0)


def test_only_possibly_long_runs_are_measured() -> None:
    assert not may_be_long(Agent(WALK, tiny()), 100_000)
    catch = Agent("drama/Catch-v0", presets.quick())
    assert not may_be_long(catch, presets.quick().steps)
    assert may_be_long(catch, 1_000_000)
    paper = Agent("drama/Catch-v0", presets.xs())
    assert may_be_long(paper, presets.xs().steps)
    assert not may_be_long(paper, 10)


def test_many_small_updates_may_take_long_too() -> None:
    assert may_be_long(Agent(WALK, tiny({"training.world_model_ratio": 10.0})), 10_000_000)


def test_estimate_changes_neither_agent_nor_process(tmp_path: Path) -> None:
    ends = []
    for name, measured in (("a", False), ("b", True)):
        made = Agent(WALK, tiny()).learn(34)
        if measured:
            state = global_random_state()
            cost = measure_updates(made)
            assert isinstance(cost, PresetCost)
            assert cost.step_seconds > 0
            assert global_random_state() == state
        ends.append(everything(made.learn(20), tmp_path / name))
    assert not differences(*ends)


def warnings_of(made: Agent, steps: int, **options: Any) -> list[str]:
    heard: list[str] = []

    def listen(event: Event, payload: Any) -> None:
        if event == "warning":
            heard.append(payload)

    made.learn(steps, listeners=[listen], **options)
    return heard


def test_long_run_warns_before_its_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(estimate, "LONG_FLOPS", {"cpu": 0.0})
    # 7.25 s a step.
    slow = preset_cost(warmup_steps=24)
    monkeypatch.setattr(estimate, "measure_updates", lambda _: slow)
    assert not any("takes about" in line for line in warnings_of(Agent(WALK, tiny()), 30))
    monkeypatch.setattr(estimate, "WARN_HOURS", 0.0)
    said = warnings_of(Agent(WALK, tiny()), 30, run_dir=tmp_path / "run")
    assert sum("takes about 43.5 s on this machine" in line for line in said) == 1
    # A resumed run is estimated for its remaining steps.
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        estimate, "long_run_warning", lambda _, step, target: asked.append((step, target))
    )
    Agent.load(tmp_path / "run", env=WALK).learn(10)
    assert asked == [(30, 40)]


def test_line_matches_hand_computed_values() -> None:
    cost = preset_cost(warmup_steps=1000)  # 7.25 s a step
    assert long_run_warning(cost, 0, 1000 + 11_900) is None
    line = long_run_warning(cost, 0, 101_000)
    assert line is not None
    assert "takes about 8.4 days on this machine" in line
    assert "`drama doctor`" in line
    line = long_run_warning(cost, 51_000, 101_000)
    assert line is not None
    assert "about 4.2 days" in line


def test_run_within_the_warm_up_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "LONG_FLOPS", {"cpu": 0.0})
    monkeypatch.setattr(estimate, "measure_updates", lambda _: pytest.fail("it measured"))
    Agent(WALK, tiny()).learn(24)


def test_the_estimate_is_the_first_time_left(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "LONG_FLOPS", {"cpu": 0.0})
    cost = preset_cost(env_seconds=0.0)
    monkeypatch.setattr(estimate, "measure_updates", lambda _: cost)
    seen: list[float | None] = []

    class Kept(Progress):
        def __call__(self, event: Event, payload: Any) -> None:
            if event == "step":
                seen.append(self.learning_seconds)
            super().__call__(event, payload)

    monkeypatch.setattr(agent, "Progress", Kept)
    Agent(WALK, tiny()).learn(26, progress_bar=True)
    assert set(seen) == {cost.step_seconds}


def test_no_estimate_if_measuring_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "DEADLINE", -1.0)
    assert measure_updates(Agent(WALK, tiny())) is None


def test_large_replay_is_not_allocated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = measurement.fill
    monkeypatch.setattr(
        measurement, "fill", lambda ring, n: (rows.append(ring.capacity), original(ring, n))
    )
    made = Agent(WALK, tiny({"replay.capacity": 50_000}))
    assert measure_updates(made) is not None
    assert rows == [measurement.ROWS]
    assert dataclasses.asdict(made.config.replay)["capacity"] == 50_000
