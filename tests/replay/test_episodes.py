"""From an environment into the replay: every observation with the right flags."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from drama.replay import ReplayBuffer
from drama.training.stream import EnvStream


class Counting(gym.Env[Any, Any]):
    """Episodes of three steps, ending by termination and truncation in turn; pixels count up."""

    observation_space = gym.spaces.Box(0, 255, (2, 2, 1), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.shown, self.episodes = 0, 0
        self.seeds: list[int | None] = []

    def _look(self) -> np.ndarray:
        self.shown += 1
        return np.full((2, 2, 1), self.shown, np.uint8)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        self.time = 0
        return self._look(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        over = self.time == 3
        self.episodes += over
        terminated = over and self.episodes % 2 == 1
        return self._look(), 10.0 * self.time, terminated, over and not terminated, {}


def test_every_observation_is_stored_with_its_action_and_outcome(
    make_buffer: Callable[..., ReplayBuffer],
) -> None:
    buffer, stream = make_buffer(capacity=20), EnvStream(Counting(), seed=5)
    for _ in range(6):
        stream.start()
        rows, _ = stream.step(1)
        for row in rows:
            buffer.append(row)
    assert buffer.total == 8
    w = buffer.windows(torch.tensor([7]), 8)
    assert w.obs[0, :, 0, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert w.is_first[0].tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    assert w.is_last[0].tolist() == [0, 0, 0, 1, 0, 0, 0, 1]
    acted = ~w.is_last
    assert w.reward[acted].tolist() == [10, 20, 30, 10, 20, 30]
    assert w.terminated[acted].tolist() == [0, 0, 1, 0, 0, 0]
    assert w.truncated[acted].tolist() == [0, 0, 0, 0, 0, 1]
    assert w.action[acted].tolist() == [1] * 6


def test_only_the_first_reset_is_seeded() -> None:
    env = Counting()
    stream = EnvStream(env, seed=5)
    for _ in range(9):
        stream.start()
        stream.step(0)
    assert env.seeds == [5, None, None]
