"""The wrappers around an environment object, and how to put them around another one.

Gymnasium's ``env.spec`` names them too, but moves every ``TimeLimit`` to the inside, and knows no
arguments of a wrapper that does not record them.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import (
    HumanRendering,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RecordVideo,
    RenderCollection,
    TimeLimit,
)

from drama.envs.adapt import AdaptedEnv
from drama.importing import attribute, call_text, is_importable, is_literal, parse_call, path_of

RECORDERS = (RecordVideo, HumanRendering, RenderCollection)
"""Wrappers that record or show episodes: a copy would write over the files of the first."""
_CHECKS = (PassiveEnvChecker, OrderEnforcing)
"""Wrappers of ``gymnasium.make`` that only check how the environment is used."""


@dataclass(frozen=True)
class Layer:
    """One wrapper: its class, and its arguments without ``env``; None where they are unknown."""

    kind: type[gym.Wrapper[Any, Any, Any, Any]]
    arguments: Mapping[str, Any] | None

    @property
    def text(self) -> str:
        """``module:Class(name=value, ...)``."""
        return call_text(path_of(self.kind), self.arguments)


def wrappers_of(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """Yield the wrappers around ``env``, the outermost first."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def is_monitor(env: gym.Env[Any, Any]) -> bool:
    """Whether ``env`` is the episode monitor of Stable-Baselines3."""
    module = sys.modules.get("stable_baselines3.common.monitor")
    return module is not None and isinstance(env, module.Monitor)


def recorders(env: gym.Env[Any, Any]) -> list[str]:
    """Return the wrappers around ``env`` that record or show episodes, by class name."""
    return [type(layer).__name__ for layer in wrappers_of(env) if isinstance(layer, RECORDERS)]


def monitor_file(env: gym.Env[Any, Any]) -> bool:
    """Whether a monitor of Stable-Baselines3 around ``env`` writes a file."""
    return any(
        is_monitor(layer) and getattr(layer, "results_writer", None) is not None
        for layer in wrappers_of(env)
    )


def without_recorders(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
    """Take the wrappers that record or show episodes out of a new ``env``."""
    while isinstance(env, RECORDERS):
        env = env.env
    for layer in wrappers_of(env):
        while isinstance(layer.env, RECORDERS):
            layer.env = layer.env.env
    return env


def unrecorded(
    kwargs: Mapping[str, Any], wrappers: Iterable[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return arguments and wrappers, as text, without what records or shows episodes."""
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


def layer_of(env: gym.Wrapper[Any, Any, Any, Any]) -> Layer:
    """Return class and arguments of the outermost wrapper of ``env``."""
    kind, given = type(env), getattr(env, "_saved_kwargs", None)
    if is_monitor(env):
        monitor: Any = env
        names = ("allow_early_resets", "reset_keywords", "info_keywords")
        return Layer(kind, {name: getattr(monitor, name) for name in names})
    if isinstance(env, RecordConstructorArgs) and given is not None:
        arguments = {k: v for k, v in given.items() if k != "env"}
        if _accepts(kind, arguments):  # a subclass may have a constructor of another form
            return Layer(kind, arguments)
    takes = inspect.signature(kind).parameters.values()
    alone = len(takes) == 1 and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in takes)
    return Layer(kind, {} if alone else None)


def _accepts(kind: type[Any], arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(kind).bind(None, **arguments)
    except TypeError:
        return False
    return True


def layers_of(env: gym.Env[Any, Any]) -> tuple[Layer, ...]:
    """Return the wrappers that decide what the environment does, the innermost first.

    Those that only check or record are left out; the walk ends at an environment from
    :func:`drama.make_env`.
    """
    found: list[Layer] = []
    for layer in wrappers_of(env):
        if isinstance(layer, AdaptedEnv) and layer.settings is not None:
            break
        if not isinstance(layer, (*RECORDERS, *_CHECKS)):
            found.append(layer_of(layer))
    return tuple(reversed(found))


def described_wrappers(env: gym.Env[Any, Any]) -> list[str]:
    """Return the wrappers that the user put around an environment as text, innermost first.

    The layers of this package, time limits and counters of episodes are left out.
    """
    from gymnasium.wrappers import AtariPreprocessing

    found = []
    protocol: Mapping[str, Any] = {}
    for layer in wrappers_of(env):
        own = type(layer).__module__.startswith("drama.envs.")
        if isinstance(layer, AdaptedEnv):
            protocol = layer.protocol
        if isinstance(layer, AtariPreprocessing) and protocol.get("frame_skip") is not None:
            continue
        kept = (*RECORDERS, *_CHECKS, TimeLimit, RecordEpisodeStatistics)
        if not (own or isinstance(layer, kept) or is_monitor(layer)):
            found.append(layer_of(layer).text)
    return found[::-1]


def wrap(env: gym.Env[Any, Any], wrappers: Iterable[str]) -> gym.Env[Any, Any]:
    """Put wrappers, given as ``module:Class(name=value, ...)``, around ``env`` in this order."""
    for text in wrappers:
        path, arguments = parse_call(text)
        env = attribute(path)(env, **arguments)
        if not isinstance(env, gym.Env):
            raise TypeError(f"{path} gave {env!r}, which is no gymnasium.Env")
    return env


def registered_kwargs(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the constructor's arguments of a registered environment beyond the registered ones.

    How it is rendered is left out.
    """
    spec = env.unwrapped.spec
    if spec is None:
        return {}
    known = gym.registry[spec.id].kwargs if spec.id in gym.registry else {}
    return {
        name: value
        for name, value in spec.kwargs.items()
        if name != "render_mode" and not _same(known, name, value)
    }


def _same(known: Mapping[str, Any], name: str, value: Any) -> bool:
    """Whether an argument has its registered value."""
    if name not in known:
        return False
    return known[name] is value or (is_literal(value) and bool(known[name] == value))


@dataclass(frozen=True)
class Recipe:
    """How an environment object can be made again: Gymnasium's own core, and the wrappers on it."""

    spec: EnvSpec
    """Specification of the core, without limit, checker and wrappers."""
    layers: tuple[Layer, ...]
    """Wrappers that decide what it does, innermost first, those of the entry point included."""

    @classmethod
    def of(cls, env: gym.Env[Any, Any]) -> Recipe:
        """Read the recipe off an object.

        Raises:
            ValueError: It has no specification, or a wrapper's arguments are unknown.
        """
        made = (e for e in wrappers_of(env) if isinstance(e, AdaptedEnv) and e.settings is not None)
        spec = next(made, env.unwrapped).spec
        if spec is None:
            raise ValueError("it has no specification")
        layers = layers_of(env)
        for layer in layers:
            if layer.arguments is None:
                raise ValueError(f"{layer.kind.__name__} does not record its arguments")
        return cls(bare(spec), layers)

    @classmethod
    def read(cls, spec: EnvSpec, kwargs: Mapping[str, Any], wrappers: Iterable[str]) -> Recipe:
        """Build the recipe from a registered specification, arguments and wrappers as text."""
        spec = bare(spec)
        spec.kwargs |= kwargs
        calls = ((attribute(path), arguments) for path, arguments in map(parse_call, wrappers))
        return cls(spec, tuple(Layer(kind, arguments) for kind, arguments in calls))

    def make(self) -> gym.Env[Any, Any]:
        """Make another environment.

        Raises:
            ValueError: Its entry point puts other wrappers around it than before.
        """
        env = gym.make(copy.deepcopy(self.spec))
        own = [layer.kind for layer in layers_of(env)]
        if own != [layer.kind for layer in self.layers[: len(own)]]:
            raise ValueError(f"{self.spec.id} comes with other wrappers than before")
        for layer in self.layers[len(own) :]:
            env = layer.kind(env, **copy.deepcopy(dict(layer.arguments or {})))
        return env

    def text(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """Return id, arguments and wrappers as a configuration can hold them.

        Raises:
            ValueError: They cannot be written down: a function as an argument, for one.
        """
        known = gym.registry.get(self.spec.id)
        if known is None or known.entry_point != self.spec.entry_point:
            raise ValueError(f"{self.spec.id} is not registered")
        kwargs = {
            name: value
            for name, value in self.spec.kwargs.items()
            if not _same(known.kwargs, name, value)
        }
        for name, value in kwargs.items():
            if not is_literal(value):
                raise ValueError(f"its argument {name} cannot be written down")
        for layer in self.layers:
            if not is_importable(layer.kind):
                raise ValueError(f"{path_of(layer.kind)} cannot be imported")
            for name, value in (layer.arguments or {}).items():
                if not is_literal(value):
                    raise ValueError(f"the argument {name} of {path_of(layer.kind)} is no literal")
        return _qualified(self.spec), kwargs, tuple(layer.text for layer in self.layers)


def bare(spec: EnvSpec) -> EnvSpec:
    """Return a copy of ``spec`` that makes the environment with no wrapper of Gymnasium's."""
    spec = copy.deepcopy(spec)
    spec.max_episode_steps, spec.additional_wrappers = None, ()
    spec.order_enforce, spec.disable_env_checker = False, True
    if spec.kwargs.get("render_mode") == "human":  # no second window
        del spec.kwargs["render_mode"]
    return spec


def _qualified(spec: EnvSpec) -> str:
    """Return the id with the package to import before it, where neither we nor Gymnasium do."""
    entry = spec.entry_point
    package = entry.partition(":")[0].partition(".")[0] if isinstance(entry, str) else ""
    known = ("", "gymnasium", "ale_py", "drama", "minatar")
    return spec.id if package in known else f"{package}:{spec.id}"
