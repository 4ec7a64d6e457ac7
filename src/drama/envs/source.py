"""Sources of an agent's environments: an id, a function, or an environment object.

An :class:`EnvSource` makes the training environment and further ones like it, and holds the
settings that make it in another process. ``config.env.made_by`` of the run records the source:

================  =====================================  ==========================================
source            the agent was given                    ``made_by``
================  =====================================  ==========================================
`IdSource`        an id or ``module:make_env``           ``drama``
`FactorySource`   a function or class                    ``drama`` with its import path as id, or
                                                         ``caller`` if it cannot be imported
`ObjectSource`    an environment                         ``gymnasium`` with id, arguments and
                                                         wrappers; ``drama`` if `make_env` made it;
                                                         ``caller`` if it cannot be made again
`RecordSource`    nothing; the run has ``gymnasium``     ``gymnasium``
================  =====================================  ==========================================
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from drama.envs.adapt import AdaptedEnv, adapt, instead_of, is_vectorised
from drama.envs.config import EnvConfig
from drama.envs.families import family_settings
from drama.envs.lookup import find
from drama.envs.make import call_factory, default_image_size, make_env
from drama.envs.recipe import Recipe
from drama.envs.wrappers import (
    env_name,
    has_monitor_file,
    recorders,
    unrecorded,
    without_recorders,
    wrap,
)
from drama.errors import ConfigError, EnvError
from drama.importing import is_importable, path_of
from drama.observations import ALL
from drama.text import one_line

EnvLike: TypeAlias = "str | gym.Env[Any, Any] | Callable[..., gym.Env[Any, Any]]"
"""An id or import path, an environment, or a function that makes one."""
HOW_TO_GIVE = (
    "give it: Agent.load(run, env=...) in Python, --env module:make_env on the command line"
)
"""Advice where a run's settings do not make its environment."""

logger = logging.getLogger("drama")


def env_source(env: EnvLike | None, config: EnvConfig) -> EnvSource:
    """Return the source of an agent's environments.

    Args:
        env: Argument of the agent; None uses the record in ``config``.
        config: Settings. ``kwargs`` and ``wrappers`` apply to ids and functions only.

    Raises:
        ConfigError: There are arguments or wrappers for an object, which has its own already.
        EnvError: ``env`` is none of the three, or ``config`` does not make an environment.
    """
    if env is None:
        return IdSource(config) if config.made_by == "drama" else RecordSource(config)
    if config.made_by != "drama":
        config = dataclasses.replace(config, kwargs={}, wrappers=(), made_by="drama")
    if isinstance(env, str):
        return IdSource(dataclasses.replace(config, id=env))
    if isinstance(env, gym.Env):
        return ObjectSource(env, config)
    return FactorySource(env, config)


class EnvSource(ABC):
    """Makes the environments of one agent.

    Args:
        config: Settings that make the environment, as far as settings can: ``config.env``.
    """

    def __init__(self, config: EnvConfig) -> None:
        self.config = config

    @abstractmethod
    def make(self, seed: int) -> gym.Env[Any, Any]:
        """Return the training environment, adapted; ``seed`` is that of its first reset.

        Raises:
            EnvError: It cannot be made.
        """

    @abstractmethod
    def copy(self, seed: int, *, life_loss: bool) -> gym.Env[Any, Any]:
        """Return a further environment, without wrappers that record or show episodes.

        Args:
            seed: Seed of its first reset.
            life_loss: Whether the loss of a life ends an episode.

        Raises:
            EnvError: It cannot be made, or not be made again.
        """

    def log_limits(self, env: gym.Env[Any, Any]) -> None:
        """Log a warning about recorders that copies of the training environment will lack."""
        found = recorders(env) + ["the file of Monitor"] * has_monitor_file(env)
        _log_left_out(found + ["render_mode='human'"] * (env.render_mode == "human"))

    def _adapt(
        self, env: gym.Env[Any, Any], seed: int, protocol: dict[str, Any] | None = None
    ) -> gym.Env[Any, Any]:
        size, steps = self.config.image_size, self.config.max_episode_steps
        size = default_image_size(env) if size is None else size
        return adapt(
            env,
            image_size=size,
            max_episode_steps=steps,
            observe=self.config.observe,
            seed=seed,
            protocol=protocol,
        )


class IdSource(EnvSource):
    """An id or an import path: :func:`make_env` makes the environment."""

    def make(self, seed: int) -> gym.Env[Any, Any]:
        """Return a new environment."""
        return self._make(seed, env_kwargs=self.config.kwargs, wrappers=self.config.wrappers)

    def copy(self, seed: int, *, life_loss: bool) -> gym.Env[Any, Any]:
        """Return a new environment without recorders."""
        kwargs, wrappers = unrecorded(self.config.kwargs, self.config.wrappers)
        return self._make(seed, env_kwargs=kwargs, wrappers=wrappers, life_loss=life_loss)

    def _make(self, seed: int, **changes: Any) -> gym.Env[Any, Any]:
        names = ("image_size", "max_episode_steps", "observe", *family_settings())
        arguments = {name: getattr(self.config, name) for name in names}
        return make_env(self.config.id, seed, **{**arguments, **changes})


class RecordSource(EnvSource):
    """The record of an object from ``gymnasium.make``, made again without any protocol."""

    def __init__(self, config: EnvConfig) -> None:
        super().__init__(config)
        if config.made_by == "caller":
            raise EnvError(
                f"the environment {config.id} was given from Python and has no record that makes "
                f"it; {HOW_TO_GIVE}"
            )

    def make(self, seed: int) -> gym.Env[Any, Any]:
        """Return a new environment; records hold no recorders."""
        config = self.config
        spec = find(config.id)
        if not isinstance(spec, EnvSpec):
            raise EnvError(f"{config.id} is a function: env.made_by must be drama, not gymnasium")
        try:
            env = Recipe.read(spec, config.kwargs, config.wrappers).make()
        except Exception as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            raise EnvError(f"{config.id} could not be made: {reason}") from error
        return self._adapt(env, seed)

    def copy(self, seed: int, *, life_loss: bool) -> gym.Env[Any, Any]:
        """Return a new environment; ``life_loss`` has no effect."""
        return self.make(seed)


class FactorySource(EnvSource):
    """A function or class that returns environments."""

    def __init__(self, factory: Callable[..., gym.Env[Any, Any]], config: EnvConfig) -> None:
        wanted = "an id, a gymnasium.Env or a function that returns one"
        if is_vectorised(factory):
            raise EnvError(
                f"a {type(factory).__name__} is several environments side by side, and the agent "
                f"learns from one: give it {wanted}"
            )
        if not callable(factory):
            raise EnvError(
                f"the environment must be {wanted}, got {factory!r}{instead_of(factory)}"
            )
        self.factory = factory
        self.name = getattr(factory, "__name__", type(factory).__name__)
        if is_importable(factory):
            super().__init__(dataclasses.replace(config, id=path_of(factory)))
        else:
            super().__init__(dataclasses.replace(config, id=self.name, made_by="caller"))

    def make(self, seed: int) -> gym.Env[Any, Any]:
        """Return a new environment from the function, in the wrappers of the settings."""
        env, protocol = self._call()
        return self._adapt(env, seed, protocol)

    def copy(self, seed: int, *, life_loss: bool) -> gym.Env[Any, Any]:
        """Return a new environment without recorders; ``life_loss`` has no effect."""
        env, protocol = self._call()
        return self._adapt(without_recorders(env), seed, protocol)

    def log_limits(self, env: gym.Env[Any, Any]) -> None:
        """Log a warning about recorders that copies will lack, and files they will overwrite."""
        if has_monitor_file(env):
            logger.warning(
                "each further environment that %s makes, as for evaluation, overwrites the file of "
                "its Monitor: give the Monitor no filename",
                self.name,
            )
        _log_left_out(recorders(env))

    def _call(self) -> tuple[gym.Env[Any, Any], dict[str, Any]]:
        env, protocol = call_factory(self.factory, self.config.kwargs)
        return wrap(env, self.config.wrappers), protocol


class ObjectSource(EnvSource):
    """An environment object; copies are made from its specification and wrappers."""

    def __init__(self, env: gym.Env[Any, Any], config: EnvConfig) -> None:
        if config.kwargs or config.wrappers:
            raise ConfigError(
                "env.kwargs and env.wrappers are for an id or a function: an environment object "
                "has its arguments and wrappers already"
            )
        self.env = env
        super().__init__(dataclasses.replace(config, id=env_name(env), made_by="caller"))
        with contextlib.suppress(ConfigError, ValueError):
            self.config = _record(env, config)

    def make(self, seed: int) -> gym.Env[Any, Any]:
        """Return the object itself, adapted."""
        return self._adapt(self.env, seed)

    def copy(self, seed: int, *, life_loss: bool) -> gym.Env[Any, Any]:
        """Return an environment made as the object was."""
        settings = _settings(self.env)
        if settings is None:
            try:
                env = Recipe.of(self.env).make()
            except Exception as error:
                raise EnvError(
                    f"{env_name(self.env)} was given as an object, which cannot be made again "
                    f"({error}); give Agent a function that returns a new environment"
                ) from error
            return self._adapt(env, seed)
        kwargs, wrappers = unrecorded(settings["env_kwargs"], settings["wrappers"])
        life_loss = life_loss and settings["life_loss"]
        made = {**settings, "env_kwargs": kwargs, "wrappers": wrappers, "life_loss": life_loss}
        return self._adapt(make_env(seed=seed, **made), seed)

    def log_limits(self, env: gym.Env[Any, Any]) -> None:
        """Log a warning about recorders that copies will lack, or that copies are impossible."""
        try:
            if _settings(self.env) is None:
                Recipe.of(self.env)
        except ValueError as error:
            logger.warning(
                "%s was given as an object, which cannot be made again (%s): evaluate() and "
                "new_env() will refuse; give Agent a function that returns a new environment",
                *(env_name(self.env), error),
            )
        else:
            super().log_limits(env)


def _settings(env: gym.Env[Any, Any]) -> Mapping[str, Any] | None:
    """Return the arguments of :func:`make_env` that made ``env``, or None if it did not."""
    return env.settings if isinstance(env, AdaptedEnv) else None


def _record(env: gym.Env[Any, Any], config: EnvConfig) -> EnvConfig:
    """Return the settings that make an object; ValueError if none do."""
    if (made := _settings(env)) is not None:
        settings = dict(made)
        if config.observe not in (ALL, settings["observe"]):
            raise ValueError("observe differs")
        for name in ("image_size", "max_episode_steps"):
            if getattr(config, name) not in (None, settings[name]):
                raise ValueError(f"{name} differs")
        settings["id"], settings["kwargs"] = settings.pop("env_id"), settings.pop("env_kwargs")
        return dataclasses.replace(config, **settings)
    env_id, kwargs, wrappers = Recipe.of(env).text()
    return dataclasses.replace(
        config, id=env_id, kwargs=kwargs, wrappers=wrappers, made_by="gymnasium"
    )


def _log_left_out(found: list[str]) -> None:
    if found:
        logger.warning(
            "left out of further environments, so that evaluation overwrites no file and opens no "
            "window: %s",
            ", ".join(found),
        )
