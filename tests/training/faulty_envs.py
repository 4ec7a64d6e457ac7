"""Faulty and instrumented environments; importing this module registers them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Walk(gym.Env[Any, Any]):
    """A random walk of 3 numbers with episodes of 7 steps; valid unless a subclass breaks it."""

    observation_space = spaces.Box(-50.0, 50.0, (3,), np.float32)
    action_space = spaces.Discrete(2)
    length = 7

    def __init__(self) -> None:
        self.total = 0
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._obs(), {}

    def _obs(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.total += 1
        self.time += 1
        reward = 1.0 if action == 1 else 0.0
        return self._obs(), reward, self.time == self.length, False, {}


class NanReward(Walk):
    """The 47th reward is NaN."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, np.nan if self.total == 47 else reward, terminated, truncated, info


class WildObs(Walk):
    """The 47th observation lies outside the space."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, *rest = super().step(action)
        return (obs * 0 + 100 if self.total == 47 else obs, *rest)


class Crash(Walk):
    """Raises an error in step 47."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.total == 46:
            raise ZeroDivisionError("the physics engine gave up")
        return super().step(action)


class CrashingReset(Walk):
    """Raises an error in the reset after step 42."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.total == 42:
            raise ZeroDivisionError("no next level")
        return super().reset(**kwargs)


class NanFirstObs(Walk):
    """The first observation is NaN."""

    def _obs(self) -> Any:
        return np.full(3, np.nan, np.float32)


class Unseeded(Walk):
    """Samples from an unseeded generator: a seed does not reproduce it."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        self._own = np.random.default_rng()
        return self._obs(), {}

    def _obs(self) -> Any:
        own = getattr(self, "_own", None) or np.random.default_rng()
        return own.uniform(-1, 1, 3).astype(np.float32)


class Endless(Walk):
    """Episodes are longer than any test."""

    length = 10**9


class ThreeActions(Walk):
    """Like `Walk` with one action more."""

    action_space = spaces.Discrete(3)


class FourNumbers(Walk):
    """Like `Walk` with one number more."""

    observation_space = spaces.Box(-50.0, 50.0, (4,), np.float32)

    def _obs(self) -> Any:
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)


KINDS = (
    Walk,
    NanReward,
    WildObs,
    Crash,
    CrashingReset,
    NanFirstObs,
    Unseeded,
    Endless,
    ThreeActions,
    FourNumbers,
)

for kind in KINDS:
    name = f"tests/{kind.__name__}-v0"
    if name not in gym.registry:
        gym.register(name, entry_point=kind, disable_env_checker=True)


def env_id(kind: type[Walk]) -> str:
    """Environment id that imports this module."""
    return f"{__name__}:tests/{kind.__name__}-v0"
