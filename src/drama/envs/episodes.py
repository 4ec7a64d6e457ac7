"""Counts whole episodes, also where a lost life ends an episode of the agent.

A monitor (Gymnasium's ``RecordEpisodeStatistics`` or Stable-Baselines3's ``Monitor``) inside the
wrapper that ends episodes at lost lives reports whole games with unclipped rewards. Its games are
counted, and lost lives are not. A monitor outside of that wrapper reports lives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import AtariPreprocessing, RecordEpisodeStatistics

from drama.envs.atari import LifeLossEpisodes
from drama.envs.description import foreign_wrappers
from drama.envs.families import family_of
from drama.envs.wrappers import (
    STATISTICS_KEY,
    Sb3Monitor,
    is_sb3_monitor,
    wrappers_of,
)

Unit = Literal["episodes", "games", "lives"]
"""Unit of counting: the agent's episodes, whole games although the agent's episodes end at lost
lives, or these lives."""


class Count(NamedTuple):
    """Return and length of one episode or game."""

    ret: float
    """Undiscounted return."""
    length: int
    """Agent steps, or the steps that the monitor counts."""


def ends_at_lives(layer: gym.Env[Any, Any]) -> bool:
    """Whether a wrapper is known to end an episode at the loss of a life."""
    if isinstance(layer, AtariPreprocessing):
        return bool(layer.terminal_on_life_loss)
    names = (kind.__name__.casefold() for kind in type(layer).__mro__)
    return isinstance(layer, LifeLossEpisodes) or any("episodiclife" in name for name in names)


class EpisodeCounter:
    """Counts the episodes of one environment, in one unit.

    A monitor inside the environment decides: an episode ends when the monitor's does, with its
    return and length. Where the agent's episode ends and the monitor's does not, the next reset
    shows whether the game goes on (a lost life, which is not counted) or was abandoned (counted
    with the monitor's values so far). Without a monitor each end counts.

    Args:
        env: The environment, with all of its wrappers.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.ret = 0.0
        """Return since the last counted end."""
        self.length = 0
        """Steps since the last counted end."""
        self._monitor = _game_monitor(env)
        self._has_lives = any(ends_at_lives(layer) for layer in wrappers_of(env))
        # In these families a termination ends the game, even with lives left.
        self._trusted = family_of(env).ends_games and not foreign_wrappers(env)
        self.unit: Unit = "episodes"
        """Unit of the counts so far."""
        if self._has_lives:
            self.unit = "lives" if self._monitor is None else "games"
        self._finished = 0
        self._held: tuple[bool, Count] | None = None
        self.clear()

    def clear(self) -> None:
        """Discard the current episode."""
        self.ret, self.length = 0.0, 0
        self._held = None
        self._finished = 0 if self._monitor is None else _finished(self._monitor)

    def step(
        self, reward: float, terminated: bool, truncated: bool, info: Mapping[str, Any]
    ) -> Count | None:
        """Return the episode that this step ended, or None if it ended none that counts."""
        self.ret += reward
        self.length += 1
        if not (terminated or truncated):
            return None
        life = terminated and not self._trusted and _lives(info) > 0
        if self._monitor is None:
            if life:
                self.unit = "lives"
            return self._close(_reported(info, self.length) or Count(self.ret, self.length))
        if self._has_risen():
            if (
                life and not self._has_lives
            ):  # the monitor is outside of the wrapper that ends at lives
                self.unit = "lives"
            return self._close(_running(self._monitor))
        self._held = (life or (terminated and self._has_lives), _running(self._monitor))
        return None

    def reset(self) -> Count | None:
        """Return the episode that this reset shows to have ended, or None."""
        held, self._held = self._held, None
        if self._monitor is None:
            return None
        if self._has_risen():  # in a step that the reset made: the no-op after a lost life
            last = _last(self._monitor)
            return None if last is None else self._close(last)
        if held is None:
            return None
        life, count = held
        if _running(self._monitor).length >= count.length:  # the game goes on
            self.unit = "games"
            return None
        if life:
            self.unit = "lives"
        return self._close(count)

    def cut(self) -> Count:
        """Return the unfinished episode, which is abandoned here."""
        if self._monitor is None:
            return self._close(Count(self.ret, self.length))
        return self._close(_running(self._monitor))

    def _close(self, count: Count) -> Count:
        self.clear()
        return count

    def _has_risen(self) -> bool:
        return self._monitor is not None and _finished(self._monitor) > self._finished


def _game_monitor(env: gym.Env[Any, Any]) -> RecordEpisodeStatistics[Any, Any] | Sb3Monitor | None:
    """Return the innermost monitor, unless an episode ends at a lost life inside of it."""
    found: RecordEpisodeStatistics[Any, Any] | Sb3Monitor | None = None
    for layer in wrappers_of(env):
        if ends_at_lives(layer):
            found = None
        if isinstance(layer, RecordEpisodeStatistics):
            if layer._stats_key != STATISTICS_KEY:
                found = layer
        elif is_sb3_monitor(layer):
            found = layer
    return found


def _finished(monitor: RecordEpisodeStatistics[Any, Any] | Sb3Monitor) -> int:
    if isinstance(monitor, RecordEpisodeStatistics):
        return int(monitor.episode_count)
    return len(monitor.episode_returns)


def _running(monitor: RecordEpisodeStatistics[Any, Any] | Sb3Monitor) -> Count:
    """Return the monitor's current episode; after an end, the finished one until the reset."""
    if isinstance(monitor, RecordEpisodeStatistics):
        return Count(float(monitor.episode_returns), int(monitor.episode_lengths))
    return Count(float(sum(monitor.rewards)), len(monitor.rewards))


def _last(monitor: RecordEpisodeStatistics[Any, Any] | Sb3Monitor) -> Count | None:
    """Return the monitor's last finished episode; None if it keeps none."""
    if not isinstance(monitor, RecordEpisodeStatistics):
        return Count(float(monitor.episode_returns[-1]), int(monitor.episode_lengths[-1]))
    if not monitor.return_queue:
        return None
    return Count(float(monitor.return_queue[-1]), int(monitor.length_queue[-1]))


def _reported(info: Mapping[str, Any], length: int) -> Count | None:
    """Return the episode in ``info`` if it has this length, or None."""
    found = info.get("episode")
    if not (isinstance(found, Mapping) and {"r", "l"} <= found.keys()):
        return None
    try:
        ret, steps = float(found["r"]), float(found["l"])
    except (TypeError, ValueError, OverflowError):
        return None
    return Count(ret, length) if steps == length and math.isfinite(ret) else None


def _lives(info: Mapping[str, Any]) -> int:
    lives = info.get("lives", 0)
    is_number = isinstance(lives, int | np.integer) and not isinstance(lives, bool)
    return int(cast("int", lives)) if is_number else 0
