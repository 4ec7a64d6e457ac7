"""Episodes are counted in one unit: games or lives."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    RecordEpisodeStatistics,
    TimeLimit,
    TransformObservation,
    TransformReward,
)
from stable_baselines3.common.monitor import Monitor

import drama
from drama.envs import LifeLossEpisodes, adapt
from drama.envs.description import foreign_wrappers
from drama.envs.episodes import Count, EpisodeCounter, ends_at_lives

MONITORS = (RecordEpisodeStatistics, Monitor)


class Game(gym.Env[Any, Any]):
    """Three lives of four steps each, reward 10 a step; the game ends with the last life."""

    observation_space = spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        self.time = 0
        return np.zeros(2, np.float32), {"lives": 3}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        lives = 3 - self.time // 4
        return np.zeros(2, np.float32), 10.0, lives == 0, False, {"lives": lives}


class LostLife(gym.Wrapper[Any, Any, Any, Any]):
    """Ends an episode at a lost life; the game goes on. No known name, no known attribute."""

    lives, over = 0, True

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.over = terminated or truncated
        lost, self.lives = info["lives"] < self.lives, info["lives"]
        return obs, reward, terminated or lost, truncated, info

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        if self.over:
            obs, info = self.env.reset(**options)
        else:
            obs, _, terminated, _, info = self.env.step(0)
            assert not terminated
        self.lives = info["lives"]
        return obs, info


class EpisodicLifeEnv(LostLife):
    """The same wrapper under the name that other libraries use."""


class NewGame(LostLife):
    """Begins a new game after each lost life."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        self.over = True
        return super().reset(**options)


def clipped(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    return TransformReward(env, lambda reward: min(float(reward), 1.0))


def play(env: gym.Env[Any, Any], steps: int = 40) -> tuple[list[tuple[float, int]], str]:
    """Count as a run does: every step, and every reset after an end."""
    env = adapt(env)
    counter = EpisodeCounter(env)
    found = []
    env.reset()
    counter.clear()
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(0)
        found.append(counter.step(float(reward), terminated, truncated, info))
        if terminated or truncated:
            env.reset()
            found.append(counter.reset())
    return [tuple(count) for count in found if count is not None], counter.unit


@pytest.mark.parametrize("monitor", MONITORS)
@pytest.mark.parametrize("lives", [LifeLossEpisodes, EpisodicLifeEnv, LostLife])
def test_a_monitor_inside_counts_games_of_the_games_own_rewards(monitor: Any, lives: Any) -> None:
    found, unit = play(clipped(lives(monitor(Game()))))
    assert found[:3] == [(120.0, 12)] * 3
    assert set(found) == {(120.0, 12)}
    assert unit == "games"


@pytest.mark.parametrize("monitor", [None, *MONITORS])
@pytest.mark.parametrize("lives", [EpisodicLifeEnv, LostLife])
def test_no_monitor_or_one_outside_counts_lives(monitor: Any, lives: Any) -> None:
    env = clipped(lives(Game()))
    found, unit = play(env if monitor is None else monitor(env))
    # The no-op after a lost life is not counted.
    assert found[:6] == [(4.0, 4), (3.0, 3), (3.0, 3)] * 2
    assert unit == "lives"


@pytest.mark.parametrize("inner", MONITORS)
def test_inner_of_two_monitors_counts(inner: Any) -> None:
    found, unit = play(Monitor(EpisodicLifeEnv(inner(Game()))))
    assert set(found) == {(120.0, 12)}
    assert unit == "games"


@pytest.mark.parametrize("monitor", [None, *MONITORS])
def test_games_reset_at_a_lost_life_count_as_lives(monitor: Any) -> None:
    found, unit = play(NewGame(Game() if monitor is None else monitor(Game())))
    assert set(found) == {(40.0, 4)}
    assert unit == "lives"


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_time_limit_outside_of_the_monitor_ends_whole_episodes(monitor: Any) -> None:
    found, unit = play(TimeLimit(clipped(monitor(Game())), 5))
    assert set(found) == {(50.0, 5)}
    assert unit == "episodes"
    # Except a game that goes on after a lost life.
    found, unit = play(TimeLimit(EpisodicLifeEnv(monitor(Game())), 2))
    assert set(found) == {(120.0, 12)}
    assert unit == "games"


class NoOpEnds(Game):
    """Its games end in the step after the first lost life."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward, self.time == 5, truncated, info


class Swallowing(EpisodicLifeEnv):
    """Resets a game that ends in the no-op without a report, as Stable-Baselines3 does."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        if not self.over:
            self.over = self.env.step(0)[2]
        return super().reset(**options)


@pytest.mark.parametrize("monitor", MONITORS)
def test_a_game_that_ends_inside_a_reset_is_counted(monitor: Any) -> None:
    found, unit = play(Swallowing(monitor(NoOpEnds())))
    assert set(found) == {(50.0, 5)}
    assert unit == "games"


@pytest.mark.parametrize("monitor", [None, *MONITORS])
def test_plain_episodes(monitor: Any) -> None:
    found, unit = play(Game() if monitor is None else monitor(Game()))
    assert found == [(120.0, 12)] * 3
    assert unit == "episodes"


def test_wrappers_that_end_episodes_at_lost_lives() -> None:
    assert ends_at_lives(EpisodicLifeEnv(Game()))
    assert ends_at_lives(Swallowing(Game()))
    assert ends_at_lives(LifeLossEpisodes(Game()))
    assert not ends_at_lives(TimeLimit(Game(), 3))
    for life_loss in (True, False):
        unit = EpisodeCounter(drama.make_env("ALE/Breakout-v5", life_loss=life_loss)).unit
        assert unit == ("games" if life_loss else "episodes")


def test_wrappers_that_may_change_the_task_are_listed() -> None:
    minatar = ("MinAtar/Breakout-v1",) if find_spec("minatar") else ()  # an extra
    for env_id in ("drama/Catch-v0", "ALE/Breakout-v5", "CartPole-v1", *minatar):
        assert foreign_wrappers(drama.make_env(env_id)) == ()
    env = TransformObservation(clipped(Monitor(Game())), lambda obs: obs, None)
    assert foreign_wrappers(adapt(env)) == ("TransformObservation", "TransformReward")


@pytest.mark.faults
@pytest.mark.parametrize(
    "said",
    [
        {"r": float("nan"), "l": 2},
        {"r": "much", "l": 2},
        {"r": 5.0, "l": np.array([2, 3])},
        {"r": None, "l": None},
        {"r": np.array([1.0, 2.0]), "l": 2},
        "episode",
        7,
    ],
)
def test_invalid_episode_info_is_not_counted(said: Any) -> None:
    counter = EpisodeCounter(gym.make("CartPole-v1"))
    assert counter.step(1.0, False, False, {}) is None
    assert counter.step(2.0, True, False, {"episode": said}) == Count(3.0, 2)
