"""Makes environments by id, or by the import path of a function that makes one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from drama.envs.adapt import AdaptedEnv, adapt, instead_of, require_env
from drama.envs.families import GYMNASIUM, EnvOptions, family_of, family_settings
from drama.envs.lookup import Factory, find
from drama.envs.recipe import registered_kwargs
from drama.envs.wrappers import wrap
from drama.errors import ConfigError, EnvError
from drama.observations import ALL
from drama.text import did_you_mean, one_line


def make_env(  # noqa: PLR0913 (keywords of env.*)
    env_id: str,
    seed: int | None = None,
    *,
    image_size: int | None = None,
    max_episode_steps: int | None = None,
    observe: Sequence[str] = ALL,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
    **settings: Any,
) -> gym.Env[Any, Any]:
    """Make an environment that the agent can learn in.

    The environment's family (:mod:`drama.envs.families`) makes it: Atari games (``ALE/Pong-v5``)
    follow the Atari100k protocol of :mod:`drama.envs.atari`, and the games of MinAtar
    (``MinAtar/Breakout-v1``, extra ``minatar``) need no import. Any other id is made by Gymnasium.
    :func:`drama.envs.adapt` then adapts it. ``info["episode"]`` holds ``{"r": return,
    "l": length, "t": seconds}`` at the end of each episode, for Atari at the end of each game.

    ``gymnasium.make(env.spec)`` makes the same environment. It can be pickled where game and
    wrappers can; Atari games are pickled with the state of their emulator. Environments that
    Gymnasium pickles by their constructor's arguments (Box2D, MuJoCo) return before their first
    reset.

    Args:
        env_id: An id known to Gymnasium; ``"module:Name-v0"`` imports ``module`` first. Where
            ``module`` has a function or class of the name, ``"module:make_env"``, that makes it.
        seed: Seed of the first ``reset`` only, so that episodes differ. None: a random one.
        image_size: Side of the picture in pixels. None is 64, or the native size for the
            built-in ``drama/`` games and MinAtar. Ignored for vector observations; pictures in a
            Dict or Tuple are never enlarged.
        max_episode_steps: Truncate episodes (Atari: games) after so many agent steps. None keeps
            the registered limit; for Atari 108 000 frames.
        observe: Names or patterns of the leaves of a Dict or Tuple observation that are read.
        env_kwargs: Arguments of the environment's constructor.
        wrappers: Import paths, ``module:Class`` or ``module:Class(stack_size=4)``, innermost
            first. They wrap the environment (for Atari the whole protocol: they see adapted
            frames, agent steps and learning episodes), inside the wrappers of this package.
        **settings: Settings of one family, ignored by the others. Atari's are the fields of
            :class:`drama.envs.atari.AtariSettings`: ``life_loss``, ``noop_max``, ``frame_skip``,
            ``sticky_actions``, ``full_action_space``.

    Returns:
        An environment with ``Box(0, 255, (H, W, C), uint8)``, ``Box(-inf, inf, (N,), float32)`` or
        ``MultiDiscrete`` observations, or a ``Dict`` of these, and ``Discrete(n)`` actions counted
        from 0.

    Raises:
        UnknownEnvError: The id does not exist; the message names one that is near, or the package.
        UnsupportedSpaceError: Its observation or action space is not supported.
        EnvError: It could not be constructed: a wrong argument, a missing dependency.
        ConfigError: A wrapper is not written as an import path with literal arguments, or a
            pattern of ``observe`` fits no leaf.
    """
    options = EnvOptions(image_size, max_episode_steps, {} if env_kwargs is None else env_kwargs)
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise EnvError(f"seed must be an integer of at least 0 or None, got {seed!r}")
    source = find(env_id)
    defaults = family_settings()
    for name in settings:
        if name not in defaults:
            near = did_you_mean(name, defaults)
            raise EnvError(f"no environment has the setting {name!r}{near}")
    recorded = {
        "env_id": env_id,
        "image_size": image_size,
        "max_episode_steps": max_episode_steps,
        "observe": tuple(observe),
        **defaults,
        **settings,
        "env_kwargs": dict(options.kwargs),
        "wrappers": tuple(wrappers),
    }
    family = family_of(source) if isinstance(source, EnvSpec) else GYMNASIUM
    limit, protocol = max_episode_steps, {"env_kwargs": dict(options.kwargs)}
    try:
        if isinstance(source, EnvSpec):
            if limit is not None or family.preprocesses or not wrappers:
                # The guard must wrap the environment directly, so the limit is applied later;
                # but a wrapper of the user's may read the registered one.
                limit = source.max_episode_steps if limit is None else limit
                source = _unlimited(source)
            own = {name: recorded[name] for name in family.settings}
            options = EnvOptions(image_size, max_episode_steps, options.kwargs, own)
            env = family.make(source, options)
            protocol |= family.protocol(env, options)
        else:
            env, protocol = call_factory(source, options.kwargs)
        env = wrap(env, wrappers)
        if family.preprocesses:
            limit = None
        elif image_size is None:
            image_size = default_image_size(env)
    except (EnvError, ConfigError):
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise EnvError(_missing(env_id, error)) from error
    except Exception as error:
        given = f" with env_kwargs {dict(options.kwargs)}" if options.kwargs else ""
        given += f" in {', '.join(wrappers)}" if wrappers else ""
        reason = one_line(f"{type(error).__name__}: {error}")
        raise EnvError(f"{env_id} could not be made{given}: {reason}") from error
    return adapt(
        env,
        image_size=image_size,
        max_episode_steps=limit,
        observe=observe,
        seed=seed,
        protocol=protocol,
        settings=recorded,
    )


def from_spec(render_mode: str | None = None, **settings: Any) -> gym.Env[Any, Any]:
    """Entry point of the specification of environments from :func:`make_env`.

    Args:
        render_mode: As in ``gymnasium.make``; None is that of ``settings``.
        **settings: Arguments of :func:`make_env`.
    """
    if render_mode is not None:
        settings["env_kwargs"] = {**settings["env_kwargs"], "render_mode": render_mode}
    return make_env(**settings)


def call_factory(
    factory: Factory, kwargs: Mapping[str, Any]
) -> tuple[gym.Env[Any, Any], dict[str, Any]]:
    """Return the environment that a function or class makes, and facts for :func:`describe`.

    Raises:
        EnvError: It returned no environment.
    """
    env = factory(**kwargs)
    if not isinstance(env, gym.Env):
        name = getattr(factory, "__name__", type(factory).__name__)
        raise EnvError(
            f"{name} was given as a function that returns an environment, and returned {env!r}, "
            f"which is no gymnasium.Env{instead_of(env)}"
        )
    # Without arguments `describe` reads those of the object.
    return env, {"env_kwargs": {**registered_kwargs(env), **kwargs}} if kwargs else {}


def default_image_size(env: gym.Env[Any, Any]) -> int | None:
    """Return the default side of the adapted picture in pixels; None keeps the native size.

    None for the built-in games, MinAtar (a cell is a pixel) and environments that are adapted
    already; 64 otherwise.

    Raises:
        EnvError: It is not a Gymnasium environment.
    """
    require_env(env)
    return None if isinstance(env, AdaptedEnv) else family_of(env).image_size


def _unlimited(spec: EnvSpec) -> EnvSpec:
    """Return a copy of a specification without its time limit."""
    spec = copy.deepcopy(spec)
    spec.max_episode_steps = None
    return spec


def _missing(env_id: str, error: Exception) -> str:
    """Return the error message for a missing dependency."""
    text = one_line(error)
    if isinstance(error, gym.error.DependencyNotInstalled):
        return f"{env_id} needs a package that is not installed: {text}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.split(".")[0]
        return f"{env_id} needs the module {module!r}: install the package that provides it"
    return f"{env_id} could not be imported: {text}"
