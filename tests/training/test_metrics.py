"""Running means, phase times and append-only logs, against numbers worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from drama.training import metrics
from drama.training.metrics import Clock, JsonLines, Meter, RunLog


def test_means_by_hand() -> None:
    meter = Meter()
    assert meter.means() == {}
    meter.add({"loss": torch.tensor(1.0), "kl": torch.tensor(5.0)}, "model")
    meter.add({"loss": torch.tensor(2.5)}, "model")
    meter.add({"loss": torch.tensor(-4.0)}, "policy")
    expected = {"model/loss": 1.75, "model/kl": 5.0, "policy/loss": -4.0}
    assert meter.means() == expected
    assert meter.means() == expected  # reading them does not end the count
    meter.clear()
    assert meter.means() == {}


def test_sums_are_wider_than_their_summands() -> None:
    meter = Meter()
    for value in (1e8, 1.0, 1.0, -1e8):  # in float32 the ones would be lost
        meter.add({"x": torch.tensor(value)}, "a")
    assert meter.means() == {"a/x": 0.5}


def test_state_survives_json_to_the_last_bit() -> None:
    meter = Meter()
    for i in range(7):
        meter.add({"x": torch.tensor(1 / (3 + i)), "y": torch.tensor(0.1 * i)}, "a")
    other = Meter()
    other.load_state(json.loads(json.dumps(meter.state())), torch.device("cpu"))
    assert other.means() == meter.means()
    for m in (meter, other):
        m.add({"x": torch.tensor(1 / 7)}, "a")
    assert other.means() == meter.means()
    assert other.state() == meter.state()


def test_phases_add_up_and_a_raise_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.5, 10.0, 12.0, 20.0, 20.25])
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: next(now))
    clock = Clock()
    with clock.phase("env"):
        pass
    with clock.phase("env"):
        pass
    with pytest.raises(ValueError, match="x"), clock.phase("model"):
        raise ValueError("x")
    assert clock.flush() == {"env": 3.5, "model": 0.25}
    assert clock.flush() == {}


def test_rows_are_there_as_soon_as_written(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = JsonLines(path)
    assert rows.size() == 0
    rows.write({"step": 1, "x": 0.1})
    assert path.read_text() == '{"step": 1, "x": 0.1}\n'
    assert rows.size() == path.stat().st_size
    rows.close()


def test_size_counts_what_was_there_and_a_cut_file_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = JsonLines(path)
    first.write({"step": 1})
    size = first.size()
    first.write({"step": 2, "note": "é"})
    first.close()
    second = JsonLines(path)
    assert second.size() == path.stat().st_size  # bytes, whatever the letters
    second.close()
    with path.open("r+b") as file:
        file.truncate(size)
    again = JsonLines(path)
    assert again.size() == size
    again.write({"step": 3})
    again.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]


def test_episodes_and_metrics_go_to_their_own_files(tmp_path: Path) -> None:
    log = RunLog(tmp_path, tensorboard=False)
    log.write_metrics({"step": 5, "a/x": 1.0})
    log.write_episode({"step": 4, "return": 2.0, "length": 3, "seconds": 0.5})
    log.close()
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 5, "a/x": 1.0}
    episode = json.loads((tmp_path / "episodes.jsonl").read_text())
    assert list(episode) == ["step", "return", "length", "seconds"]
    assert not (tmp_path / "tensorboard").exists()
