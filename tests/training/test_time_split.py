"""Time per phase of a run, with a simulated clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.training.faulty_envs import Crash, Walk, env_id
from tests.training.runs import json_rows, tiny

from drama import Agent
from drama.behaviour import ActorCritic, Imagination, Player
from drama.replay import ReplayBuffer
from drama.training.checkpoint import CheckpointDir
from drama.training.clock import PHASES
from drama.training.metrics import RunLog
from drama.training.stream import EnvStream
from drama.world_model import WorldModel

WALK = env_id(Walk)


class Turned:
    """A clock that advances only in the given calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def spend(self, owner: Any, name: str, seconds: float) -> None:
        """Give each call of a function a duration."""
        original: Callable[..., Any] = getattr(owner, name)

        def slow(*args: Any, **kwargs: Any) -> Any:
            self.now += seconds
            return original(*args, **kwargs)

        self.monkeypatch.setattr(owner, name, slow)


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> Turned:
    """Each kind of work takes a distinct number of seconds."""
    clock = Turned(monkeypatch)
    clock.spend(EnvStream, "start", 1.0)
    clock.spend(EnvStream, "step", 2.0)
    clock.spend(Player, "act", 10.0)
    clock.spend(ReplayBuffer, "append", 0.5)
    clock.spend(ReplayBuffer, "sample_with_ends", 4.0)
    clock.spend(WorldModel, "loss", 100.0)
    clock.spend(Imagination, "rollout", 50.0)
    clock.spend(ActorCritic, "loss", 30.0)
    clock.spend(RunLog, "write_metrics", 7.0)
    clock.spend(CheckpointDir, "write", 200.0)
    return clock


def seconds(row: dict[str, Any]) -> dict[str, float]:
    """Convert fractions back to seconds."""
    wall = row["time/wall_seconds"]
    found = {name: row[f"time/{name}"] * wall for name in PHASES}
    return {name: round(value, 1) for name, value in found.items() if value}


def test_every_second_is_attributed_to_its_phase(turned: Turned, tmp_path: Path) -> None:
    """Rows of ten steps; warm-up until 24, an update of each kind every other step after it."""

    def listen(event: str, payload: object) -> None:
        turned.now += {"step": 0.5, "checkpoint": 6.0}.get(event, 0.0)

    agent = Agent(WALK, tiny()).learn(40, run_dir=tmp_path / "run", listeners=[listen])
    rows = json_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 20, 30, 40]
    for row in rows:
        assert sum(row[f"time/{name}"] for name in PHASES) == pytest.approx(1.0, abs=1e-4)
        assert row["time/cpu_seconds"] > 0

    # Steps 1 to 10: one episode of 7 steps ended, which takes a row more.
    first, second, third, fourth = map(seconds, rows)
    assert first == {"env": 30.0, "replay": 11 * 0.5, "callbacks": 9 * 0.5}
    assert rows[0]["time/wall_seconds"] == 40.0
    assert rows[0]["time/steps_per_second"] == pytest.approx(10 / 40.0, abs=1e-4)
    assert rows[1]["time/steps_per_second"] == pytest.approx(10 / 47.5, abs=1e-4)
    # The row of step 10 is written after its time was taken, and the step reported after it.
    assert second == {
        "env": 30.0,
        "replay": 11 * 0.5,
        "logging": 7.0,
        "callbacks": 10 * 0.5,
    }
    # Steps 21 to 30: two episodes ended, acting from the 25th on, three updates of both, and the
    # checkpoint of step 20.
    assert third == {
        "env": 30.0,
        "acting": 60.0,
        "replay": 12 * 0.5 + 3 * (4.0 + 4.0),
        "world_model": 300.0,
        "imagination": 150.0,
        "behaviour": 90.0,
        "logging": 7.0,
        "callbacks": 10 * 0.5 + 6.0,
        "checkpoint": 200.0,
    }
    assert fourth["world_model"] == 500.0

    split = agent.time_split
    assert split is not None
    assert split.steps == 40
    assert split.seconds["world_model"] == 800.0
    assert split.seconds["checkpoint"] == 400.0  # after the last row, too
    assert sum(split.fractions().values()) == pytest.approx(1.0)
    assert split.wall_seconds == turned.now
    (entry,) = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert entry["time_split"] == {"until_step": 40, **split.to_dict()}


def test_resumed_run_records_its_part_of_the_time(turned: Turned, tmp_path: Path) -> None:
    run = tmp_path / "run"
    agent = Agent(WALK, tiny())
    assert agent.time_split is None
    agent.learn(20, run_dir=run)
    agent.learn(5)  # the same process: the same entry
    turned.now += 1e6  # between two processes: not attributed
    again = Agent.load(run)
    assert again.time_split is None
    again.learn(25)
    first, second = json.loads((run / "run.json").read_text())["starts"]
    assert [e["time_split"]["until_step"] for e in (first, second)] == [25, 50]
    assert [e["time_split"]["steps"] for e in (first, second)] == [25, 25]
    assert second["time_split"]["wall_seconds"] < 1e4
    rows = json_rows(run / "metrics.jsonl")
    # Steps 26 to 30 came after the resumption: the row's means are of ten steps, its time of five.
    (row,) = [row for row in rows if row["step"] == 30]
    assert seconds(row)["env"] == 15.0
    assert row["time/steps_per_second"] == pytest.approx(5 / row["time/wall_seconds"], rel=1e-3)


def test_interrupted_run_records_its_time(turned: Turned, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Agent(env_id(Crash), tiny()).learn(60, run_dir=tmp_path / "run")
    (entry,) = json.loads((tmp_path / "run" / "run.json").read_text())["starts"]
    assert entry["time_split"]["until_step"] == 46
    assert entry["time_split"]["fractions"]["checkpoint"] > 0


def test_no_time_is_recorded_without_a_record(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def lose(*_: object) -> None:
        (run / "run.json").unlink(missing_ok=True)

    Agent(WALK, tiny()).learn(5, lose, run_dir=run)
    assert not (run / "run.json").exists()


def test_run_without_a_directory_reports_its_time() -> None:
    split = Agent(WALK, tiny()).learn(30).time_split
    assert split is not None
    assert split.steps == 30
    assert split.seconds["world_model"] > 0
    assert "checkpoint" not in split.seconds
