"""Running means, phase times and append-only logs, against hand-computed values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.training.runs import tiny

from drama.training import clock as clock_module
from drama.training.clock import PHASES, Clock, TimeSplit
from drama.training.metrics import JsonLines, Meter, RunLog


def test_means_match_hand_computed_values() -> None:
    meter = Meter()
    assert meter.means() == {}
    meter.add({"loss": torch.tensor(1.0), "kl": torch.tensor(5.0)}, "model")
    meter.add({"loss": torch.tensor(2.5)}, "model")
    meter.add({"loss": torch.tensor(-4.0)}, "policy")
    expected = {"model/loss": 1.75, "model/kl": 5.0, "policy/loss": -4.0}
    assert meter.means() == expected
    assert meter.means() == expected  # reading does not reset the count
    meter.clear()
    assert meter.means() == {}


def test_sums_use_a_wider_type_than_their_summands() -> None:
    meter = Meter()
    for value in (1e8, 1.0, 1.0, -1e8):  # in float32 the ones would be lost
        meter.add({"x": torch.tensor(value)}, "a")
    assert meter.means() == {"a/x": 0.5}


def test_state_survives_json_to_the_last_bit() -> None:
    meter = Meter()
    for i in range(7):
        meter.add({"x": torch.tensor(1 / (3 + i)), "y": torch.tensor(0.1 * i)}, "a")
    other = Meter()
    other.load_state(json.loads(json.dumps(meter.state())))
    assert other.means() == meter.means()
    for m in (meter, other):
        m.add({"x": torch.tensor(1 / 7)}, "a")
    assert other.means() == meter.means()
    assert other.state() == meter.state()


def test_phases_add_up_and_an_exception_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.5, 10.0, 12.0, 20.0, 20.25])
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(now))
    clock = Clock()
    with clock.phase("env"):
        pass
    with clock.phase("env"):
        pass
    with pytest.raises(ValueError, match="x"), clock.phase("model"):
        raise ValueError("x")
    assert clock.flush() == {"env": 3.5, "model": 0.25}
    assert clock.flush() == {}


def test_inner_phase_pauses_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0.0, 1.0, 3.0, 3.5, 7.5, 8.0]
    now = iter(times)
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: next(now))
    clock = Clock()
    with clock.phase("other"), clock.phase("env"), clock.phase("other"):
        pass
    assert clock.flush() == {"other": 1.0 + 0.5 + 0.5, "env": 2.0 + 4.0}
    assert sum(clock.totals().values()) == times[-1] - times[0]


def test_a_row_may_end_inside_a_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now)
    clock = Clock()
    with clock.phase("other"):
        now = 102.0
        with clock.phase("logging"):
            now = 105.0
            assert clock.flush() == {"other": 2.0, "logging": 3.0}
            now = 106.0
            assert clock.totals() == {"other": 2.0, "logging": 4.0}
        now = 110.0
    assert clock.flush() == {"logging": 1.0, "other": 4.0}
    now = 200.0  # no phase is open: the time is not attributed
    assert clock.totals() == {"other": 6.0, "logging": 4.0}
    assert clock.flush() == {}


def test_synchronised_clock_waits_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now, queued = 0.0, 0.0
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: now)

    def wait() -> None:
        nonlocal now, queued
        now, queued = now + queued, 0.0

    def launch(seconds: float) -> None:
        nonlocal now, queued
        now, queued = now + 0.25, queued + seconds

    for synchronize, expected in (
        (None, {"dream": 0.25, "learn": 0.25, "act": 7.0}),
        (wait, {"dream": 5.25, "learn": 2.25, "act": 0.0}),
    ):
        now = queued = 0.0
        clock = Clock(synchronize)
        with clock.phase("dream"):
            launch(5.0)
        with clock.phase("learn"):
            launch(2.0)
        with clock.phase("act"):
            wait()  # its result has to be returned
        assert clock.flush() == expected


def test_cpu_time_is_that_inside_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = 1.0
    monkeypatch.setattr(clock_module.time, "process_time", lambda: cpu)
    clock = Clock()
    with clock.phase("env"):
        cpu += 2.0
    cpu += 5.0  # before the next phase
    with clock.phase("model"):
        cpu += 1.0
        assert clock.flush_cpu() == 3.0
        cpu += 0.5
    assert clock.flush_cpu() == 0.5
    assert TimeSplit({}, steps=0, cpu_seconds=0.5).row()["time/cpu_seconds"] == 0.5
    assert "time/cpu_seconds" not in TimeSplit({}, steps=0).row()


def test_fractions_match_hand_computed_values() -> None:
    split = TimeSplit({"world_model": 6.0, "env": 1.0, "other": 1.0}, steps=20)
    assert split.wall_seconds == 8.0
    assert split.steps_per_second == 2.5
    expected = dict.fromkeys(PHASES, 0.0) | {"world_model": 0.75, "env": 0.125, "other": 0.125}
    assert split.fractions() == expected
    row = {f"time/{name}": share for name, share in expected.items()}
    assert split.row() == {**row, "time/wall_seconds": 8.0, "time/steps_per_second": 2.5}
    assert split.to_dict() == {
        "steps": 20,
        "wall_seconds": 8.0,
        "steps_per_second": 2.5,
        "fractions": expected,
    }


def test_zero_time_has_no_fractions() -> None:
    split = TimeSplit({}, steps=0)
    assert set(split.fractions().values()) == {0.0}
    assert split.row()["time/steps_per_second"] == 0.0
    assert str(split) == "time: ; 0 env steps/s"


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (
            {
                "world_model": 52,
                "imagination": 31,
                "behaviour": 9,
                "env": 5,
                "replay": 2,
                "other": 1,
            },
            "time: world model 52 %, imagination 31 %, behaviour 9 %, env 5 %, replay 2 %, "
            "other 1 %; 0.5 env steps/s",
        ),
        (
            {"world_model": 99, "env": 1},
            "time: world model 99 %, env 1 %; 0.5 env steps/s",
        ),
        # Below one percent each, together two.
        (
            {"world_model": 98, "logging": 0.9, "callbacks": 0.9, "other": 0.2},
            "time: world model 98 %, other 2 %; 0.5 env steps/s",
        ),
        # 33.3 three times: one of them is rounded up, and the whole stays 100.
        (
            {"env": 1, "world_model": 1, "behaviour": 1},
            "time: env 34 %, world model 33 %, behaviour 33 %; 16.7 env steps/s",
        ),
        # 49.6 + 49.6 + 0.8: rounded each alone they would be 101.
        (
            {"world_model": 49.6, "imagination": 49.6, "acting": 0.8},
            "time: world model 50 %, imagination 49 %, other 1 %; 0.5 env steps/s",
        ),
    ],
)
def test_time_line_of_a_run_is_formatted(seconds: dict[str, float], line: str) -> None:
    assert str(TimeSplit(seconds, steps=50)) == line


def test_rows_are_readable_as_soon_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = JsonLines(path)
    assert rows.size() == 0
    rows.write({"step": 1, "x": 0.1})
    assert path.read_text() == '{"step": 1, "x": 0.1}\n'
    assert rows.size() == path.stat().st_size
    rows.close()


def test_log_size_includes_earlier_rows_and_truncated_log_continues(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = JsonLines(path)
    first.write({"step": 1})
    size = first.size()
    first.write({"step": 2, "note": "é"})
    first.close()
    second = JsonLines(path)
    assert second.size() == path.stat().st_size  # bytes, not characters
    second.close()
    with path.open("r+b") as file:
        file.truncate(size)
    again = JsonLines(path)
    assert again.size() == size
    again.write({"step": 3})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_episodes_and_metrics_go_to_separate_files(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tiny({"training.tensorboard": False}))
    log.write_metrics({"step": 5, "a/x": 1.0})
    log.write_episode({"step": 4, "return": 2.0, "length": 3, "seconds": 0.5})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 5, "a/x": 1.0}
    episode = json.loads((tmp_path / "episodes.jsonl").read_text())
    assert list(episode) == ["step", "return", "length", "seconds"]
    assert not (tmp_path / "tensorboard").exists()
