"""Description of an environment, as results and checkpoints record it, and its comparison."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from drama.envs.adapt import AdaptedEnv
from drama.envs.atari import Atari
from drama.envs.families import EnvFamily, families, family_of
from drama.envs.minatar import MinAtar
from drama.envs.recipe import Layer, registered_kwargs
from drama.envs.wrappers import env_name, is_neutral, wrappers_of
from drama.text import one_line

_LIBRARIES = ("gymnasium", "stable_baselines3", "ale_py")
"""Packages whose wrappers are compared by class name, wherever in the package they are defined."""


def describe(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the protocol under which ``env`` runs, ready for JSON.

    Args:
        env: An environment from :func:`make_env` or :func:`drama.envs.adapt`, or any other.

    Returns:
        ``id``, ``env_kwargs`` (beyond the registered arguments, without the render mode),
        ``wrappers`` (``module:Class(name=value)``, innermost first; none of this package, none
        that records, checks, counts or limits), the protocol of its family (``frame_skip``,
        ``noop_max``, ``sticky_actions``, ``full_action_space`` and ``life_loss`` are always
        there, None unless Atari; MinAtar has sticky actions too), ``observation_space`` (before
        adaptation, as text), ``image_size`` (``[H, W]`` or None for vectors),
        ``observation_shape`` (by leaf for a Dict), ``max_episode_steps``, ``num_actions``, and the
        versions of ``gymnasium`` and of the family's packages (``ale_py`` and ``minatar`` are
        always there).
    """
    layers = list(wrappers_of(env))
    adapters = [layer for layer in layers if isinstance(layer, AdaptedEnv)]
    protocol = next((layer.protocol for layer in adapters if layer.protocol), {})
    limits = [int(layer._max_episode_steps) for layer in layers if isinstance(layer, TimeLimit)]
    raw = adapters[-1].adapt_observation.raw_space if adapters else env.observation_space
    shape = _shape(env.observation_space)
    count = getattr(env.action_space, "n", None)
    kwargs = protocol.get("env_kwargs", registered_kwargs(env))
    family = family_of(env)
    return {
        "id": env_name(env),
        "env_kwargs": json.loads(json.dumps(kwargs, default=str)),
        "wrappers": _user_wrappers(env, family),
        **dict.fromkeys(Atari.settings),
        **{name: value for name, value in protocol.items() if name != "env_kwargs"},
        "observation_space": one_line(raw),
        "image_size": shape[:2] if isinstance(shape, list) and len(shape) == 3 else None,
        "observation_shape": shape,
        "max_episode_steps": min(limits, default=None),
        "num_actions": None if count is None else int(count),
        **dict.fromkeys((*Atari.packages, *MinAtar.packages)),
        **{package: _version(package) for package in ("gymnasium", *family.packages)},
    }


def _shape(space: gym.Space[Any]) -> list[int] | dict[str, list[int]]:
    """Return the shape of an adapted observation, or of each of its leaves."""
    if isinstance(space, gym.spaces.Dict):
        return {name: [int(side) for side in part.shape or ()] for name, part in space.items()}
    return [int(side) for side in space.shape or ()]


def foreign_wrappers(env: gym.Env[Any, Any]) -> tuple[str, ...]:
    """Return the class names of wrappers that may change the task, outermost first.

    Wrappers that the environment's family applies are left out, also if the user applied them.
    """
    known = family_of(env).wrappers
    return tuple(
        type(layer).__name__
        for layer in wrappers_of(env)
        if not (is_neutral(layer) or isinstance(layer, known))
    )


def _user_wrappers(env: gym.Env[Any, Any], family: EnvFamily) -> list[str]:
    """Return the wrappers that may change the task as text, innermost first.

    Wrappers applied by the family are left out: its protocol states their effect.
    """
    found = []
    by_family = False
    for layer in wrappers_of(env):
        by_family |= isinstance(layer, AdaptedEnv) and layer.settings is not None
        if not (is_neutral(layer) or (by_family and isinstance(layer, family.wrappers))):
            found.append(Layer.of(layer).text)
    return found[::-1]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare two descriptions by :func:`describe`.

    Args:
        saved: Description of the environment that the agent was trained in. Entries that it lacks
            are not compared.
        now: Description of the present environment.

    Returns:
        Differences of the environment, and those of package versions, each as text.
    """
    before, after = _flat(saved), _flat(now)
    packages = {"gymnasium"}.union(*(family.packages for family in families()))
    environment: list[str] = []
    versions: list[str] = []
    for key in dict.fromkeys((*before, *after)):
        section = key.partition(".")[0]
        old, new = before.get(key), after.get(key)
        if key == "id" and _is_registered(old) != _is_registered(new):
            continue  # an instance of a class has no id to compare
        if section in saved and section in now and not _same(key, old, new):
            found = versions if key in packages else environment
            found.append(f"{key} {_shown(old)} (now {_shown(new)})")
    return environment, versions


def _is_registered(name: Any) -> bool:
    """Whether a name is an id, with or without a version, rather than a class name."""
    return re.search(r"-v\d+$", str(name)) is not None or str(name) in gym.registry


def _flat(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description with one entry per constructor argument, without the render mode."""
    kwargs = description.get("env_kwargs")
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    rest = {key: value for key, value in description.items() if key != "env_kwargs"}
    own = {f"env_kwargs.{k}": v for k, v in kwargs.items() if k != "render_mode"}
    return rest | own


def _same(key: str, old: Any, new: Any) -> bool:
    if key != "wrappers" or not (isinstance(old, list | tuple) and isinstance(new, list | tuple)):
        return bool(old == new)
    return len(old) == len(new) and all(map(_same_wrapper, map(str, old), map(str, new)))


def _same_wrapper(old: str, new: str) -> bool:
    """Whether two wrappers, ``module:Class(arguments)``, have the same class and arguments.

    The module may differ within a library, or if one of them is a script (``__main__``). Two
    modules of a user may define different wrappers of one name.
    """
    (before, *old_call), (after, *new_call) = old.partition("("), new.partition("(")
    modules = [path.replace(":", ".").rpartition(".")[0] for path in (before, after)]
    names = [path.replace(":", ".").rpartition(".")[2] for path in (before, after)]
    packages = [module.partition(".")[0] for module in modules]
    moved = packages[0] == packages[1] in _LIBRARIES or "__main__" in modules
    return names[0] == names[1] and old_call == new_call and (modules[0] == modules[1] or moved)


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
