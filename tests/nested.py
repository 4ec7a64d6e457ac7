"""Environments that observe several things at once; importing this module registers them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Mixed(gym.Env[Any, Any]):
    """A nested observation of every kind, sampled anew at each step; episodes of 7 steps."""

    observation_space: spaces.Space[Any] = spaces.Dict(
        {
            "robot": spaces.Dict(
                {
                    "camera": spaces.Box(0, 255, (12, 10, 3), np.uint8),
                    "speed": spaces.Box(-2.0, 2.0, (2, 2), np.float64),
                }
            ),
            "doors": spaces.Tuple((spaces.Discrete(3, start=1), spaces.MultiBinary(4))),
            "dials": spaces.MultiDiscrete([[2, 3], [4, 5]]),
            "mission": spaces.Text(9),
        }
    )
    action_space = spaces.Discrete(2)
    length = 7

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self._obs(), float(action == 1), self.time == self.length, False, {}

    def _obs(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()


class Cards(Mixed):
    """As in POPGym: two cards, a flag and the number of the step; the flag pays."""

    observation_space = spaces.Tuple((spaces.MultiDiscrete([13, 4]), spaces.Discrete(2)))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        shown = self.shown
        obs, _, *rest = super().step(action)
        return (obs, float(action == shown), *rest)

    def _obs(self) -> Any:
        if self.time == 0:
            self.shown = int(self.np_random.integers(2))
        cards = self.np_random.integers([13, 4])
        return (cards, self.shown)


class Both(Mixed):
    """A picture and a vector each hold one bit, for a whole episode; the action names both.

    Reading only one of them earns half of the reward.
    """

    observation_space = spaces.Dict(
        {
            "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "vector": spaces.Box(-1.0, 1.0, (2,), np.float32),
        }
    )
    action_space = spaces.Discrete(4)
    length = 8

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        gym.Env.reset(self, seed=seed)
        self.time = 0
        self.bits = self.np_random.integers(2, size=2)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        reward = float(action == 2 * self.bits[0] + self.bits[1])
        return self._obs(), reward, self.time == self.length, False, {}

    def _obs(self) -> Any:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[:, 4 * self.bits[0] :][:, :4] = 255
        vector = np.array([2.0 * self.bits[1] - 1.0, self.time / self.length], np.float32)
        return {"picture": picture, "vector": vector}


def env_id(kind: type[Mixed]) -> str:
    """Environment id that imports this module."""
    return f"{__name__}:tests/{kind.__name__}-v0"


for _kind in (Mixed, Cards, Both):
    gym.register(f"tests/{_kind.__name__}-v0", _kind)
