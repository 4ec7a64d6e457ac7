"""Environments by id, or by the import path of a function that makes one."""

from __future__ import annotations

import copy
import functools
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from drama.envs.adapt import AdaptedEnv, adapt, instead_of, require_env
from drama.envs.atari import is_atari, make_atari, register_atari
from drama.envs.layers import registered_kwargs, wrap
from drama.envs.minatar import PREFIX, SeededReset, is_minatar, minatar_protocol, register_minatar
from drama.envs.toy import PixelGame, register_games
from drama.errors import ConfigError, EnvError, UnknownEnvError
from drama.importing import import_named
from drama.text import nearest, one_line

FOREIGN_IMAGE_SIZE = 64

_PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "MiniWorld-": "miniworld"}
"""Beginnings of ids, and the package that registers them when it is imported."""
_ALIKE = 0.8
"""Similarity of two names, 0 to 1, from which on one is offered for the other."""
Factory: TypeAlias = "Callable[..., gym.Env[Any, Any]]"
"""A function or class that makes an environment."""


def make_env(
    env_id: str,
    seed: int | None = None,
    *,
    image_size: int | None = None,
    max_episode_steps: int | None = None,
    life_loss: bool = True,
    noop_max: int = 30,
    frame_skip: int = 4,
    sticky_actions: float = 0.0,
    full_action_space: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
) -> gym.Env[Any, Any]:
    """Make an environment that the agent can learn in.

    Atari games (``ALE/Pong-v5``) follow the Atari100k protocol of :mod:`drama.envs.atari`. Any
    other id is made by Gymnasium and adapted by :func:`drama.envs.adapt`; the games of MinAtar
    (``MinAtar/Breakout-v1``, extra ``minatar``) need no import of their own. ``info["episode"]``
    holds ``{"r": return, "l": length, "t": seconds}`` at the end of each episode, for Atari at
    the end of each whole game.

    ``env.spec`` holds the arguments, so that ``gymnasium.make(env.spec)`` makes the same
    environment. It can be pickled where game and wrappers can; games of Atari are, with the state
    of their emulator. Those that Gymnasium pickles by their constructor's arguments (Box2D, MuJoCo)
    come back before their first reset.

    Args:
        env_id: An id known to Gymnasium; ``"module:Name-v0"`` imports ``module`` first. Where
            ``module`` has a function or class of the name, ``"module:make_env"``, that makes it.
        seed: Seed of the first ``reset`` only: later ones go on from there, so that episodes
            differ. None draws a fresh one.
        image_size: Side of the picture in pixels. None is 64, or the native size for the
            built-in ``drama/`` games and MinAtar. Ignored for vector observations.
        max_episode_steps: Truncate episodes (Atari: games) after so many agent steps. None keeps
            the limit registered with the id; for Atari 108 000 frames.
        life_loss: Atari only. Whether losing a life ends the episode; False for evaluation.
        noop_max: Atari only. Largest number of no-op frames at the start of a game.
        frame_skip: Atari only. Frames per agent step.
        sticky_actions: Atari only. Probability that a frame repeats the previous action.
        full_action_space: Atari only. All 18 actions instead of the minimal set.
        env_kwargs: Passed on to the environment's constructor.
        wrappers: Import paths, ``module:Class`` or ``module:Class(stack_size=4)``, the innermost
            first. They go around the environment (for Atari around the whole protocol: they see
            adapted frames, agent steps and learning episodes) and below our own layers.

    Returns:
        An environment with ``Box(0, 255, (H, W, C), uint8)`` or ``Box(-inf, inf, (N,), float32)``
        observations and ``Discrete(n)`` actions counted from 0.

    Raises:
        UnknownEnvError: No such id; the message names one that is near, or the package.
        UnsupportedSpaceError: Its observation or action space is not supported.
        EnvError: It could not be constructed: a wrong argument, a missing dependency.
        ConfigError: A wrapper is not written as an import path with literal arguments.
    """
    if env_kwargs is not None and not isinstance(env_kwargs, Mapping):
        raise EnvError(f"env_kwargs must map argument names to values, got {env_kwargs!r}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise EnvError(f"seed must be an integer of at least 0 or None, got {seed!r}")
    settings = {
        "env_id": env_id,
        "image_size": image_size,
        "max_episode_steps": max_episode_steps,
        "life_loss": life_loss,
        "noop_max": noop_max,
        "frame_skip": frame_skip,
        "sticky_actions": sticky_actions,
        "full_action_space": full_action_space,
        "env_kwargs": dict(env_kwargs or {}),
        "wrappers": tuple(wrappers),
    }
    source = find(env_id)
    atari = isinstance(source, EnvSpec) and is_atari(source)
    limit = max_episode_steps
    protocol: dict[str, Any]
    try:
        if not isinstance(source, EnvSpec):
            env, protocol = call_factory(source, env_kwargs)
        elif atari:
            env, protocol = make_atari(
                _unlimited(source),
                image_size=image_size,
                max_episode_steps=max_episode_steps,
                life_loss=life_loss,
                noop_max=noop_max,
                frame_skip=frame_skip,
                sticky_actions=sticky_actions,
                full_action_space=full_action_space,
                env_kwargs=env_kwargs,
            )
            protocol["env_kwargs"] = dict(env_kwargs or {})
            limit = None
        else:
            spec = source
            if max_episode_steps is not None or not wrappers:
                # The guard belongs directly around the environment, so we apply the limit; but
                # a wrapper may need to find the registered one.
                limit = source.max_episode_steps if limit is None else limit
                spec = _unlimited(source)
            env = gym.make(spec, disable_env_checker=True, **dict(env_kwargs or {}))
            protocol = {}
            if is_minatar(env):
                env, protocol = SeededReset(env), minatar_protocol(env)
            protocol["env_kwargs"] = dict(env_kwargs or {})
        env = wrap(env, wrappers)
        if image_size is None and not atari:
            image_size = default_image_size(env)
    except (EnvError, ConfigError):
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise EnvError(_missing(env_id, error)) from error
    except Exception as error:
        given = f" with env_kwargs {dict(env_kwargs)}" if env_kwargs else ""
        given += f" in {', '.join(wrappers)}" if wrappers else ""
        reason = f"{type(error).__name__}: {error}"
        raise EnvError(f"{env_id} could not be made{given}: {one_line(reason)}") from error
    return adapt(
        env,
        image_size=image_size,
        max_episode_steps=limit,
        seed=seed,
        protocol=protocol,
        settings=settings,
    )


def from_spec(render_mode: str | None = None, **settings: Any) -> gym.Env[Any, Any]:
    """Entry point of the specification of what :func:`make_env` returns.

    Args:
        render_mode: As in ``gymnasium.make``; None is that of ``settings``.
        **settings: Arguments of :func:`make_env`.
    """
    if render_mode is not None:
        settings["env_kwargs"] = {**settings["env_kwargs"], "render_mode": render_mode}
    return make_env(**settings)


def call_factory(
    factory: Factory, kwargs: Mapping[str, Any] | None
) -> tuple[gym.Env[Any, Any], dict[str, Any]]:
    """Return what a function or class makes, and what :func:`describe` is to know of it.

    Raises:
        EnvError: It returned no environment.
    """
    env = factory(**dict(kwargs or {}))
    if not isinstance(env, gym.Env):
        name = getattr(factory, "__name__", type(factory).__name__)
        raise EnvError(
            f"{name} was given as a function that returns an environment, and returned {env!r}, "
            f"which is no gymnasium.Env{instead_of(env)}"
        )
    # Without arguments `describe` reads those of the object.
    given = {**registered_kwargs(env), **kwargs} if kwargs else {}
    return env, {"env_kwargs": given} if given else {}


def default_image_size(env: gym.Env[Any, Any]) -> int | None:
    """Return the side of the adapted picture in pixels where the user names none.

    None, which keeps the size, for the built-in games, for MinAtar (a cell is a pixel there) and
    for what is adapted already; 64 for any other environment.

    Raises:
        EnvError: It is not a Gymnasium environment.
    """
    require_env(env)
    own = isinstance(env, AdaptedEnv) or isinstance(env.unwrapped, PixelGame)
    return None if own or is_minatar(env) else FOREIGN_IMAGE_SIZE


def find(env_id: str) -> EnvSpec | Factory:
    """Return the specification registered under an id, or what an import path names.

    ``module:name`` is an import path where ``module`` has something of that name to call; ids end
    in a version, which no Python name can.

    Raises:
        UnknownEnvError: There is neither.
        EnvError: There is no such module.
    """
    register_games()
    if not isinstance(env_id, str) or not env_id:
        raise UnknownEnvError(
            f"an environment id is a string such as 'ALE/Pong-v5', got {env_id!r}"
        )
    register_atari()
    if PREFIX in env_id:
        register_minatar()  # only on demand: it is not ours, and imports matplotlib
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            found: Any = functools.reduce(
                lambda held, part: getattr(held, part, None), name.split("."), import_named(module)
            )
            if callable(found):
                return cast(Factory, found)
            if name.isidentifier() and name not in gym.registry:
                raise UnknownEnvError(
                    f"module {module!r} has no function or class {name!r} that makes an "
                    "environment, and none is registered under that name"
                )
        return gym.spec(name)
    except ModuleNotFoundError as error:
        raise EnvError(f"{env_id}: there is no module {error.name!r} to import") from error
    except gym.error.Error as error:
        raise UnknownEnvError(_unknown(env_id, name)) from error


def _unlimited(spec: EnvSpec) -> EnvSpec:
    """Return a copy of a specification without its limit of steps."""
    spec = copy.deepcopy(spec)
    spec.max_episode_steps = None
    return spec


def _unknown(env_id: str, name: str) -> str:
    """Return the one line that answers an unknown id."""
    if name.startswith("ALE/") and "ALE/Pong-v5" not in gym.registry:
        return f"{env_id!r} needs the Atari games: pip install ale-py"
    if name.startswith(PREFIX) and not register_minatar():
        return f"{env_id!r} needs the MinAtar games: pip install minatar (GPL-3.0)"
    no = f"no environment is registered as {env_id!r}"
    for prefix, package in _PACKAGES.items():
        if name.startswith(prefix) and not any(known.startswith(prefix) for known in gym.registry):
            missing = importlib.util.find_spec(package) is None
            install = f"pip install {package}, then " if missing else ""
            return f"{no}; {install}name its package: '{package}:{name}'"
    module = env_id.rpartition(":")[0]
    known_ids = [key for key, spec in gym.registry.items() if not module or _is_from(spec, module)]
    if not known_ids:
        return f"{no}; the module {module!r} registered no environment"
    older = re.fullmatch(r"(?:ALE/)?(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)?-v\d+", name)
    if older and f"ALE/{older[1]}-v5" in known_ids:
        return f"{no}; the nearest id is 'ALE/{older[1]}-v5'"
    near = _nearest(name, known_ids)
    if near is not None:
        return f"{no}; the nearest id is {f'{module}:{near}' if module else near!r}"
    if module:
        return f"{no}, nor anything like it by the module {module!r}"
    return f"{no}, nor anything like it; the id of a package's environment is 'package:Name-v0'"


def _is_from(spec: EnvSpec, module: str) -> bool:
    """Whether an environment is made by the package that ``module`` belongs to."""
    maker = spec.entry_point
    origin = maker if isinstance(maker, str) else getattr(maker, "__module__", "")
    return re.split("[.:]", origin)[0] == module.partition(".")[0]


def _nearest(name: str, known_ids: list[str]) -> str | None:
    """Return the id most like ``name``, with or without namespace and version."""
    by_lower: dict[str, str] = {}
    preferred = ("ALE/", "drama/")  # "pong" is ALE/Pong-v5 rather than the older Pong-v4
    for known in sorted(known_ids, key=lambda known: known.startswith(preferred)):
        bare = known.lower().rsplit("/", 1)[-1]
        by_lower[bare.rsplit("-v", 1)[0]] = by_lower[bare] = known
    by_lower |= {known.lower(): known for known in known_ids}
    near = nearest(name, by_lower, cutoff=_ALIKE)
    return None if near is None else by_lower[near]


def _missing(env_id: str, error: Exception) -> str:
    """Return the one line that says what to install."""
    said = one_line(error)
    if isinstance(error, gym.error.DependencyNotInstalled):
        return f"{env_id} needs a package that is not installed: {said}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.split(".")[0]
        return f"{env_id} needs the module {module!r}: install the package that provides it"
    return f"{env_id} could not be imported: {said}"
