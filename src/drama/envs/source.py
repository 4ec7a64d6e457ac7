"""Environments from whatever an agent was given: an id, an object, or a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium as gym

from drama.config import EnvConfig
from drama.envs.adapt import AdaptedEnv, adapt, instead_of, is_vectorised
from drama.envs.make import default_image_size, make_env
from drama.errors import EnvError

EnvSource: TypeAlias = "str | gym.Env[Any, Any] | Callable[[], gym.Env[Any, Any]]"
"""An id, an environment, or a function that makes one."""


def source_name(source: EnvSource) -> str:
    """Return the id of what ``source`` makes, or the nearest thing to one."""
    if isinstance(source, str):
        return source
    if isinstance(source, gym.Env):
        return source.spec.id if source.spec is not None else type(source.unwrapped).__name__
    return getattr(source, "__name__", type(source).__name__)


def build_env(
    source: EnvSource, config: EnvConfig, seed: int, *, life_loss: bool, again: bool = False
) -> gym.Env[Any, Any]:
    """Build an adapted environment.

    Args:
        source: What the agent was given.
        config: How to adapt it; the Atari fields apply to ids.
        seed: Seed of its first reset.
        life_loss: Whether the loss of a life ends an episode.
        again: A further environment is wanted, not the object given.

    Raises:
        EnvError: It cannot be made, or not be made again; or ``source`` is none of the three.
    """
    if isinstance(source, str):
        return make_env(
            source,
            seed,
            image_size=config.image_size,
            max_episode_steps=config.max_episode_steps,
            life_loss=life_loss,
            noop_max=config.noop_max,
            frame_skip=config.frame_skip,
            sticky_actions=config.sticky_actions,
            full_action_space=config.full_action_space,
        )
    env = source if isinstance(source, gym.Env) else _made_by(source)
    if again and env is source:
        env = _again(env, seed)
    size = config.image_size if config.image_size is not None else default_image_size(env)
    return adapt(env, image_size=size, max_episode_steps=config.max_episode_steps, seed=seed)


def _made_by(source: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    """Return what a function makes, which has to be an environment."""
    wanted = "an id, a gymnasium.Env or a function that returns one"
    if is_vectorised(source):
        raise EnvError(
            f"a {type(source).__name__} is several environments side by side, and the agent learns "
            f"from one: give it {wanted}"
        )
    if not callable(source):
        raise EnvError(f"the environment must be {wanted}, got {source!r}{instead_of(source)}")
    env = source()
    if not isinstance(env, gym.Env):
        raise EnvError(
            f"{source_name(source)} was given as a function that returns an environment, and "
            f"returned {env!r}, which is no gymnasium.Env{instead_of(env)}"
        )
    return env


def _again(env: gym.Env[Any, Any], seed: int) -> gym.Env[Any, Any]:
    """Make another environment like ``env``: our own know how, others by their specification."""
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, AdaptedEnv) and layer.remake is not None:
            return layer.remake(seed)
        layer = layer.env
    try:
        if env.spec is None:
            raise ValueError("it has no specification")
        return gym.make(env.spec)
    except Exception as error:
        raise EnvError(
            f"{source_name(env)} was given as an object, which cannot be made again ({error}); "
            "give Agent a function that returns a new environment"
        ) from error
