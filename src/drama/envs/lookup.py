"""Finds an environment by id or import path, and suggests the nearest id if there is none."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Callable
from typing import Any, TypeAlias, cast

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from drama.envs.families import families
from drama.errors import EnvError, UnknownEnvError
from drama.importing import import_named
from drama.text import nearest

Factory: TypeAlias = "Callable[..., gym.Env[Any, Any]]"
"""A function or class that makes an environment."""

_PACKAGES = {"MiniGrid-": "minigrid", "BabyAI-": "minigrid", "MiniWorld-": "miniworld"}
"""Prefixes of ids, and the package that registers them when imported."""
_CUTOFF = 0.8
"""Least similarity of an id that is suggested; lower values suggest other games."""


def find(env_id: str) -> EnvSpec | Factory:
    """Return the specification registered under an id, or the object at an import path.

    ``module:name`` is an import path if ``module`` has a callable of that name. Ids end in a
    version, which no Python name does.

    Raises:
        UnknownEnvError: Neither exists.
        EnvError: The module does not exist.
    """
    if not isinstance(env_id, str) or not env_id:
        raise UnknownEnvError(
            f"an environment id is a string such as 'ALE/Pong-v5', got {env_id!r}"
        )
    _register_ids(env_id)
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            found: Any = functools.reduce(
                lambda held, part: getattr(held, part, None), name.split("."), import_named(module)
            )
            if callable(found):
                return cast(Factory, found)
            _register_ids(env_id)  # the module may have added a family
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


def _register_ids(env_id: str) -> None:
    for family in families():
        family.register_ids(env_id)


def _unknown(env_id: str, name: str) -> str:
    """Return the error message for an unknown id."""
    for family in families():
        if family.install and name.startswith(family.prefix) and not _any_with(family.prefix):
            return f"{env_id!r} needs {family.install}"
    no = f"no environment is registered as {env_id!r}"
    for prefix, package in _PACKAGES.items():
        if name.startswith(prefix) and not _any_with(prefix):
            missing = importlib.util.find_spec(package) is None
            install = f"pip install {package}, then " if missing else ""
            return f"{no}; {install}name its package: '{package}:{name}'"
    module = env_id.rpartition(":")[0]
    known = [key for key, spec in gym.registry.items() if not module or _is_from(spec, module)]
    if not known:
        return f"{no}; the module {module!r} registered no environment"
    current = (family.current_id(name) for family in families())
    near = next((one for one in current if one in known), None)
    if near is not None:
        return f"{no}; the nearest id is {near!r}"
    near = _nearest(name, known)
    if near is not None:
        return f"{no}; the nearest id is {f'{module}:{near}' if module else near!r}"
    if module:
        return f"{no}, nor anything like it by the module {module!r}"
    return f"{no}, nor anything like it; the id of a package's environment is 'package:Name-v0'"


def _any_with(prefix: str) -> bool:
    return any(known.startswith(prefix) for known in gym.registry)


def _is_from(spec: EnvSpec, module: str) -> bool:
    """Whether an environment is defined in the package of ``module``."""
    maker = spec.entry_point
    origin = maker if isinstance(maker, str) else getattr(maker, "__module__", "")
    return re.split("[.:]", origin)[0] == module.partition(".")[0]


def _nearest(name: str, known: list[str]) -> str | None:
    """Return the id nearest to ``name``, with or without namespace and version."""
    prefixes = [family.prefix for family in reversed(families()) if family.prefix]

    def rank(env_id: str) -> int:  # "pong" is ALE/Pong-v5 rather than the older Pong-v4
        return next((i for i, p in enumerate(prefixes, 1) if env_id.startswith(p)), 0)

    by_lower: dict[str, str] = {}
    for env_id in sorted(known, key=rank):
        bare = env_id.lower().rsplit("/", 1)[-1]
        by_lower[bare.rsplit("-v", 1)[0]] = by_lower[bare] = env_id
    by_lower |= {env_id.lower(): env_id for env_id in known}
    near = nearest(name, by_lower, cutoff=_CUTOFF)
    return None if near is None else by_lower[near]
