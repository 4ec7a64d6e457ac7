"""Own environments, wrappers and factories of the compatibility page.

Importing this module registers ``compat/Walk-v0``, so only cases that need it import it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

# ------------------------------------------------------------------------------ vectors


class Walk(gym.Env[Any, Any]):
    """Random vectors of 3, reward 1 for action 1, episodes of 7 steps."""

    observation_space: Any = spaces.Box(-1.0, 1.0, (3,), np.float32)
    action_space: Any = spaces.Discrete(2)
    length = 7

    def __init__(self) -> None:
        self.total = 0
        self.time = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def observe(self) -> Any:
        return self.np_random.uniform(-1, 1, 3).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.total += 1
        self.time += 1
        reward = float(action - self.action_space.start == 1)
        return self.observe(), reward, self.time >= self.length, False, {}


class Endless(Walk):
    length = 10**9


class Float64(Walk):
    """Declares float32, returns float64."""

    def observe(self) -> Any:
        return super().observe().astype(np.float64)


class IntegerVector(Walk):
    observation_space = spaces.Box(-100, 100, (3,), np.int64)

    def observe(self) -> Any:
        return self.np_random.integers(-100, 101, 3)


class ListObservation(Walk):
    """Returns lists instead of arrays."""

    def observe(self) -> Any:
        return super().observe().tolist()


class ReusedArray(Walk):
    """Writes each observation into the same array."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = np.zeros(3, np.float32)

    def observe(self) -> Any:
        self.memory[:] = super().observe()
        return self.memory


class InfoNone(Walk):
    def step(self, action: Any) -> Any:
        return (*super().step(action)[:4], None)


class ResetInfoNone(Walk):
    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0], None


class RewardArray(Walk):
    """Rewards of shape (1,)."""

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, np.array([reward], np.float32), *rest


class RewardNone(Walk):
    def step(self, action: Any) -> Any:
        obs, _, *rest = super().step(action)
        return obs, None, *rest


class NanReward(Walk):
    """The 47th reward is NaN."""

    def step(self, action: Any) -> Any:
        obs, reward, *rest = super().step(action)
        return obs, float("nan") if self.total == 47 else reward, *rest


class NanObservation(Walk):
    """The 47th observation is NaN."""

    def observe(self) -> Any:
        obs = super().observe()
        return obs * np.float32("nan") if self.total == 47 else obs


class OutOfBounds(Walk):
    """The 47th observation is outside the space."""

    def observe(self) -> Any:
        obs = super().observe()
        return obs + 100 if self.total == 47 else obs


class Unseeded(Walk):
    """Ignores the seed: random numbers of the operating system."""

    def observe(self) -> Any:
        return np.random.default_rng().uniform(-1, 1, 3).astype(np.float32)


class FromFive(Walk):
    action_space = spaces.Discrete(2, start=5)


class OneAction(Walk):
    action_space = spaces.Discrete(1)


class ManyActions(Walk):
    action_space = spaces.MultiDiscrete([2, 3])


class OldApi(Walk):
    """Old Gym API: ``step`` returns 4 values, ``reset`` returns no ``info``."""

    def reset(self, **kwargs: Any) -> Any:
        return super().reset(**kwargs)[0]

    def step(self, action: Any) -> Any:
        obs, reward, terminated, _, info = super().step(action)
        return obs, reward, terminated, info


class WithArgument(Walk):
    """Constructor with a required argument."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length


gym.register("compat/Walk-v0", entry_point=f"{__name__}:Walk", disable_env_checker=True)

# ----------------------------------------------------------------------------- pictures


class Picture(gym.Env[Any, Any]):
    """A random bright square; episodes of 7 steps."""

    action_space = spaces.Discrete(2)

    def __init__(
        self, shape: tuple[int, ...], dtype: str, low: float, high: float, bright: float
    ) -> None:
        self.observation_space = spaces.Box(low, high, shape, np.dtype(dtype).type)
        self.bright = bright
        self.time = 0

    def observe(self) -> Any:
        obs = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        obs.reshape(-1)[int(self.np_random.integers(obs.size - 4)) :][:4] = self.bright
        return obs

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        return self.observe(), float(action == 1), self.time >= 7, False, {}


# ------------------------------------------------------------- wrappers and factories


class FlipReward(gym.RewardWrapper[Any, Any]):
    """Wrapper that does not record its arguments."""

    def __init__(self, env: gym.Env[Any, Any], scale: float = -1.0) -> None:
        super().__init__(env)
        self.scale = scale

    def reward(self, reward: Any) -> Any:
        return self.scale * float(reward)


class SwapActions(gym.ActionWrapper[Any, Any, Any]):
    """Swaps two actions."""

    def action(self, action: Any) -> Any:
        return 1 - action


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "tenfold": lambda value: 10.0 * value,
    "negative": lambda value: -value,
    "swap": lambda action: 1 - action,
}
tenfold, negative, swap = FUNCTIONS.values()


def make_walk() -> gym.Env[Any, Any]:
    return Walk()


def make_lander() -> gym.Env[Any, Any]:
    return gym.make("LunarLander-v3", gravity=-2.0)


def make_nothing() -> None:
    """Factory without a return value."""


def make_vectors() -> Any:
    """Vector of two environments of Stable-Baselines3."""
    from stable_baselines3.common.vec_env import DummyVecEnv

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DummyVecEnv([lambda: gym.make("CartPole-v1")] * 2)
