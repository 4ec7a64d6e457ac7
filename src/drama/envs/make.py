"""Environments by id, and the stamp that says under which protocol one runs."""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import TimeLimit

from drama.envs.adapt import AdaptedEnv, adapt, require_env
from drama.envs.atari import is_atari, make_atari, register_atari
from drama.envs.guard import env_name
from drama.envs.minatar import PREFIX, is_minatar, minatar_protocol, register_minatar
from drama.envs.toy import PixelGame, register_games
from drama.errors import EnvError, UnknownEnvError

FOREIGN_IMAGE_SIZE = 64

_PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "MiniWorld-": "miniworld"}
"""Beginnings of ids, and the package that registers them when it is imported."""
_ALIKE = 0.8
"""Similarity of two names, 0 to 1, from which on one is offered for the other."""


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
) -> gym.Env[Any, Any]:
    """Make an environment that the agent can learn in.

    Atari games (``ALE/Pong-v5``) follow the Atari100k protocol of :mod:`drama.envs.atari`. Any
    other id is made by Gymnasium and adapted by :func:`drama.envs.adapt`; the games of MinAtar
    (``MinAtar/Breakout-v1``, extra ``minatar``) need no import of their own. ``info["episode"]``
    holds ``{"r": return, "l": length, "t": seconds}`` at the end of each episode, for Atari at
    the end of each whole game.

    Args:
        env_id: An id known to Gymnasium; ``"module:Name-v0"`` imports ``module`` first.
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

    Returns:
        An environment with ``Box(0, 255, (H, W, C), uint8)`` or ``Box(-inf, inf, (N,), float32)``
        observations and ``Discrete(n)`` actions counted from 0.

    Raises:
        UnknownEnvError: No such id; the message names one that is near, or the package.
        UnsupportedSpaceError: Its observation or action space is not supported.
        EnvError: It could not be constructed: a wrong argument, a missing dependency.
    """
    if env_kwargs is not None and not isinstance(env_kwargs, Mapping):
        raise EnvError(f"env_kwargs must map argument names to values, got {env_kwargs!r}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise EnvError(f"seed must be an integer of at least 0 or None, got {seed!r}")
    spec = copy.deepcopy(_find(env_id))
    # The guard belongs directly around the environment, so any limit is applied by us.
    limit = spec.max_episode_steps if max_episode_steps is None else max_episode_steps
    spec.max_episode_steps = None
    protocol: dict[str, Any]
    try:
        if is_atari(spec):
            env, protocol = make_atari(
                spec,
                image_size=image_size,
                max_episode_steps=max_episode_steps,
                life_loss=life_loss,
                noop_max=noop_max,
                frame_skip=frame_skip,
                sticky_actions=sticky_actions,
                full_action_space=full_action_space,
                env_kwargs=env_kwargs,
            )
            limit = None
        else:
            env = gym.make(spec, disable_env_checker=True, **dict(env_kwargs or {}))
            protocol = minatar_protocol(env) if is_minatar(env) else {}
            if image_size is None:
                image_size = default_image_size(env)
    except EnvError:
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:
        raise EnvError(_missing(env_id, error)) from error
    except Exception as error:
        given = f" with env_kwargs {dict(env_kwargs)}" if env_kwargs else ""
        reason = f"{type(error).__name__}: {error}"
        raise EnvError(f"{env_id} could not be made{given}: {_one_line(reason)}") from error
    protocol["env_kwargs"] = dict(env_kwargs or {})
    adapted = adapt(
        env, image_size=image_size, max_episode_steps=limit, seed=seed, protocol=protocol
    )
    if isinstance(adapted, AdaptedEnv):
        adapted.remake = lambda seed: make_env(
            env_id,
            seed,
            image_size=image_size,
            max_episode_steps=max_episode_steps,
            life_loss=False,
            noop_max=noop_max,
            frame_skip=frame_skip,
            sticky_actions=sticky_actions,
            full_action_space=full_action_space,
            env_kwargs=env_kwargs,
        )
    return adapted


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


def describe(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the protocol under which ``env`` runs, ready for JSON.

    Args:
        env: An environment from :func:`make_env` or :func:`drama.envs.adapt`, or any other.

    Returns:
        ``id``, ``env_kwargs``, ``frame_skip``, ``noop_max``, ``sticky_actions``,
        ``full_action_space``, ``life_loss`` (these five None unless Atari; MinAtar has sticky
        actions too), ``image_size`` (``[H, W]`` or None for vectors), ``observation_shape``,
        ``max_episode_steps``, ``num_actions``, and the versions of ``gymnasium`` and, where the
        game is theirs, of ``ale_py`` and ``minatar``.
    """
    protocol: dict[str, Any] = {}
    limit: int | None = None
    layer: gym.Env[Any, Any] = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, AdaptedEnv) and not protocol:
            protocol = layer.protocol
        if isinstance(layer, TimeLimit):
            own = int(layer._max_episode_steps)
            limit = own if limit is None else min(limit, own)
        layer = layer.env
    spec = env.spec
    shape = env.observation_space.shape or ()
    count = getattr(env.action_space, "n", None)
    kwargs = protocol.get("env_kwargs", dict(spec.kwargs) if spec is not None else {})
    atari = spec is not None and is_atari(spec)
    stamp = {
        "id": env_name(env),
        "env_kwargs": json.loads(json.dumps(kwargs, default=str)),
        **{
            name: protocol.get(name)
            for name in (
                "frame_skip",
                "noop_max",
                "sticky_actions",
                "full_action_space",
                "life_loss",
            )
        },
        "image_size": [int(side) for side in shape[:2]] if len(shape) == 3 else None,
        "observation_shape": [int(side) for side in shape],
        "max_episode_steps": limit,
        "num_actions": None if count is None else int(count),
        "gymnasium": importlib.metadata.version("gymnasium"),
        "ale_py": importlib.metadata.version("ale-py") if atari else None,
        "minatar": importlib.metadata.version("minatar") if is_minatar(env) else None,
    }
    return stamp


def _find(env_id: str) -> EnvSpec:
    """Return the specification registered under ``env_id``."""
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
            importlib.import_module(module)
        return gym.spec(name)
    except ModuleNotFoundError as error:
        raise EnvError(f"{env_id}: there is no module {error.name!r} to import") from error
    except gym.error.Error as error:
        raise UnknownEnvError(_unknown(env_id, name)) from error


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
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=_ALIKE)
    return by_lower[near[0]] if near else None


def _missing(env_id: str, error: Exception) -> str:
    """Return the one line that says what to install."""
    said = _one_line(str(error))
    if isinstance(error, gym.error.DependencyNotInstalled):
        return f"{env_id} needs a package that is not installed: {said}"
    if isinstance(error, ModuleNotFoundError) and error.name:
        module = error.name.split(".")[0]
        return f"{env_id} needs the module {module!r}: install the package that provides it"
    return f"{env_id} could not be imported: {said}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
