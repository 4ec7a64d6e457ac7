"""Progress lines of a run, with a simulated clock."""

from __future__ import annotations

import io
import types
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import tiny

from drama import Agent
from drama.training import progress
from drama.training.metrics import Meter
from drama.training.progress import Progress
from drama.training.stream import EpisodeEnd


class Watched:
    """A progress display of a simulated run."""

    def __init__(self, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)
        self.text = io.StringIO()
        self.trainer: Any = types.SimpleNamespace(step=0, config=tiny(), meter=Meter())
        console = Console(file=self.text, force_terminal=terminal, width=200)
        self.shown = Progress(self.trainer, 100, console)

    def step(self, to: int, seconds: float) -> None:
        self.now += seconds
        self.trainer.step = to
        self.shown("step", to)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(False, monkeypatch)


def test_plain_lines_are_printed_at_intervals(plain: Watched) -> None:
    with plain.shown:
        plain.step(1, 1.0)
        plain.step(10, 9.0)
        assert plain.text.getvalue() == ""
        plain.shown("episode", EpisodeEnd(1.0, 5, 0.1))
        plain.shown("episode", EpisodeEnd(2.0, 5, 0.1))
        plain.step(21, 11.0)  # 20 steps in the 20 seconds since the first
        (line,) = plain.text.getvalue().splitlines()
        assert "step 21/100" in line
        assert "steps/s 1 " in line
        assert "ETA -" in line  # the duration of a training step is not known yet
        assert "return 1.50" in line
        assert "phase collecting" in line
        plain.shown("metrics", {"world_model/loss": 12.345, "time/env": 3.0})
        plain.step(41, 20.0)
    *_, last = plain.text.getvalue().splitlines()
    assert "step 41/100" in last
    assert "phase training" in last
    assert "model loss 12.3" in last
    assert "time/env" not in last


def test_short_run_prints_no_estimate(plain: Watched) -> None:
    with plain.shown:
        pass
    assert plain.text.getvalue() == ""


def test_speed_is_measured_over_recent_steps(plain: Watched) -> None:
    with plain.shown:
        for i in range(1, 11):
            plain.step(24 + 100 * i, 20.0)
        assert plain.shown.rate() == pytest.approx(5.0)
        for i in range(1, 11):
            plain.step(1024 + 10 * i, 20.0)
        assert plain.shown.rate() == pytest.approx(0.5)


def test_phases_are_timed_separately(plain: Watched) -> None:
    """Around the end of the warm-up the time left is unknown rather than wrong."""
    with plain.shown:
        for step in range(1, 24):
            plain.step(step, 0.01)
        assert plain.shown.rate() == pytest.approx(100.0)
        assert plain.shown.seconds_left() is None
        plain.step(24, 0.01)
        plain.step(25, 0.01)
        assert plain.shown.rate() is None
        plain.step(26, 9.0)  # the first updates start threads and take memory
        assert plain.shown.seconds_left() is None
        plain.step(27, 0.5)
        assert plain.shown.seconds_left() is None  # an update comes every two steps
        plain.step(28, 3.5)
        assert plain.shown.seconds_left() == pytest.approx(72 * 2.0)
        plain.step(29, 0.5)
        assert plain.shown.seconds_left() == pytest.approx(71 * 2.0)


def test_prior_estimate_is_used_until_training_is_measured(plain: Watched) -> None:
    with plain.shown:
        plain.shown.learning_seconds = 3.0
        assert plain.shown.seconds_left() is None  # the environment is not measured yet
        plain.step(1, 1.0)
        plain.step(11, 10.0)
        assert plain.shown.seconds_left() == pytest.approx(13 * 1.0 + 76 * 4.0)
        plain.step(24, 13.0)
        assert plain.shown.seconds_left() == pytest.approx(76 * 4.0)
        plain.step(26, 100.0)
        plain.step(28, 10.0)
        assert plain.shown.seconds_left() == pytest.approx(72 * 5.0)


def test_run_within_the_warm_up_needs_no_estimate(plain: Watched) -> None:
    plain.shown.target = 20
    with plain.shown:
        plain.step(1, 1.0)
        plain.step(10, 9.0)
        assert plain.shown.seconds_left() == pytest.approx(10.0)


def test_resumed_run_is_measured_from_its_start(plain: Watched) -> None:
    plain.trainer.step = 50
    with plain.shown:
        plain.step(51, 100.0)
        plain.step(52, 1.0)
        plain.step(53, 0.2)
        assert plain.shown.seconds_left() is None
        plain.step(54, 1.8)
        assert plain.shown.seconds_left() == pytest.approx(46.0)


def test_no_line_is_printed_twice(plain: Watched) -> None:
    with plain.shown:
        plain.step(1, 1.0)
        plain.step(40, 20.0)
    assert len(plain.text.getvalue().splitlines()) == 1


def test_losses_are_shown_from_the_first_update_on(plain: Watched) -> None:
    with plain.shown:
        plain.shown("metrics", {"step": 10.0, "time/env": 1.0})  # a row of the warm-up
        plain.step(24, 1.0)
        plain.trainer.meter.add({"loss": torch.tensor(2.5)}, "world_model")
        plain.step(26, 20.0)
        assert "model loss 2.5" in plain.text.getvalue()
        plain.shown("metrics", {"world_model/loss": 3.5})
        plain.step(28, 20.0)
    assert "model loss 3.5" in plain.text.getvalue().splitlines()[-1]


def test_mean_return_is_over_the_last_twenty_episodes(plain: Watched) -> None:
    for ret in [100.0] * 10 + [1.0] * 20:
        plain.shown("episode", EpisodeEnd(ret, 1, 0.1))
    assert list(plain.shown.returns) == [1.0] * 20


@pytest.mark.parametrize("event", ["note", "warning"])
def test_notes_and_warnings_are_printed(event: Any, plain: Watched) -> None:
    plain.shown(event, "the environment [x] does not repeat itself")
    assert f"{event}: the environment [x] does not repeat itself" in plain.text.getvalue()


def test_a_terminal_shows_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(True, monkeypatch)
    with watched.shown:
        watched.step(1, 1.0)
        watched.step(50, 10.0)
    assert "steps/s" in watched.text.getvalue()
    assert "50/100" in watched.text.getvalue()


def test_progress_display_does_not_change_training(capfd: pytest.CaptureFixture[str]) -> None:
    weights = []
    for bar in (True, False):
        agent = Agent(env_id(Walk), tiny()).learn(30, progress_bar=bar)
        weights.append(
            float(sum(t.double().sum() for t in agent.world_model.state_dict().values()))
        )
    assert weights[0] == weights[1]
    assert capfd.readouterr().out == ""
