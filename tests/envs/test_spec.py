"""Environments from ``make_env`` under Gymnasium's own tools: checker, specification, pickle."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from drama.envs import AdaptedEnv, adapt, describe, make_env

ENVS: list[tuple[str, dict[str, Any]]] = [
    ("ALE/Breakout-v5", {}),
    ("ALE/Breakout-v5", {"life_loss": False, "frame_skip": 2, "env_kwargs": {"mode": 4}}),
    ("CartPole-v1", {}),
    ("drama/Catch-v0", {"max_episode_steps": 4}),
    ("drama/Recall-v0", {"env_kwargs": {"gap": 3}, "image_size": 16}),
    ("drama/Sparse-v0", {}),
    ("MinAtar/Breakout-v1", {}),
    ("MinAtar/Freeway-v0", {"env_kwargs": {"sticky_action_prob": 0.0}}),
    ("drama/Catch-v0", {"wrappers": ("gymnasium.wrappers:MaxAndSkipObservation(skip=2)",)}),
]
if find_spec("minatar") is None:  # an extra
    ENVS = [case for case in ENVS if not case[0].startswith("MinAtar/")]
every_env = pytest.mark.parametrize(("env_id", "arguments"), ENVS)


def play(env: gym.Env[Any, Any], steps: int = 60) -> list[Any]:
    """Results of some steps without times, with a reset at each end."""
    actions, seen = np.random.default_rng(0), []
    for _ in range(steps):
        obs, reward, terminated, truncated, _ = env.step(int(actions.integers(2)))
        seen.append((obs.tolist(), reward, terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0].tolist())
    return seen


@pytest.mark.filterwarnings("ignore::UserWarning")  # its warnings about valid environments
@every_env
def test_gymnasiums_checker_passes(
    env_id: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")
    check_env(make_env(env_id, seed=0, **arguments))


@every_env
def test_the_specification_makes_the_same_environment(
    env_id: str, arguments: dict[str, Any]
) -> None:
    env = make_env(env_id, seed=3, **arguments)
    assert env.spec is not None
    again = gym.make(env.spec)
    assert isinstance(again, AdaptedEnv)
    assert again.spec == env.spec
    assert (again.reset()[0] == env.reset()[0]).all()
    assert play(again) == play(env)
    text = gym.make(type(env.spec).from_json(env.spec.to_json()))
    fresh = make_env(env_id, seed=3, **arguments)
    assert (text.reset()[0] == fresh.reset()[0]).all()
    assert play(text) == play(fresh)


def test_a_wrapper_finds_the_registered_limit() -> None:
    env = make_env("CartPole-v1", 0, wrappers=("gymnasium.wrappers:TimeAwareObservation",))
    assert env.observation_space.shape == (5,)
    assert describe(env)["max_episode_steps"] == 500


def test_a_wrapper_around_it_is_in_the_specification_too() -> None:
    env = gym.wrappers.TimeAwareObservation(make_env("CartPole-v1", seed=3))
    again = gym.make(env.spec)
    assert (again.reset()[0] == env.reset()[0]).all()
    assert play(again) == play(env)


@every_env
@pytest.mark.parametrize("how", [lambda env: pickle.loads(pickle.dumps(env)), copy.deepcopy])
def test_copy_continues_in_the_middle_of_an_episode(
    env_id: str, arguments: dict[str, Any], how: Callable[[Any], Any]
) -> None:
    env = make_env(env_id, seed=3, **arguments)
    env.reset()
    play(env, 13)
    twin = how(env)
    assert play(twin) == play(env)


def test_an_env_pickled_by_its_arguments_returns_before_its_first_reset() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an error while it is imported would crash Python
        pytest.importorskip("Box2D")
    env = make_env("LunarLander-v3", seed=3)
    first = env.reset(seed=3)[0]
    play(env, 5)
    twin = pickle.loads(pickle.dumps(env))
    assert (twin.reset(seed=3)[0] == first).all()


def test_vectorised_in_other_processes() -> None:
    envs = gym.vector.AsyncVectorEnv(
        [make_env("drama/Catch-v0", seed=s).spec.make for s in (0, 1)]  # type: ignore[union-attr]
    )
    obs, _ = envs.reset()
    envs.close()
    for seed in (0, 1):
        assert (obs[seed] == make_env("drama/Catch-v0", seed).reset()[0]).all()


def test_an_adapted_object_can_be_rebuilt_as_far_as_the_object_can() -> None:
    env = adapt(gym.make("CartPole-v1"), seed=3)
    assert env.spec is not None
    again = gym.make(env.spec)
    assert (again.reset()[0] == env.reset()[0]).all()
    assert play(again) == play(env)
