"""Findings about the environment that a run reports before training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from tests.training.runs import tiny

from drama import Agent
from drama.errors import CheckpointError

WARMUP = 24


class Codes(gym.Env[Any, Any]):
    """Images of object codes, as MiniGrid's ``ImgObsWrapper`` returns them; float64 vectors."""

    observation_space = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def _obs(self) -> Any:
        return np.full((16, 16, 3), self.time, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = int(self.np_random.integers(3))
        return self._obs(), {}

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._obs(), float(action), self.time >= 9, False, {}


class Loose(Codes):
    """Declares float32, returns float64, and rewards in an array."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)

    def _obs(self) -> Any:
        return np.full(3, self.time / 10)

    def step(self, action: int) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, np.array([reward]), terminated, truncated, info


class Heard:
    """Records the warnings and the number of updates at each."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.step = 0

    def __call__(self, event: str, payload: Any) -> None:
        if event == "step":
            self.step = payload
        elif event == "note":
            self.notes.append(payload)
        elif event == "warning" and " learnt" not in payload:  # the warning about few updates
            self.warnings.append(payload)
            self.steps.append(self.step)


@pytest.mark.parametrize("overlap", [False, True])
def test_codes_are_reported_once_before_the_first_update(overlap: bool) -> None:
    agent, heard = Agent(Codes(), tiny({"training.overlap": overlap})), Heard()
    agent.learn(WARMUP + 6, listeners=[heard])
    assert [line[:27] for line in heard.warnings] == ["the pictures are almost bla"]
    assert heard.steps == [WARMUP - 1]  # before the step that ends the warm-up is reported
    assert "observations: picture (16, 16, 3) uint8 -> 64x64x3" in heard.notes
    agent.learn(6, listeners=[heard])
    assert len(heard.warnings) == 1


def test_findings_go_to_the_logger_without_a_progress_bar(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="drama"):
        Agent(Codes(), tiny()).learn(WARMUP)
    assert sum("almost black" in line for line in caplog.messages) == 1


def test_resume_reports_findings_only_within_the_warm_up(tmp_path: Path) -> None:
    config = tiny({"training.checkpoint_every": 10})
    heard = Heard()
    Agent(Codes(), config).learn(10, run_dir=tmp_path / "run", listeners=[heard])
    assert heard.warnings == []
    Agent.load(tmp_path / "run", env=Codes()).learn(20, listeners=[heard])
    assert len(heard.warnings) == 1
    Agent.load(tmp_path / "run", env=Codes()).learn(5, listeners=[heard])
    assert len(heard.warnings) == 1


def test_conversions_are_reported_once() -> None:
    heard = Heard()
    agent = Agent(Loose(), tiny()).learn(40, listeners=[heard])
    assert heard.warnings == [
        "Loose: observations come as (3,) float64: converted to float32, as declared",
        "Loose: rewards come as (1,) float64: taken as plain numbers",
    ]
    agent.learn(5, listeners=[heard])
    assert len(heard.warnings) == 2


def test_older_run_with_an_image_input_is_refused_if_it_is_a_vector_now(tmp_path: Path) -> None:
    """A run that read stacked vectors as an image cannot resume with vectors."""
    Agent(Codes(), tiny()).learn(5, run_dir=tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"observations image 64x64x3 .* has vector 3"):
        Agent.load(tmp_path / "run", env=Loose())
