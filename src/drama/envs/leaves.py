"""Leaves of a raw observation space, and the pure map of each to the agent's array."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from drama.envs.declared import as_box, as_declared
from drama.envs.pictures import PictureLayout, picture_layout, rescaling, resize
from drama.errors import EnvError, UnsupportedSpaceError
from drama.observations import Leaf
from drama.text import one_line
from drama.types import ObsArray

SUPPORTED_OBSERVATIONS = (
    "Box (a picture, or flattened to a vector), Discrete, MultiDiscrete, MultiBinary, "
    "and Dict or Tuple of these"
)
_MOST_ENTRIES = 2**17
"""Most one-hot entries of a leaf: variables times the most classes of one."""


class RawLeaf(NamedTuple):
    """A part of a raw observation space that is neither Dict nor Tuple."""

    name: str
    """Keys and indices on the way to it, joined by ``/``; empty if it is the whole space."""
    path: tuple[Any, ...]
    """The keys and indices."""
    space: spaces.Space[Any]
    """Its space."""

    def of(self, obs: Any) -> Any:
        """Return this part of an observation.

        Raises:
            LookupError: The observation lacks it.
            TypeError: The observation is no mapping or sequence where the space is.
        """
        for key in self.path:
            if not isinstance(obs, Mapping | Sequence):
                raise TypeError(f"{type(obs).__name__} has no parts")
            obs = obs[key]
        return obs


def raw_leaves(space: spaces.Space[Any]) -> list[RawLeaf]:
    """Return the leaves of a space in the order of its Dicts and Tuples.

    Raises:
        UnsupportedSpaceError: Two leaves have the same name, or there is none.
    """
    found = list(_walk(space, ()))
    if any(leaf.path and not leaf.name for leaf in found):
        raise UnsupportedSpaceError(
            f"observation space {one_line(space)} is not supported: one of its parts has the empty "
            "name; rename it with gymnasium.wrappers.TransformObservation"
        )
    names = [leaf.name for leaf in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UnsupportedSpaceError(
            f"observation space {one_line(space)} is not supported: two of its parts are called "
            f"{twice!r}; rename one with gymnasium.wrappers.TransformObservation"
        )
    if not found:
        raise unsupported(space)
    return found


def _walk(space: spaces.Space[Any], path: tuple[Any, ...]) -> Iterator[RawLeaf]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _walk(part, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for index, part in enumerate(space.spaces):
            yield from _walk(part, (*path, index))
    else:
        yield RawLeaf("/".join(map(str, path)), path, space)


def is_text(space: spaces.Space[Any]) -> bool:
    """Whether the elements of a space are strings: Gymnasium's ``Text``, MiniGrid's missions."""
    dtype = getattr(space, "dtype", None)
    return isinstance(space, spaces.Space) and dtype is not None and dtype.kind == "U"


class LeafAdapter:
    """The pure map from one leaf of a raw observation space to the agent's array.

    Attributes:
        raw_space: Space of the raw leaf.
        leaf: The agent's leaf.
        is_identity: Whether arrays pass unchanged.
    """

    raw_space: Any
    leaf: Leaf
    is_identity: bool

    @property
    def reading(self) -> str:
        """Summary of the map in one line."""
        raise NotImplementedError

    def batch(self, obs: npt.ArrayLike) -> ObsArray:
        """Map arrays ``(B, *raw shape)`` to ``(B, *leaf shape)``.

        Raises:
            EnvError: The shape does not fit the raw space, or the values do not convert to its
                dtype.
        """
        raw = np.asarray(obs)
        if raw.shape[1:] != self.raw_space.shape:
            raise EnvError(f"an observation of shape {raw.shape[1:]} does not fit {self.raw_space}")
        declared = as_declared(raw, self.raw_space.dtype)
        if declared is None:
            raise EnvError(f"an observation of dtype {raw.dtype} does not fit {self.raw_space}")
        return self._map(declared)

    def _map(self, raw: npt.NDArray[Any]) -> ObsArray:
        """Map arrays of the raw space's dtype."""
        raise NotImplementedError


def leaf_adapter(
    raw: RawLeaf, image_size: int | None = None, *, channels_last: bool = False
) -> LeafAdapter:
    """Return the adapter of a leaf.

    Args:
        raw: The leaf.
        image_size: Side of the adapted picture in pixels, or None to keep its size. Pictures among
            several leaves are never enlarged: they may be small grids.
        channels_last: Whether the last axis of a 3-D image is known to be the channel axis.

    Raises:
        UnsupportedSpaceError: It is of a kind that is not read, or empty.
    """
    space = raw.space
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return OneHotAdapter(space, raw.name)
    if not isinstance(space, spaces.Box) or 0 in space.shape:
        raise unsupported(space, raw.name)
    layout = picture_layout(space, channels_last=channels_last)
    if layout is None:
        return VectorAdapter(space, raw.name)
    if raw.name and image_size is not None and max(layout.size) < image_size:
        image_size = None
    return ImageAdapter(space, layout, image_size, raw.name)


class ImageAdapter(LeafAdapter):
    """Maps a picture, see :func:`picture_layout`.

    Channels are moved last; numbers are rescaled from the space's bounds to 0..255 and rounded (a
    uint8 image bounded by 0 and 255 is left alone); a single channel is repeated to three, any
    other number of channels is kept; the picture is resized to a square: ``INTER_AREA`` where it
    gets smaller, else ``INTER_NEAREST``, which keeps the hard edges of pixel games.
    """

    def __init__(
        self, space: spaces.Box, layout: PictureLayout, image_size: int | None, name: str = ""
    ) -> None:
        self.raw_space = space
        self._layout = layout
        size = layout.size
        target = (image_size, image_size) if image_size is not None else size
        channels = 3 if layout.channels == 1 else layout.channels
        self.leaf = Leaf("image", (*target, channels), name)
        self._low, self._scale = rescaling(space)
        self.is_resized = target != size
        smaller = target[0] < size[0] or target[1] < size[1]
        self._interpolation = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
        self.is_identity = self._scale is None and space.shape == self.leaf.shape

    @property
    def reading(self) -> str:
        """Such as ``picture (210, 160, 3) uint8 -> 64x64x3``."""
        shape, dtype = self.raw_space.shape, self.raw_space.dtype
        rescaled = ""
        if self._scale is not None:
            rescaled = (
                f", rescaled from {self.raw_space.low.min():g}..{self.raw_space.high.max():g}"
            )
        return f"picture {shape} {dtype} -> {'x'.join(map(str, self.leaf.shape))}{rescaled}"

    def _map(self, raw: npt.NDArray[Any]) -> ObsArray:
        if self._scale is not None:  # (B, *raw) -> uint8 in 0..255
            scaled = (raw.astype(self._scale.dtype) - self._low) * self._scale
            raw = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        channel_first = self._layout.channel_first
        if raw.ndim == 3:
            raw = raw[..., None]  # (B, H, W) -> (B, H, W, 1)
        elif raw.ndim == 5 and channel_first:
            raw = raw.reshape(len(raw), -1, *raw.shape[3:])  # (B, K, C, H, W) -> (B, K * C, H, W)
        elif raw.ndim == 5:
            raw = np.moveaxis(raw, 1, -2)  # (B, K, H, W, C) -> (B, H, W, K, C)
            raw = raw.reshape(*raw.shape[:3], -1)  # (B, H, W, K * C)
        if channel_first:
            raw = np.moveaxis(raw, 1, -1)  # (B, C, H, W) -> (B, H, W, C)
        if raw.shape[1:3] != self.leaf.shape[:2]:
            raw = resize(raw, self.leaf.shape[:2], self._interpolation)
        if raw.shape[-1] != self.leaf.shape[-1]:
            raw = raw.repeat(3, axis=-1)  # grey -> RGB
        return np.ascontiguousarray(raw)


class VectorAdapter(LeafAdapter):
    """Maps any other Box: flattened and cast to float32."""

    def __init__(self, space: spaces.Box, name: str = "") -> None:
        self.raw_space = space
        self.leaf = Leaf("vector", (int(np.prod(space.shape)),), name)
        self.is_identity = space.dtype == np.float32 and space.shape == self.leaf.shape

    @property
    def reading(self) -> str:
        """Such as ``vector of 32 from (4, 8) float32, flattened``."""
        shape, dtype = self.raw_space.shape, self.raw_space.dtype
        flattened = ", flattened" if len(shape) != 1 else ""
        return f"vector of {self.leaf.shape[0]} from {shape} {dtype}{flattened}"

    def _map(self, raw: npt.NDArray[Any]) -> ObsArray:
        return np.ascontiguousarray(raw.reshape(len(raw), -1), np.float32)


class OneHotAdapter(LeafAdapter):
    """Maps Discrete, MultiDiscrete and MultiBinary to flat class indices counted from 0.

    Raises:
        UnsupportedSpaceError: One-hot variables of so many classes would not fit a network.
    """

    def __init__(
        self, space: spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary, name: str = ""
    ) -> None:
        box = as_box(space)
        assert box is not None
        self.raw_space = space
        self._low = box.low.ravel().astype(np.int64)
        ends = zip(box.low.ravel(), box.high.ravel(), strict=True)
        classes = tuple(int(high) - int(low) + 1 for low, high in ends)  # uint8 would overflow
        if not classes or len(classes) * max(classes) > _MOST_ENTRIES:
            raise unsupported(space, name)
        self.leaf = Leaf("one-hot", (len(classes),), name, classes)
        flat = isinstance(space, spaces.MultiDiscrete) and space.shape == self.leaf.shape
        self.is_identity = flat and space.dtype == np.int32 and not self._low.any()

    @property
    def reading(self) -> str:
        """Such as ``16 classes, one-hot, from Discrete(16)``."""
        classes, text = self.leaf.classes, one_line(self.raw_space)
        if len(classes) == 1:
            return f"{classes[0]} classes, one-hot, from {text}"
        return f"{len(classes)} variables, one-hot of {sum(classes)} classes, from {text}"

    def _map(self, raw: npt.NDArray[Any]) -> ObsArray:
        indices = raw.reshape(len(raw), -1) - self._low
        if ((indices < 0) | (indices >= self.leaf.classes)).any():
            raise EnvError(f"an observation lies outside of {one_line(self.raw_space)}")
        return indices.astype(np.int32)


def unsupported(space: spaces.Space[Any], name: str = "") -> UnsupportedSpaceError:
    """Return the error for a leaf that is not read; it names a wrapper that would help."""
    transform = "gymnasium.wrappers.TransformObservation"
    if not isinstance(space, spaces.Space):
        why = "it is no gymnasium.spaces.Space"
    elif is_text(space):
        why = f"text is not read; {transform} can turn it into numbers"
    elif isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        why = (
            f"it takes more than {_MOST_ENTRIES:,} one-hot entries; "
            f"{transform} can make a Box of them, which is read as numbers"
        )
    elif isinstance(space, spaces.Box | spaces.Dict | spaces.Tuple):
        why = f"it is empty; {transform} can replace it"
    else:
        why = f"{transform} can make one of it"
    what = f"{name!r} of the observation, {one_line(space)}," if name else ""
    what = what or f"observation space {one_line(space)}"
    also = "; or leave it out: env.observe names the others" if name else ""
    return UnsupportedSpaceError(
        f"{what} is not supported: {why}{also}; supported: {SUPPORTED_OBSERVATIONS}"
    )
