"""How an environment object can be made again: Gymnasium's specification and the wrappers on it.

``env.spec`` names the wrappers too, but moves every ``TimeLimit`` to the inside, and lacks the
arguments of wrappers that do not record them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from drama.envs.adapt import AdaptedEnv
from drama.envs.families import GYMNASIUM, family_of
from drama.envs.wrappers import CHECKS, RECORDERS, is_sb3_monitor, wrappers_of
from drama.importing import attribute, call_text, is_importable, is_literal, parse_call, path_of


@dataclass(frozen=True)
class Layer:
    """One wrapper: its class, and its arguments without ``env``; None where they are unknown."""

    kind: type[gym.Wrapper[Any, Any, Any, Any]]
    arguments: Mapping[str, Any] | None

    @classmethod
    def of(cls, env: gym.Wrapper[Any, Any, Any, Any]) -> Layer:
        """Read the outermost wrapper of ``env``."""
        kind, given = type(env), getattr(env, "_saved_kwargs", None)
        if is_sb3_monitor(env):
            names = ("allow_early_resets", "reset_keywords", "info_keywords")
            return cls(kind, {name: getattr(env, name) for name in names if hasattr(env, name)})
        if isinstance(env, RecordConstructorArgs) and given is not None:
            arguments = {k: v for k, v in given.items() if k != "env"}
            if _accepts(kind, arguments):  # a subclass may have another constructor
                return cls(kind, arguments)
        parameters = inspect.signature(kind).parameters.values()
        alone = len(parameters) == 1 and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        return cls(kind, {} if alone else None)

    @property
    def text(self) -> str:
        """``module:Class(name=value, ...)``."""
        return call_text(path_of(self.kind), self.arguments)


def _accepts(kind: type[Any], arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(kind).bind(None, **arguments)
    except TypeError:
        return False
    return True


def layers_of(env: gym.Env[Any, Any]) -> tuple[Layer, ...]:
    """Return the wrappers that change the environment, innermost first.

    Wrappers that only check or record are left out, and everything inside an environment from
    :func:`drama.make_env`.
    """
    found: list[Layer] = []
    for layer in wrappers_of(env):
        if isinstance(layer, AdaptedEnv) and layer.settings is not None:
            break
        if not isinstance(layer, (*RECORDERS, *CHECKS)):
            found.append(Layer.of(layer))
    return tuple(reversed(found))


def registered_kwargs(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the constructor's arguments beyond the registered ones, without the render mode."""
    given = {} if env.unwrapped.spec is None else _given(env.unwrapped.spec)
    return {name: value for name, value in given.items() if name != "render_mode"}


def _given(spec: EnvSpec) -> dict[str, Any]:
    """Return the arguments of a specification that differ from the registered ones."""
    known = gym.registry[spec.id].kwargs if spec.id in gym.registry else {}

    def is_default(name: str, value: Any) -> bool:
        if name not in known:
            return False
        return known[name] is value or (is_literal(value) and bool(known[name] == value))

    return {name: value for name, value in spec.kwargs.items() if not is_default(name, value)}


@dataclass(frozen=True)
class Recipe:
    """Gymnasium's specification of the core environment, and the wrappers to put on it."""

    spec: EnvSpec
    """Specification of the core, without limit, checker and wrappers."""
    layers: tuple[Layer, ...]
    """Wrappers that change it, innermost first, those of the entry point included."""

    @classmethod
    def of(cls, env: gym.Env[Any, Any]) -> Recipe:
        """Read the recipe from an object.

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
        return cls(_bare(spec), layers)

    @classmethod
    def read(cls, spec: EnvSpec, kwargs: Mapping[str, Any], wrappers: Iterable[str]) -> Recipe:
        """Build the recipe from a registered specification, arguments and wrappers as text."""
        spec = _bare(spec)
        spec.kwargs |= kwargs
        calls = ((attribute(path), arguments) for path, arguments in map(parse_call, wrappers))
        return cls(spec, tuple(Layer(kind, arguments) for kind, arguments in calls))

    def make(self) -> gym.Env[Any, Any]:
        """Make another environment.

        Raises:
            ValueError: Its entry point applies other wrappers than before.
        """
        env = gym.make(copy.deepcopy(self.spec))
        own = [layer.kind for layer in layers_of(env)]
        if own != [layer.kind for layer in self.layers[: len(own)]]:
            raise ValueError(f"{self.spec.id} comes with other wrappers than before")
        for layer in self.layers[len(own) :]:
            env = layer.kind(env, **copy.deepcopy(dict(layer.arguments or {})))
        return env

    def text(self) -> tuple[str, dict[str, Any], tuple[str, ...]]:
        """Return id, arguments and wrappers as ``config.env`` holds them.

        Raises:
            ValueError: They cannot be written as text, such as a function as an argument.
        """
        known = gym.registry.get(self.spec.id)
        if known is None or known.entry_point != self.spec.entry_point:
            raise ValueError(f"{self.spec.id} is not registered")
        kwargs = _given(self.spec)
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


def _bare(spec: EnvSpec) -> EnvSpec:
    """Return a copy of ``spec`` that makes the environment without Gymnasium's own wrappers."""
    spec = copy.deepcopy(spec)
    spec.max_episode_steps, spec.additional_wrappers = None, ()
    spec.order_enforce, spec.disable_env_checker = False, True
    if spec.kwargs.get("render_mode") == "human":  # no second window
        del spec.kwargs["render_mode"]
    return spec


def _qualified(spec: EnvSpec) -> str:
    """Return the id, prefixed with its package unless Gymnasium or a family registers it."""
    entry = spec.entry_point
    package = entry.partition(":")[0].partition(".")[0] if isinstance(entry, str) else ""
    known = package in ("", "gymnasium", "drama") or family_of(spec) is not GYMNASIUM
    return spec.id if known else f"{package}:{spec.id}"
