"""What an environment is: the stamp of its protocol, and where two stamps differ."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import TimeLimit

from drama.envs.adapt import AdaptedEnv
from drama.envs.guard import env_name
from drama.envs.layers import described_wrappers, registered_kwargs, wrappers_of
from drama.envs.minatar import is_minatar
from drama.text import one_line

VERSIONS = ("gymnasium", "ale_py", "minatar")
"""Entries of the stamp that tell of packages rather than of the environment."""


_LIBRARIES = ("gymnasium", "stable_baselines3", "ale_py")
"""Packages whose wrappers are compared by class name, wherever in the package they lie."""


def describe(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the protocol under which ``env`` runs, ready for JSON.

    Args:
        env: An environment from :func:`make_env` or :func:`drama.envs.adapt`, or any other.

    Returns:
        ``id``, ``env_kwargs`` (what was given beyond the registered arguments, without the render
        mode), ``wrappers`` (``module:Class(name=value)``, innermost first; none of this package,
        none that records, checks, counts or limits), ``frame_skip``, ``noop_max``,
        ``sticky_actions``, ``full_action_space``, ``life_loss`` (these five None unless Atari;
        MinAtar has sticky actions too), ``observation_space`` (before adaptation, as text),
        ``image_size`` (``[H, W]`` or None for vectors), ``observation_shape``,
        ``max_episode_steps``, ``num_actions``, and the versions of ``gymnasium`` and, where the
        game is theirs, of ``ale_py`` and ``minatar``.
    """
    layers = list(wrappers_of(env))
    adapters = [layer for layer in layers if isinstance(layer, AdaptedEnv)]
    protocol = next((layer.protocol for layer in adapters if layer.protocol), {})
    limits = [int(layer._max_episode_steps) for layer in layers if isinstance(layer, TimeLimit)]
    raw = adapters[-1].adapt_observation.raw_space if adapters else env.observation_space
    shape = env.observation_space.shape or ()
    count = getattr(env.action_space, "n", None)
    kwargs = protocol.get("env_kwargs", registered_kwargs(env))
    atari = type(env.unwrapped).__module__.partition(".")[0] == "ale_py"
    return {
        "id": env_name(env),
        "env_kwargs": json.loads(json.dumps(kwargs, default=str)),
        "wrappers": described_wrappers(env),
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
        "observation_space": one_line(raw),
        "image_size": [int(side) for side in shape[:2]] if len(shape) == 3 else None,
        "observation_shape": [int(side) for side in shape],
        "max_episode_steps": min(limits, default=None),
        "num_actions": None if count is None else int(count),
        "gymnasium": importlib.metadata.version("gymnasium"),
        "ale_py": importlib.metadata.version("ale-py") if atari else None,
        "minatar": importlib.metadata.version("minatar") if is_minatar(env) else None,
    }


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Compare two stamps of :func:`describe`.

    Args:
        saved: That of the environment which was learnt in. What it lacks is not compared.
        now: That of the environment at hand.

    Returns:
        Differences of the environment, and those of package versions, each as text.
    """
    before, after = _flat(saved), _flat(now)
    environment: list[str] = []
    versions: list[str] = []
    for key in dict.fromkeys((*before, *after)):
        section = key.partition(".")[0]
        old, new = before.get(key), after.get(key)
        if key == "id" and _is_registered(old) != _is_registered(new):
            continue  # a class made directly has no id to compare
        if section in saved and section in now and not _same(key, old, new):
            found = versions if key in VERSIONS else environment
            found.append(f"{key} {_shown(old)} (now {_shown(new)})")
    return environment, versions


def _is_registered(name: Any) -> bool:
    """Whether this is an id, with or without a version, and not the name of a class."""
    return re.search(r"-v\d+$", str(name)) is not None or str(name) in gym.registry


def _flat(stamp: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stamp with each argument of the constructor as an entry; rendering is left out."""
    kwargs = stamp.get("env_kwargs")
    kwargs = kwargs if isinstance(kwargs, Mapping) else {}
    rest = {key: value for key, value in stamp.items() if key != "env_kwargs"}
    own = {f"env_kwargs.{k}": v for k, v in kwargs.items() if k != "render_mode"}
    return rest | own


def _same(key: str, old: Any, new: Any) -> bool:
    if key != "wrappers" or not (isinstance(old, list | tuple) and isinstance(new, list | tuple)):
        return bool(old == new)
    return len(old) == len(new) and all(map(_same_wrapper, map(str, old), map(str, new)))


def _same_wrapper(old: str, new: str) -> bool:
    """Whether two wrappers, ``module:Class(arguments)``, are of one class and one arguments.

    Libraries move theirs between modules, and a script's (``__main__``) may be imported later. Two
    modules of a user may have different wrappers of one name.
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
