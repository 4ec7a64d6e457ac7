"""The training environment as a stream of transitions, and how its state is restored."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from drama.actions import ActionSpace
from drama.envs.episodes import Count, EpisodeCounter
from drama.types import Action, Obs, Transition, same_obs


@dataclass(frozen=True)
class EpisodeEnd:
    """A finished episode: a whole game, also if episodes end at a lost life."""

    ret: float
    """Undiscounted return."""
    length: int
    """Agent steps, or what a monitor inside the environment counts as steps."""
    seconds: float
    """Wall time since it began."""

    def row(self) -> dict[str, float]:
        """Return the columns of ``episodes.jsonl`` besides the step."""
        return {"return": self.ret, "length": self.length, "seconds": round(self.seconds, 3)}


class EnvStream:
    """Steps one environment, starting the next episode whenever one ends.

    Seed and actions determine the environment, so the log of actions is its saved state:
    [return_to][drama.training.stream.EnvStream.return_to] replays them. After a step
    from outside or an interrupted step
    [is_lost][drama.training.stream.EnvStream.is_lost] is True and
    [cut][drama.training.stream.EnvStream.cut] ends the episode.

    Args:
        env: Adapted environment; its next reset is seeded if ``seed`` is given.
        seed: Seed of the first reset.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int | None) -> None:
        self.env = env
        self.seed = seed
        self.actions: list[Action] = []
        """Every action since the last seeded reset."""
        self.obs: Obs | None = None
        """Current observation; None before the first reset."""
        self.is_first = True
        self.needs_reset = True
        self.last: tuple[Any, float, bool, bool, dict[str, Any]] | None = None
        """What the last step returned; None before the first."""
        self._counter = EpisodeCounter(env)
        self._began = time.perf_counter()
        self._calls = self._calls_of_all()

    def _calls_of_all(self) -> int:
        """Resets and steps of the environment by all users; 0 if it does not count them."""
        return int(getattr(self.env, "calls", 0))

    def is_lost(self) -> bool:
        """Whether the environment may have changed since this stream last used it."""
        # Not before the first reset, which is seeded.
        return self.obs is not None and self._calls_of_all() != self._calls

    def cut(self) -> Transition | None:
        """End the episode at its last step; the next one begins with a newly seeded reset.

        Returns:
            The transition of the final observation, unless the episode has already ended or has no
            step yet. The transition before it must be marked as truncated.
        """
        last = None
        if self.obs is not None and not (self.needs_reset or self.is_first):
            last = Transition(self.obs, False, ActionSpace.padding, 0.0, False, False, True)
        if self.seed is not None:
            # Another seed than before, or the same episodes would repeat.
            seeds = np.random.SeedSequence([self.seed, len(self.actions), 1]).generate_state(1)
            self.seed = int(seeds[0]) >> 1
        self.obs, self.actions = None, []
        self.is_first, self.needs_reset = True, True
        self._counter.clear()
        self._began = time.perf_counter()
        self._calls = self._calls_of_all()
        return last

    def start(self) -> EpisodeEnd | None:
        """Begin the next episode if the last one has ended.

        Returns:
            The finished episode, where only the reset shows that it ended: a game that ended in
            the no-op after a lost life, or one that a wrapper outside of its monitor abandoned.
        """
        if not self.needs_reset:
            return None
        # Seeded once: a seed at every reset would make every episode start alike.
        is_new = self.obs is None
        self.obs, _ = self.env.reset(seed=self.seed if is_new else None)
        self.is_first, self.needs_reset = True, False
        self._calls = self._calls_of_all()
        if is_new:  # what others played until now is not this stream's
            self._counter.clear()
            return None
        return self._finish(self._counter.reset())

    def step(self, action: Action) -> tuple[list[Transition], EpisodeEnd | None]:
        """Take one action, after [start][drama.training.stream.EnvStream.start].

        Returns:
            The completed transitions (two at an episode's end, the second with the final
            observation), and the finished episode if a whole game ended.
        """
        assert self.obs is not None, "start() comes first"
        following, reward, terminated, truncated, info = self.env.step(action)
        self.actions.append(action)
        reward, terminated, truncated = float(reward), bool(terminated), bool(truncated)
        self.last = following, reward, terminated, truncated, info
        rows = [Transition(self.obs, self.is_first, action, reward, terminated, truncated, False)]
        self.obs, self.is_first = following, False
        end = self._finish(self._counter.step(reward, terminated, truncated, info))
        if terminated or truncated:
            rows.append(Transition(following, False, ActionSpace.padding, 0.0, False, False, True))
            self.needs_reset = True
        self._calls = self._calls_of_all()
        return rows, end

    def _finish(self, count: Count | None) -> EpisodeEnd | None:
        """Time a finished episode, if one has finished."""
        if count is None:
            return None
        end = EpisodeEnd(*count, time.perf_counter() - self._began)
        self._began = time.perf_counter()
        return end

    def position(self) -> dict[str, Any]:
        """Return the position in the episode, JSON-able; `return_to` compares it."""
        return {
            "seed": self.seed,
            "is_first": self.is_first,
            "needs_reset": self.needs_reset,
            "return": self._counter.ret,
            "length": self._counter.length,
        }

    def return_to(self, actions: list[Action], obs: Obs, position: dict[str, Any]) -> bool:
        """Take ``actions`` again from the first reset on.

        Returns:
            Whether that led to the saved ``obs`` and ``position``. If not, the environment is not
            deterministic, and the episode must be ``cut``.
        """
        self.seed = position.get("seed", self.seed)  # checkpoints of earlier versions have none
        for action in actions:
            self.start()
            self.step(action)
        if not position["needs_reset"]:
            self.start()
        here = self.position()
        same = here == {**here, **position} and self.obs is not None and same_obs(self.obs, obs)
        if not same:
            self.obs, self.is_first = obs, position["is_first"]
            self.needs_reset = position["needs_reset"]
        return same
