"""The environment as a stream of replay rows, and the way back to where it was."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from drama.types import ObsArray, Transition


@dataclass(frozen=True)
class EpisodeEnd:
    """A finished episode: of the whole game, where a lost life only ends a learning episode."""

    ret: float
    """Undiscounted return."""
    length: int
    """Agent steps."""
    seconds: float
    """Wall time since it began."""


class EnvStream:
    """Steps one environment, starting the next episode whenever one ends.

    Everything an environment does follows from its seed and the actions taken, so the log of
    actions is its saved state: [return_to][drama.training.stream.EnvStream.return_to] takes
    them again.

    Args:
        env: Adapted environment; its next reset is seeded if ``seed`` is given.
        seed: Seed of the first reset.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int | None) -> None:
        self.env = env
        self.seed = seed
        self.actions: list[int] = []
        """Every action since the first reset."""
        self.obs: ObsArray | None = None
        """Current observation; None before the first reset."""
        self.is_first = True
        self.needs_reset = True
        self._return = 0.0
        self._length = 0
        self._began = time.perf_counter()

    def start(self) -> EpisodeEnd | None:
        """Begin the next episode if the last one has ended, so that ``obs`` can be acted on.

        Returns:
            The finished game, where one ended unseen: in the no-op that follows a lost life.
        """
        if not self.needs_reset:
            return None
        # Seeded once: a seed at every reset would make every episode start alike.
        seed = self.seed if self.obs is None else None
        self.obs, info = self.env.reset(seed=seed)
        self.is_first, self.needs_reset = True, False
        return self._finish(info["episode"]) if "episode" in info else None

    def step(self, action: int) -> tuple[list[Transition], EpisodeEnd | None]:
        """Take one action, after [start][drama.training.stream.EnvStream.start].

        Returns:
            The rows it completes (two at an episode's end: the transition, and the final
            observation), and the finished episode if a whole game ended.
        """
        assert self.obs is not None, "start() comes first"
        following, reward, terminated, truncated, info = self.env.step(action)
        self.actions.append(action)
        reward, terminated, truncated = float(reward), bool(terminated), bool(truncated)
        self._return += reward
        self._length += 1
        rows = [Transition(self.obs, self.is_first, action, reward, terminated, truncated, False)]
        self.obs, self.is_first = following, False
        end = None
        if terminated or truncated:
            rows.append(Transition(following, False, 0, 0.0, False, False, True))
            self.needs_reset = True
            if not info.get("life_lost", False):
                end = self._finish(info.get("episode"))
        return rows, end

    def _finish(self, counted: dict[str, Any] | None) -> EpisodeEnd:
        """Close the books of a whole game; an environment's own count (Atari's) comes first."""
        seconds = time.perf_counter() - self._began
        end = EpisodeEnd(self._return, self._length, seconds)
        if counted is not None:
            end = EpisodeEnd(float(counted["r"]), int(counted["l"]), seconds)
        self._return, self._length = 0.0, 0
        self._began = time.perf_counter()
        return end

    def position(self) -> dict[str, Any]:
        """Where the stream stands, JSON-able; with ``obs`` it checks a return to this place."""
        return {
            "is_first": self.is_first,
            "needs_reset": self.needs_reset,
            "return": self._return,
            "length": self._length,
        }

    def return_to(self, actions: list[int], obs: ObsArray, position: dict[str, Any]) -> bool:
        """Take ``actions`` again from the first reset on.

        Returns:
            Whether that led to where the stream stood when ``obs`` and ``position`` were saved.
            If not, the environment does not follow from its seed, and the next step begins a
            new episode.
        """
        for action in actions:
            self.start()
            self.step(action)
        if not position["needs_reset"]:
            self.start()
        same = self.position() == position and np.array_equal(self.obs, obs)  # type: ignore[arg-type]
        if not same:
            self.needs_reset = True
            self._return, self._length = 0.0, 0
        return same
