"""An environment with scripted results, for tests of the wrappers around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces


class Scripted(gym.Env[Any, Any]):
    """Returns the step results in ``script``; records its actions and reset seeds."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        script: list[Any] | None = None,
        *,
        first: Any = None,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
    ) -> None:
        self.observation_space = observation_space or spaces.Box(0, 255, (4, 4, 3), np.uint8)
        self.action_space = action_space or spaces.Discrete(2)
        self.first = first
        self.script = script or []
        self.actions: list[Any] = []
        self.resets: list[int | None] = []
        self.time = 0

    def sound(self) -> Any:
        return np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.resets.append(seed)
        self.time = 0
        return (self.sound() if self.first is None else self.first), {}

    def step(self, action: Any) -> Any:
        self.actions.append(action)
        result = self.script[self.time] if self.time < len(self.script) else None
        self.time += 1
        return (self.sound(), 0.0, False, False, {}) if result is None else result


@pytest.fixture
def scripted() -> Callable[..., Scripted]:
    return Scripted
