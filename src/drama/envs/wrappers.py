"""Wrappers around an environment: which record, which only check, which change the task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeGuard

import gymnasium as gym
from gymnasium.wrappers import (
    HumanRendering,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RecordVideo,
    RenderCollection,
    TimeLimit,
)

from drama.importing import attribute, call_text, parse_call

STATISTICS_KEY = "drama.episode"
"""Key in ``info`` of the statistics that :func:`drama.envs.adapt` adds."""
RECORDERS = (RecordVideo, HumanRendering, RenderCollection)
"""Wrappers that record or show episodes: a copy would overwrite the files of the first."""
CHECKS = (PassiveEnvChecker, OrderEnforcing)
"""Wrappers of ``gymnasium.make`` that only check how the environment is used."""


class Sb3Monitor(Protocol):
    """Attributes of Stable-Baselines3's ``Monitor``, which need not be installed."""

    rewards: list[float]
    episode_returns: list[float]
    episode_lengths: list[int]


def env_name(env: gym.Env[Any, Any]) -> str:
    """Return the registered id of ``env``, or the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def wrappers_of(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """Yield the wrappers around ``env``, outermost first."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def is_sb3_monitor(layer: object) -> TypeGuard[Sb3Monitor]:
    """Whether a wrapper is Stable-Baselines3's ``Monitor`` or has its attributes."""
    names = ("rewards", "episode_returns", "episode_lengths")
    return all(isinstance(getattr(layer, name, None), list) for name in names)


def is_monitor(layer: gym.Env[Any, Any]) -> bool:
    """Whether a wrapper is an episode monitor of Gymnasium or Stable-Baselines3."""
    return isinstance(layer, RecordEpisodeStatistics) or is_sb3_monitor(layer)


def is_neutral(layer: gym.Env[Any, Any]) -> bool:
    """Whether a wrapper is no part of the task, or described by another entry than its name.

    These are the wrappers of this package, monitors, time limits, and those that check or record.
    """
    own = type(layer).__module__.partition(".")[0] == "drama"
    return own or is_monitor(layer) or isinstance(layer, (*RECORDERS, *CHECKS, TimeLimit))


def recorders(env: gym.Env[Any, Any]) -> list[str]:
    """Return the class names of wrappers around ``env`` that record or show episodes."""
    return [type(layer).__name__ for layer in wrappers_of(env) if isinstance(layer, RECORDERS)]


def has_monitor_file(env: gym.Env[Any, Any]) -> bool:
    """Whether a monitor of Stable-Baselines3 around ``env`` writes a file."""
    return any(
        is_sb3_monitor(layer) and getattr(layer, "results_writer", None) is not None
        for layer in wrappers_of(env)
    )


def without_recorders(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Remove the wrappers that record or show episodes from a new ``env``."""
    while isinstance(env, RECORDERS):
        env = env.env
    for layer in wrappers_of(env):
        while isinstance(layer.env, RECORDERS):
            layer.env = layer.env.env
    return env


def unrecorded(
    kwargs: Mapping[str, Any], wrappers: Iterable[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return constructor arguments and wrappers, as text, without those that record or show."""
    kept = []
    for text in wrappers:
        path, arguments = parse_call(text)
        kind = attribute(path)
        if isinstance(kind, type) and issubclass(kind, RECORDERS):
            continue
        if arguments.get("filename") is not None and path.endswith("monitor:Monitor"):
            text = call_text(path, {**arguments, "filename": None})
        kept.append(text)
    shown = kwargs.get("render_mode") == "human"
    return {k: v for k, v in kwargs.items() if not (shown and k == "render_mode")}, tuple(kept)


def wrap(env: gym.Env[Any, Any], wrappers: Iterable[str]) -> gym.Env[Any, Any]:
    """Apply wrappers, given as ``module:Class(name=value, ...)``, innermost first."""
    for text in wrappers:
        path, arguments = parse_call(text)
        env = attribute(path)(env, **arguments)
        if not isinstance(env, gym.Env):
            raise TypeError(f"{path} gave {env!r}, which is no gymnasium.Env")
    return env
