"""The observation space: named leaves in a fixed order, and how the models read each of them.

An adapted environment (:func:`drama.envs.adapt`) observes one array, the only leaf of its space,
or a ``gymnasium.spaces.Dict`` of arrays, one for each leaf. Replay, models and checkpoints know
observations through :class:`ObsSpace` alone.

=========  =======================  ========  ===================================================
kind       shape                    dtype     encoder and decoder
=========  =======================  ========  ===================================================
image      ``(H, W, C)``            uint8     convolutions; error of pixels (``image_loss``)
vector     ``(N,)``                 float32   MLP; squared error in symlog space
one-hot    ``(N,)``, class indices  int32     MLP on one-hot variables; cross-entropy of each
=========  =======================  ========  ===================================================
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar

import numpy as np
from gymnasium import spaces

from drama.errors import ConfigError
from drama.text import did_you_mean

LeafKind = Literal["image", "vector", "one-hot"]
ALL = ("*",)
"""Pattern of every leaf."""
_DTYPES: Mapping[LeafKind, str] = {"image": "uint8", "vector": "float32", "one-hot": "int32"}
T = TypeVar("T")


@dataclass(frozen=True)
class Leaf:
    """One array of an observation."""

    kind: LeafKind
    """How it is read."""
    shape: tuple[int, ...]
    """``(H, W, C)`` of an image, ``(N,)`` of a vector or of N categorical variables."""
    name: str = ""
    """Path in the environment's space, such as ``robot/camera``; empty for the only leaf."""
    classes: tuple[int, ...] = ()
    """Classes of each categorical variable, numbered from 0."""
    reconstruct: bool = field(default=True, compare=False)
    """Whether the decoder reconstructs it."""

    def __str__(self) -> str:
        """Return kind and size, such as ``camera: image 64x64x3``."""
        size = "x".join(map(str, self.shape))
        if self.classes:
            least, most = min(self.classes), max(self.classes)
            size += f" of {least} classes" if least == most else f" of {least} to {most} classes"
        return f"{self.name}: {self.kind} {size}" if self.name else f"{self.kind} {size}"

    @property
    def dtype(self) -> str:
        """Name of the dtype, of NumPy and of PyTorch."""
        return _DTYPES[self.kind]

    @property
    def nbytes(self) -> int:
        """Bytes of one array."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def column(self) -> str:
        """Name in the replay and in files."""
        return f"obs.{self.name}" if self.name else "obs"

    @property
    def space(self) -> spaces.Space[Any]:
        """Space of the array in an adapted environment."""
        if self.kind == "image":
            return spaces.Box(0, 255, self.shape, np.uint8)
        if self.kind == "vector":
            return spaces.Box(-np.inf, np.inf, self.shape, np.float32)
        return spaces.MultiDiscrete(list(self.classes), dtype=np.int32)

    @classmethod
    def of(cls, space: spaces.Space[Any], name: str = "") -> Leaf:
        """Return the leaf whose :attr:`space` is ``space``."""
        if isinstance(space, spaces.MultiDiscrete):
            return cls("one-hot", space.shape, name, tuple(int(n) for n in space.nvec))
        assert isinstance(space, spaces.Box)  # see drama.envs.spaces.ObservationAdapter
        return cls("image" if space.dtype == np.uint8 else "vector", space.shape, name)


@dataclass(frozen=True)
class ObsSpace:
    """Leaves of an observation: the only one, without a name, or any number of named ones.

    Two spaces are equal if their observations are, whatever is reconstructed.
    """

    leaves: tuple[Leaf, ...]

    def __str__(self) -> str:
        """Return all leaves."""
        return ", ".join(map(str, self.leaves))

    @classmethod
    def of(cls, space: spaces.Space[Any], reconstruct: Sequence[str] = ALL) -> ObsSpace:
        """Return the observations of an adapted environment.

        Args:
            space: Its observation space.
            reconstruct: Patterns of the leaves to be reconstructed (``env.reconstruct``).

        Raises:
            ConfigError: A pattern fits no leaf.
        """
        if isinstance(space, spaces.Dict):
            leaves = tuple(Leaf.of(part, name) for name, part in space.spaces.items())
        else:
            leaves = (Leaf.of(space),)
        return cls(leaves).reconstructing(reconstruct)

    @classmethod
    def image(cls, height: int, width: int, channels: int) -> ObsSpace:
        """Return the space of one image."""
        return cls((Leaf("image", (height, width, channels)),))

    @classmethod
    def vector(cls, size: int) -> ObsSpace:
        """Return the space of one vector."""
        return cls((Leaf("vector", (size,)),))

    @property
    def single(self) -> Leaf | None:
        """The only leaf, if observations are one array; None if they are dictionaries."""
        return None if self.leaves[0].name else self.leaves[0]

    @property
    def space(self) -> spaces.Space[Any]:
        """Gymnasium's space of an adapted environment with these observations."""
        parts = OrderedDict((leaf.name, leaf.space) for leaf in self.leaves)  # a dict is sorted
        return spaces.Dict(parts) if self.single is None else parts[""]

    @property
    def images(self) -> tuple[Leaf, ...]:
        """Leaves that are images."""
        return tuple(leaf for leaf in self.leaves if leaf.kind == "image")

    @property
    def decoded(self) -> ObsSpace:
        """Space of the leaves that are reconstructed."""
        return ObsSpace(tuple(leaf for leaf in self.leaves if leaf.reconstruct))

    @property
    def shown(self) -> Leaf:
        """Leaf that pictures and reports show: the first image that is decoded, or first leaf."""
        decoded = self.decoded
        return (*decoded.images, *decoded.leaves)[0]

    @property
    def nbytes(self) -> int:
        """Bytes of one observation."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def reconstructing(self, patterns: Sequence[str]) -> ObsSpace:
        """Return this space with those leaves reconstructed that fit one of the patterns.

        Raises:
            ConfigError: A pattern fits no leaf.
        """
        kept = matching(patterns, [leaf.name for leaf in self.leaves], "env.reconstruct")
        return ObsSpace(
            tuple(dataclasses.replace(leaf, reconstruct=leaf.name in kept) for leaf in self.leaves)
        )

    # -- observations -------------------------------------------------------------------------

    def leaf_of(self, obs: T | Mapping[str, T], leaf: Leaf) -> T:
        """Return one leaf of an observation."""
        return obs[leaf.name] if isinstance(obs, Mapping) else obs

    def columns(self, obs: T | Mapping[str, T]) -> dict[str, T]:
        """Return an observation's leaves by the names of their columns."""
        return {leaf.column: self.leaf_of(obs, leaf) for leaf in self.leaves}

    def from_columns(self, columns: Mapping[str, T]) -> T | dict[str, T]:
        """Return the observation whose :meth:`columns` are among ``columns``."""
        if self.single is not None:
            return columns[self.single.column]
        return {leaf.name: columns[leaf.column] for leaf in self.leaves}

    # -- files --------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint records of the space, JSON-able."""
        if self.single is not None and self.single.kind != "one-hot":
            return {"obs_shape": list(self.single.shape)}
        return {
            "obs_leaves": [
                {
                    "name": leaf.name,
                    "kind": leaf.kind,
                    "shape": list(leaf.shape),
                    "classes": list(leaf.classes),
                }
                for leaf in self.leaves
            ]
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ObsSpace:
        """Return the space of a checkpoint."""
        if "obs_shape" in state:
            shape = tuple(state["obs_shape"])
            return cls((Leaf("image" if len(shape) == 3 else "vector", shape),))
        return cls(
            tuple(
                Leaf(leaf["kind"], tuple(leaf["shape"]), leaf["name"], tuple(leaf["classes"]))
                for leaf in state["obs_leaves"]
            )
        )


def matching(patterns: Iterable[str], names: Sequence[str], setting: str) -> set[str]:
    """Return the leaf names that fit one of the patterns.

    Args:
        patterns: Names or glob patterns such as ``robot/*``; the name of a branch stands for all
            of its leaves.
        names: All leaf names.
        setting: Name of the setting, for the message.

    Raises:
        ConfigError: There is no pattern, or one fits no name; the nearest name is given.
    """
    found: set[str] = set()
    for pattern in patterns:
        fits = {n for n in names if _fits(n, pattern)}
        if not fits and list(names) == [""]:
            raise ConfigError(
                f"{setting} names {pattern!r}, but these observations are one array, no Dict"
            )
        if not fits:
            near = did_you_mean(pattern, names) or f"; there are {', '.join(names)}"
            raise ConfigError(f"{setting}: no observation is called {pattern!r}{near}")
        found |= fits
    if not found:
        raise ConfigError(f"{setting} must name at least one observation; '*' names all")
    return found


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or name.startswith(f"{pattern}/") or fnmatchcase(name, pattern)
