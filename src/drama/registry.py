"""Registries of everything that a setting or an id selects by name.

An implementation is built in, registered by a decorator, or named in an entry-point group of an
installed package:

    from drama.registry import SAMPLERS

    @SAMPLERS.register("mine")              # then: replay.sampler = "mine"
    class Mine(Sampler): ...

    [project.entry-points."drama.samplers"]  # the same in another package's pyproject.toml
    mine = "package.module:Mine"

No implementation is imported before it is used, so that settings need no torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from drama.errors import ConfigError
from drama.text import brief, nearest

T = TypeVar("T")
Builder = Callable[..., Any]


class Registry:
    """Implementations of one kind by name.

    Args:
        kind: Noun of the kind in messages.
        groups: Entry-point groups of other packages.
        built_in: Name to ``module:attribute`` of the implementations in this package.
    """

    def __init__(self, kind: str, groups: Iterable[str], built_in: Mapping[str, str]) -> None:
        self.kind = kind
        self.groups = tuple(groups)
        self.built_in = dict(built_in)
        self.registered: dict[str, Builder] = {}
        """Implementations registered while the process runs."""

    def register(self, name: str) -> Callable[[T], T]:
        """Register a class or function under a name; a decorator that returns it unchanged.

        Raises:
            ConfigError: The name is none, or belongs to another implementation.
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(f"register takes the name of the {self.kind}: @register('my-name')")

        def decorate(implementation: Any) -> Any:
            taken: object = self.built_in.get(name, self.registered.get(name))
            if taken is not None and taken is not implementation:
                raise ConfigError(f"a {self.kind} is registered as {name!r} already: {taken}")
            self.registered[name] = implementation
            return implementation

        return decorate

    def names(self) -> tuple[str, ...]:
        """Return all names: built in, registered, and of installed packages."""
        installed = (entry.name for entry in self.installed())
        return tuple(dict.fromkeys((*self.built_in, *sorted(self.registered), *sorted(installed))))

    def check(self, name: str, setting: str = "") -> None:
        """Check that an implementation has this name, without importing it.

        Args:
            name: Name to check.
            setting: Dotted name of the setting that selects it, for the message.

        Raises:
            ConfigError: None has; the nearest name is given.
        """
        # Entry points are read from disk, so they come last.
        if name not in self.built_in and name not in self.registered and name not in self.names():
            message = unknown(self.kind, name, self.names())
            raise ConfigError(f"{setting}: {message}" if setting else message)

    def get(self, name: str) -> Builder:
        """Return the implementation of this name, importing it if needed.

        Raises:
            ConfigError: None has the name, or an installed package's cannot be imported.
        """
        self.check(name)
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            found: Builder = getattr(importlib.import_module(module), attribute)
            return found
        if name in self.registered:
            return self.registered[name]
        entry = next(entry for entry in self.installed() if entry.name == name)
        try:
            loaded: Builder = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.kind} {name!r} is announced by an installed package as {entry.value!r}, "
                f"which cannot be loaded: {error}"
            ) from error
        return loaded

    def installed(self) -> list[EntryPoint]:
        """Return the entry points of installed packages."""
        return [entry for group in self.groups for entry in entry_points(group=group)]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message of an unknown name, with the nearest of the known ones."""
    known = tuple(known)
    names = f"there are {', '.join(known)}"
    near = nearest(name, known)
    hint = names if near is None else f"did you mean {near}? ({names})"
    return f"unknown {kind} {brief(name)}; {hint}"


SEQUENCE_MODELS = Registry(
    "sequence model",
    ("drama.sequence_models", "drama.dynamics"),
    {
        "mamba2": "drama.dynamics.mamba:Mamba2Dynamics",
        "mamba1": "drama.dynamics.mamba:Mamba1Dynamics",
        "transformer": "drama.dynamics.transformer:TransformerDynamics",
        "gru": "drama.dynamics.gru:GRUDynamics",
    },
)
"""``world_model.dynamics.name``: builders ``DynamicsConfig -> SequenceModel``."""

SAMPLERS = Registry(
    "sampler",
    ("drama.samplers",),
    {
        "uniform": "drama.replay.sampling:Uniform",
        "dfs": "drama.replay.sampling:DFS",
        "dfs-trained": "drama.replay.sampling:DFSTrained",
    },
)
"""``replay.sampler``: subclasses of ``Sampler``, built as ``(ReplayConfig, device)``."""

BEHAVIOURS = Registry(
    "behaviour",
    ("drama.behaviours",),
    {
        "actor-critic": "drama.behaviour.actor_critic:ActorCritic",
        "ppo": "drama.behaviour.ppo:make_ppo",
    },
)
"""``behaviour.algorithm``: builders ``(BehaviourConfig, features, ActionSpace) -> Behaviour``."""

ENV_FAMILIES = Registry(
    "environment family",
    ("drama.env_families",),
    {
        "gymnasium": "drama.envs.families:EnvFamily",
        "minatar": "drama.envs.minatar:MinAtar",
        "built-in": "drama.envs.built_in:BuiltIn",
        "atari": "drama.envs.atari:Atari",
    },
)
"""Subclasses of ``EnvFamily``; where several match an id, the last one wins."""
