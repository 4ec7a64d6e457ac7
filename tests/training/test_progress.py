"""What a run says of itself while it goes on, with a clock that the tests turn."""

from __future__ import annotations

import io
import types
from typing import Any

import pytest
from rich.console import Console
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import tiny

from drama import Agent
from drama.training import progress
from drama.training.progress import Progress
from drama.training.stream import EpisodeEnd


class Watched:
    """A progress display of a pretended run."""

    def __init__(self, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "perf_counter", lambda: self.now)
        self.text = io.StringIO()
        self.trainer: Any = types.SimpleNamespace(step=0, config=tiny())
        console = Console(file=self.text, force_terminal=terminal, width=200)
        self.shown = Progress(self.trainer, 100, console)

    def step(self, to: int, seconds: float) -> None:
        self.now += seconds
        self.trainer.step = to
        self.shown("step", to)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(False, monkeypatch)


def test_plain_lines_come_now_and_then(plain: Watched) -> None:
    with plain.shown:
        plain.step(1, 1.0)
        plain.step(10, 9.0)
        assert plain.text.getvalue() == ""
        plain.shown("episode", EpisodeEnd(1.0, 5, 0.1))
        plain.shown("episode", EpisodeEnd(2.0, 5, 0.1))
        plain.step(21, 11.0)  # 20 steps in the 20 seconds since the first
        (line,) = plain.text.getvalue().splitlines()
        assert "step 21/100" in line
        assert "steps/s 1.0" in line
        assert "ETA 1:19" in line
        assert "return 1.50" in line
        assert "phase collecting" in line
        plain.shown("metrics", {"world_model/loss": 12.345, "time/env": 3.0})
        plain.step(41, 20.0)
    *_, last = plain.text.getvalue().splitlines()
    assert "step 41/100" in last
    assert "phase training" in last
    assert "model loss 12.3" in last
    assert "time/env" not in last


def test_a_run_too_short_to_tell_says_nothing(plain: Watched) -> None:
    with plain.shown:
        pass
    assert plain.text.getvalue() == ""


def test_speed_is_that_of_late(plain: Watched) -> None:
    with plain.shown:
        plain.step(1, 1.0)
        for i in range(1, 11):  # the warm-up flies
            plain.step(1 + 100 * i, 20.0)
        assert plain.shown.rate() == pytest.approx(5.0)
        for i in range(1, 11):
            plain.step(1001 + 10 * i, 20.0)
        assert plain.shown.rate() == pytest.approx(0.5)


def test_only_the_last_twenty_returns_count(plain: Watched) -> None:
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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text


def test_watching_changes_no_number(capfd: pytest.CaptureFixture[str]) -> None:
    weights = []
    for bar in (True, False):
        agent = Agent(env_id(Walk), tiny()).learn(30, progress_bar=bar)
        weights.append(
            float(sum(t.double().sum() for t in agent.world_model.state_dict().values()))
        )
    assert weights[0] == weights[1]
    assert capfd.readouterr().out == ""
