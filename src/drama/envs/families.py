"""Environment families: the differences between Atari, MinAtar, built-in games and others.

A family recognises its environments, makes them, states their protocol and their picture size.
Everything that depends on the kind of an environment is a method or an attribute of
:class:`EnvFamily`; the class itself is the family of any other Gymnasium environment.

To add a family, subclass it, override the differences and decorate the class with
:func:`register_family`. An installed package names its class in the entry-point group
``drama.env_families`` instead.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeVar

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from drama.envs.spaces import check_positive
from drama.errors import EnvError
from drama.registry import ENV_FAMILIES

IMAGE_SIZE = 64
"""Default side of the adapted picture, in pixels."""

logger = logging.getLogger("drama")


@dataclass(frozen=True)
class EnvOptions:
    """Options of one environment: arguments of :func:`drama.make_env`."""

    image_size: int | None = None
    """Side of the picture in pixels; None is the family's default."""
    max_episode_steps: int | None = None
    """Agent steps after which an episode is truncated; None is the registered limit."""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the constructor."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values of the family's own :attr:`EnvFamily.settings`."""

    def __post_init__(self) -> None:
        if not isinstance(self.kwargs, Mapping):
            raise EnvError(f"env_kwargs must map argument names to values, got {self.kwargs!r}")
        check_positive("image_size", self.image_size)
        check_positive("max_episode_steps", self.max_episode_steps)


class ScoreRange(NamedTuple):
    """Mean episode returns that bound a normalised score."""

    random: float
    """Return of the uniformly random policy: normalised to 0."""
    best: float
    """Return of the best policy: normalised to 1."""


class EnvFamily:
    """A family of environments; the base class is any environment known to Gymnasium.

    Attributes:
        name: Key in the registry.
        prefix: Beginning of its ids. Families registered later win where ids are ambiguous.
        module: Module or package whose classes are its environments, whatever their id; "" if the
            prefix alone decides.
        install: What its ids need and how to install it, for the error message.
        packages: Distributions whose versions are recorded with the environment.
        settings: Fields of ``config.env`` that this family reads, with their defaults. Other
            families do not see them. ``life_loss`` is False in evaluation. Options that are no
            field of ``config.env`` are arguments of the constructor: ``env.kwargs``.
        image_size: Default side of the adapted picture in pixels; None keeps the native size.
        wrappers: Wrappers of other packages that :meth:`make` adds and :meth:`protocol` covers.
        preprocesses: Whether :meth:`make` applies ``image_size`` and ``max_episode_steps``.
        ends_games: Whether ``terminated`` always ends the game, even with ``info["lives"]`` left.
    """

    name: ClassVar[str] = "gymnasium"
    prefix: ClassVar[str] = ""
    module: ClassVar[str] = ""
    install: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[Mapping[str, Any]] = {}
    image_size: ClassVar[int | None] = IMAGE_SIZE
    wrappers: ClassVar[tuple[type[gym.Wrapper[Any, Any, Any, Any]], ...]] = ()
    preprocesses: ClassVar[bool] = False
    ends_games: ClassVar[bool] = False

    def register_ids(self, env_id: str) -> None:
        """Register the ids of this family in Gymnasium, if ``env_id`` may be one of them.

        Called before each lookup, so a second call must be harmless.
        """

    def current_id(self, name: str) -> str | None:
        """Return the id that replaced an outdated one, or None."""
        return None

    def matches(self, spec: EnvSpec) -> bool:
        """Whether a registered specification belongs to this family."""
        if self.module:
            return isinstance(spec.entry_point, str) and self._defines(spec.entry_point)
        return bool(self.prefix) and spec.id.startswith(self.prefix)

    def contains(self, env: gym.Env[Any, Any]) -> bool:
        """Whether an environment object, wrapped or not, belongs to this family."""
        if self.module:
            return any(self._defines(kind.__module__) for kind in type(env.unwrapped).__mro__)
        spec = env.unwrapped.spec
        return spec is not None and self.matches(spec)

    def _defines(self, path: str) -> bool:
        """Whether an import path lies in :attr:`module`."""
        return f"{path}.".replace(":", ".").startswith(f"{self.module}.")

    def make(self, spec: EnvSpec, options: EnvOptions) -> gym.Env[Any, Any]:
        """Make an environment.

        Args:
            spec: Registered specification. Its time limit is removed unless a wrapper of the
                user's may read it.
            options: Options; a family that does not preprocess needs ``kwargs`` only.

        Raises:
            EnvError: An option is out of range. Any other exception becomes one.
        """
        return gym.make(spec, disable_env_checker=True, **options.kwargs)

    def protocol(self, env: gym.Env[Any, Any], options: EnvOptions) -> dict[str, Any]:
        """Return the facts about ``env`` that results and checkpoints record in addition.

        The values must be JSON. A run refuses an environment with other values.
        """
        return {}

    def score_range(self, env_id: str) -> ScoreRange | None:
        """Return the returns of the random and the best policy, or None where unknown."""
        return None


GYMNASIUM = EnvFamily()
"""Family of every environment that no other family recognises."""
FamilyT = TypeVar("FamilyT", bound=type[EnvFamily])


def register_family(family: FamilyT) -> FamilyT:
    """Register a family; a class decorator.

    Raises:
        ConfigError: Another family has its name.
    """
    return ENV_FAMILIES.register(family.name)(family)


def families() -> tuple[EnvFamily, ...]:
    """Return all families but :data:`GYMNASIUM`, those registered last first."""
    names = (*ENV_FAMILIES.built_in, *ENV_FAMILIES.registered)
    own = [_instance(ENV_FAMILIES.get(name)) for name in names if name != GYMNASIUM.name]
    return (*_installed(), *reversed(own))


@functools.cache
def _instance(family: Callable[[], EnvFamily]) -> EnvFamily:
    return family()


@functools.cache
def _installed() -> tuple[EnvFamily, ...]:
    """Load the families of installed packages; those that fail are skipped with a warning."""
    found: list[EnvFamily] = []
    for entry in ENV_FAMILIES.installed():
        try:
            family = entry.load()
            if not (isinstance(family, type) and issubclass(family, EnvFamily)):
                raise TypeError(f"{family!r} is no subclass of EnvFamily")
        except Exception as error:
            logger.warning(
                "environment family %r of an installed package cannot be loaded from %r: %s",
                *(entry.name, entry.value, error),
            )
        else:
            found.append(family())
    return tuple(found)


def family_of(target: EnvSpec | gym.Env[Any, Any]) -> EnvFamily:
    """Return the family of a registered specification or of an environment object."""
    for family in families():
        if family.matches(target) if isinstance(target, EnvSpec) else family.contains(target):
            return family
    return GYMNASIUM


def family_settings() -> dict[str, Any]:
    """Return the settings of all families, with their defaults."""
    return {name: value for family in families() for name, value in family.settings.items()}


def score_range(env_id: str) -> ScoreRange | None:
    """Return the returns of the random and the best policy of a registered id.

    None where the id or the returns are unknown. No module is imported for it.
    """
    spec = gym.registry.get(env_id)
    return None if spec is None else family_of(spec).score_range(env_id)
