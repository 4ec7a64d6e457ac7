"""Environments from whatever an agent was given: an id, an object, or a function."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from drama.config import EnvConfig
from drama.envs.adapt import AdaptedEnv, adapt, instead_of, is_vectorised
from drama.envs.layers import Recipe, monitor_file, recorders, unrecorded, without_recorders, wrap
from drama.envs.make import call_factory, default_image_size, find, make_env
from drama.errors import ConfigError, EnvError
from drama.importing import is_importable, path_of
from drama.text import one_line

EnvSource: TypeAlias = "str | gym.Env[Any, Any] | Callable[..., gym.Env[Any, Any]]"
"""An id or import path, an environment, or a function that makes one."""
HOW_TO_GIVE = (
    "give it: Agent.load(run, env=...) in Python, --env module:make_env on the command line"
)
"""What to do where the record of a run does not make its environment."""

logger = logging.getLogger("drama")


def source_name(source: EnvSource) -> str:
    """Return the id of what ``source`` makes, or the nearest thing to one."""
    if isinstance(source, str):
        return source
    if isinstance(source, gym.Env):
        return source.spec.id if source.spec is not None else type(source.unwrapped).__name__
    return getattr(source, "__name__", type(source).__name__)


def named(source: EnvSource | None, config: EnvConfig) -> EnvConfig:
    """Return settings that make what ``source`` makes, as far as settings can.

    Args:
        source: What the agent was given; None is what ``config`` says.
        config: Its settings. Their ``kwargs`` and ``wrappers`` are for ids and functions.

    Returns:
        The settings, ``made_by="caller"`` where they do not make the environment.

    Raises:
        ConfigError: There are arguments or wrappers for an object, which is made already.
    """
    if source is None:
        return config
    plain = config
    if config.made_by != "drama":
        plain = dataclasses.replace(config, kwargs={}, wrappers=(), made_by="drama")
    if isinstance(source, str):
        return dataclasses.replace(plain, id=source)
    if not isinstance(source, gym.Env):
        if is_importable(source):
            return dataclasses.replace(plain, id=path_of(source))
        return dataclasses.replace(plain, id=source_name(source), made_by="caller")
    if plain.kwargs or plain.wrappers:
        raise ConfigError(
            "env.kwargs and env.wrappers are for an id or a function: an environment object has "
            "its arguments and wrappers already"
        )
    with contextlib.suppress(ConfigError, ValueError):
        return _of_object(source, plain)
    return dataclasses.replace(plain, id=source_name(source), made_by="caller")


def _of_object(env: gym.Env[Any, Any], config: EnvConfig) -> EnvConfig:
    """Return the settings that make ``env``; ValueError if there are none."""
    if isinstance(env, AdaptedEnv) and env.settings is not None:
        settings = dict(env.settings)
        for name in ("image_size", "max_episode_steps"):
            if getattr(config, name) not in (None, settings[name]):
                raise ValueError(f"{name} differs")
        settings["id"], settings["kwargs"] = settings.pop("env_id"), settings.pop("env_kwargs")
        return dataclasses.replace(config, **settings)
    env_id, kwargs, wrappers = Recipe.of(env).text()
    return dataclasses.replace(
        config, id=env_id, kwargs=kwargs, wrappers=wrappers, made_by="gymnasium"
    )


def build_env(
    source: EnvSource, config: EnvConfig, seed: int, *, life_loss: bool, again: bool = False
) -> gym.Env[Any, Any]:
    """Build an adapted environment.

    Args:
        source: What the agent was given.
        config: How to adapt it; the Atari fields apply to ids.
        seed: Seed of its first reset.
        life_loss: Whether the loss of a life ends an episode.
        again: A further environment is wanted, not the object given, and none that records.

    Raises:
        EnvError: It cannot be made, or not be made again; or ``source`` is none of the three.
    """
    protocol: dict[str, Any] = {}
    if isinstance(source, str) and config.made_by == "drama":
        kwargs, wrappers = config.kwargs, config.wrappers
        if again:
            kwargs, wrappers = unrecorded(kwargs, wrappers)
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
            env_kwargs=kwargs,
            wrappers=wrappers,
        )
    if isinstance(source, str):
        env = _by_gymnasium(source, config)
    elif isinstance(source, gym.Env):
        env = _again(source, seed, life_loss) if again else source
    else:
        env, protocol = _made_by(source, config)
        env = without_recorders(env) if again else env
    size = config.image_size if config.image_size is not None else default_image_size(env)
    return adapt(
        env,
        image_size=size,
        max_episode_steps=config.max_episode_steps,
        seed=seed,
        protocol=protocol,
    )


def say_limits(source: EnvSource, env: gym.Env[Any, Any]) -> None:
    """Warn through the logger ``drama`` of what further environments will lack, or not be.

    Args:
        source: What the agent was given.
        env: What it learns in.
    """
    if isinstance(source, gym.Env):
        try:
            _recipe(source)
        except ValueError as error:
            logger.warning(
                "%s was given as an object, which cannot be made again (%s): evaluate() and "
                "new_env() will refuse; give Agent a function that returns a new environment",
                *(source_name(source), error),
            )
            return
    found, monitor, shown = recorders(env), monitor_file(env), env.render_mode == "human"
    if not isinstance(source, str | gym.Env):  # what a function does is out of our hands
        if monitor:
            logger.warning(
                "each further environment that %s makes, for evaluation for one, begins the file "
                "of its Monitor anew: give that no filename",
                source_name(source),
            )
    else:
        found += ["the file of Monitor"] * monitor + ["render_mode='human'"] * shown
    if found:
        logger.warning(
            "left out of further environments, so that evaluation writes over nothing and opens "
            "no window: %s",
            ", ".join(found),
        )


def _by_gymnasium(env_id: str, config: EnvConfig) -> gym.Env[Any, Any]:
    """Make an environment as its record says: by id, arguments and wrappers alone."""
    if config.made_by == "caller":
        raise EnvError(
            f"the environment {env_id} was given from Python and has no record that makes it; "
            + HOW_TO_GIVE
        )
    spec = find(env_id)
    if not isinstance(spec, EnvSpec):
        raise EnvError(f"{env_id} is a function: env.made_by must be drama, not gymnasium")
    try:
        return Recipe.read(spec, config.kwargs, config.wrappers).make()
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise EnvError(f"{env_id} could not be made: {reason}") from error


def _made_by(
    source: Callable[..., gym.Env[Any, Any]], config: EnvConfig
) -> tuple[gym.Env[Any, Any], dict[str, Any]]:
    """Return what a function makes, which has to be an environment, and what to describe of it."""
    wanted = "an id, a gymnasium.Env or a function that returns one"
    if is_vectorised(source):
        raise EnvError(
            f"a {type(source).__name__} is several environments side by side, and the agent learns "
            f"from one: give it {wanted}"
        )
    if not callable(source):
        raise EnvError(f"the environment must be {wanted}, got {source!r}{instead_of(source)}")
    env, protocol = call_factory(source, config.kwargs)
    return wrap(env, config.wrappers), protocol


def _recipe(env: gym.Env[Any, Any]) -> Recipe | None:
    """Return how to make ``env`` again, None if it holds that itself; ValueError if unknown."""
    own = isinstance(env, AdaptedEnv) and env.settings is not None
    return None if own else Recipe.of(env)


def _again(env: gym.Env[Any, Any], seed: int, life_loss: bool) -> gym.Env[Any, Any]:
    """Make another environment like ``env``, without what records episodes."""
    try:
        recipe = _recipe(env)
        if recipe is not None:
            return recipe.make()
    except Exception as error:
        raise EnvError(
            f"{source_name(env)} was given as an object, which cannot be made again ({error}); "
            "give Agent a function that returns a new environment"
        ) from error
    assert isinstance(env, AdaptedEnv)
    assert env.settings is not None
    settings = {**env.settings, "life_loss": life_loss and env.settings["life_loss"]}
    kwargs, wrappers = unrecorded(settings["env_kwargs"], settings["wrappers"])
    return make_env(seed=seed, **{**settings, "env_kwargs": kwargs, "wrappers": wrappers})
