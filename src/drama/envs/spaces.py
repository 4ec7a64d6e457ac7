"""Pure maps between an environment's spaces and the agent's.

The agent observes an image, ``Box(0, 255, (H, W, C), uint8)``, or a vector,
``Box(-inf, inf, (N,), float32)``. It acts in ``Discrete(n)``, counted from 0.
"""

from __future__ import annotations

import colorsys
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from drama.envs.guard import as_declared
from drama.errors import EnvError, UnsupportedSpaceError
from drama.text import one_line
from drama.types import Action, ObsArray

SUPPORTED_OBSERVATIONS = "a Box of any shape, read as a picture or flattened to a vector"
SUPPORTED_ACTIONS = "Discrete(n) with n >= 2"

_PICTURE_SIDE = 8
"""Least side in pixels of a picture that neither its dtype nor its rank identifies."""
_LONGEST_ASPECT = 8
"""A 2-D uint8 Box longer than this many times its width is a stack of vectors (4 x 128 RAM)."""


def check_positive(name: str, value: object) -> None:
    """Raise an :class:`EnvError` unless ``value`` is a positive integer or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise EnvError(f"{name} must be a positive integer or None, got {value!r}")


def is_channel_first(shape: tuple[int, ...]) -> bool:
    """Whether a 3-D image shape reads ``(C, H, W)``.

    The channel axis is taken to be the shortest one, and the last where that leaves a choice.
    A last axis of 1, 3 or 4 is a channel axis unless the two axes before it are unequal and it
    makes a square with the middle one: ``(3, 4, 4)`` is a picture of 4 x 4.
    """
    channels, height, width = shape
    return channels < min(height, width) and (width not in (1, 3, 4) or height == width)


class PictureLayout(NamedTuple):
    """Axes of a picture."""

    size: tuple[int, int]
    """Height and width in pixels."""
    channels: int
    """Channels of all stacked frames."""
    channel_first: bool
    """Whether the channel axis precedes the other two."""


def picture_layout(space: spaces.Box, *, channels_last: bool = False) -> PictureLayout | None:
    """Return the layout of a Box that is a picture, or None for a vector.

    * uint8 and bool are pictures with three dimensions, the channel axis first or last, and with
      two, unless one side is more than eight times the other. With four dimensions they are a
      stack of pictures, frames first, if height and width are at least 8; frames become channels.
    * Any other dtype is a picture only with the bounds 0..1 or 0..255, two or three dimensions,
      and height and width of at least 8.
    """
    shape = space.shape
    if len(shape) not in (2, 3, 4):
        return None
    frame = shape[1:] if len(shape) == 4 else shape
    channel_first = len(frame) == 3 and not channels_last and is_channel_first(frame)
    channels = 1
    if len(frame) == 3:
        channels = frame[0] if channel_first else frame[-1]
    height, width = frame[1:] if channel_first else frame[:2]
    if len(shape) == 4:
        channels *= shape[0]
    large = min(height, width) >= _PICTURE_SIDE
    if space.dtype in (np.uint8, np.bool_):
        narrow = max(height, width) > _LONGEST_ASPECT * min(height, width)
        picture = {2: not narrow, 3: True, 4: large}[len(shape)]
    else:
        unit = bool((space.low == 0).all()) and any((space.high == top).all() for top in (1, 255))
        picture = large and unit and len(shape) < 4
    return PictureLayout((height, width), channels, channel_first) if picture else None


class ObservationAdapter:
    """The pure map from a raw observation space to the agent's.

    * Picture (see :func:`picture_layout`): channels are moved last; numbers are rescaled from the
      space's bounds to 0..255 and rounded (a uint8 image bounded by 0 and 255 is left alone); a
      single channel is repeated to three, any other number of channels is kept; the picture is
      resized to a square: ``INTER_AREA`` where it gets smaller, else ``INTER_NEAREST``, which
      keeps the hard edges of pixel games.
    * Vector: any other Box, flattened and cast to float32.

    Args:
        space: The raw observation space.
        image_size: Side of the adapted picture in pixels, or None to keep its size. Ignored for
            vectors.
        channels_last: Whether the last axis of a 3-D image is known to be the channel axis;
            otherwise the shape decides.

    Attributes:
        raw_space: The space given.
        space: The adapted space.
        is_image: Whether it is an image.
        is_identity: Whether observations pass unchanged.

    Raises:
        UnsupportedSpaceError: The space is not a Box, or empty.
        EnvError: ``image_size`` is not a positive integer.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        image_size: int | None = None,
        *,
        channels_last: bool = False,
    ) -> None:
        check_positive("image_size", image_size)
        if not isinstance(space, spaces.Box):
            raise _unsupported_observation(space)
        if 0 in space.shape:
            text = one_line(space)
            raise UnsupportedSpaceError(
                f"observation space {text} is not supported: it is empty; supported: "
                f"{SUPPORTED_OBSERVATIONS}"
            )
        self.raw_space = space
        self.space: spaces.Box
        self.is_identity: bool
        self._layout = picture_layout(space, channels_last=channels_last)
        self.is_image = self._layout is not None
        if self._layout is not None:
            self._init_image(space, self._layout, image_size)
        else:
            size = int(np.prod(space.shape))
            self.space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
            self.is_identity = space.dtype == np.float32 and space.shape == (size,)

    @property
    def reading(self) -> str:
        """Summary of the map in one line.

        ``picture (210, 160, 3) uint8 -> 64x64x3`` or
        ``vector of 32 from (4, 8) float32, flattened``.
        """
        shape, dtype = self.raw_space.shape, self.raw_space.dtype
        if not self.is_image:
            flattened = ", flattened" if len(shape) != 1 else ""
            return f"vector of {self.space.shape[0]} from {shape} {dtype}{flattened}"
        rescaled = ""
        if self._scale is not None:
            rescaled = (
                f", rescaled from {self.raw_space.low.min():g}..{self.raw_space.high.max():g}"
            )
        return f"picture {shape} {dtype} -> {'x'.join(map(str, self.space.shape))}{rescaled}"

    def __call__(self, obs: npt.ArrayLike) -> ObsArray:
        """Map one observation of the raw space to a new array of ``space``.

        An environment may return the same array at every step and overwrite it.
        """
        return np.array(self.batch(np.asarray(obs)[None])[0], order="C")

    def batch(self, obs: npt.ArrayLike) -> ObsArray:
        """Map observations ``(B, *raw shape)`` to ``(B, *adapted shape)``.

        Raises:
            EnvError: The shape does not fit the raw space, or the values do not convert to its
                dtype.
        """
        raw = np.asarray(obs)
        if raw.shape[1:] != self.raw_space.shape:
            raise EnvError(f"an observation of shape {raw.shape[1:]} does not fit {self.raw_space}")
        declared = as_declared(raw, self.raw_space)
        if declared is None:
            raise EnvError(f"an observation of dtype {raw.dtype} does not fit {self.raw_space}")
        raw = declared
        if self._layout is None:
            return np.ascontiguousarray(raw.reshape(len(raw), -1), np.float32)
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
        if raw.shape[1:3] != self.space.shape[:2]:
            raw = self._resize(raw)
        if raw.shape[-1] != self.space.shape[-1]:
            raw = raw.repeat(3, axis=-1)  # grey -> RGB
        return np.ascontiguousarray(raw)

    def _init_image(self, space: spaces.Box, layout: PictureLayout, image_size: int | None) -> None:
        size = layout.size
        target = (image_size, image_size) if image_size is not None else size
        channels = 3 if layout.channels == 1 else layout.channels
        self.space = spaces.Box(0, 255, (*target, channels), np.uint8)
        self._low: npt.NDArray[Any] | None
        self._scale: npt.NDArray[Any] | None
        self._low, self._scale = _rescaling(space)
        smaller = target[0] < size[0] or target[1] < size[1]
        self._interpolation = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
        self.is_identity = self._scale is None and space.shape == self.space.shape

    def _resize(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = self.space.shape[:2]
        out = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
        for image, target in zip(images, out, strict=True):
            for start in range(0, image.shape[-1], 4):  # OpenCV resizes any number up to 4
                planes = np.ascontiguousarray(image[..., start : start + 4])
                resized = cv2.resize(planes, (width, height), interpolation=self._interpolation)
                target[..., start : start + 4] = resized.reshape(height, width, -1)
        return out


def _rescaling(
    space: spaces.Box,
) -> tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]:
    """Return offset and factor from the bounds to 0..255, or two None if they are 0..255."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype == np.uint8 and (low == 0).all() and (high == 255).all():
        return None, None
    width = high - low
    factor = np.divide(255.0, width, out=np.zeros_like(width), where=width > 0)
    if (low == low.flat[0]).all() and (high == high.flat[0]).all():
        low, factor = low.flat[:1], factor.flat[:1]
    work = np.result_type(space.dtype, np.float32)
    return low.astype(work), factor.astype(work)


def _unsupported_observation(space: spaces.Space[Any]) -> UnsupportedSpaceError:
    """Return the error, which names a wrapper that converts ``space`` to a Box."""
    wrapper = "gymnasium.wrappers.TransformObservation can make one of it"
    if not isinstance(space, spaces.Space):
        wrapper = "it is no gymnasium.spaces.Space"
    elif isinstance(space, spaces.Dict):
        boxes = {name: part for name, part in space.items() if isinstance(part, spaces.Box)}
        picture = next((name for name, part in boxes.items() if picture_layout(part)), None)
        if picture is not None:
            wrapper = (
                f"gymnasium.wrappers.TransformObservation(env, lambda obs: obs[{picture!r}], "
                f"env.observation_space[{picture!r}]) takes one entry"
            )
        elif space.is_np_flattenable:
            wrapper = "gymnasium.wrappers.FlattenObservation makes a vector of it"
    elif space.is_np_flattenable:
        one_hot = " (one-hot)" if isinstance(space, spaces.Discrete | spaces.MultiDiscrete) else ""
        wrapper = f"gymnasium.wrappers.FlattenObservation makes a vector of it{one_hot}"
    text = one_line(space)
    return UnsupportedSpaceError(
        f"observation space {text} is not supported: {wrapper}; supported: {SUPPORTED_OBSERVATIONS}"
    )


def _unsupported_action(space: spaces.Space[Any]) -> UnsupportedSpaceError:
    """Return the error, which names a wrapper that makes ``space`` discrete."""
    if not isinstance(space, spaces.Space):
        wrapper = "it is no gymnasium.spaces.Space"
    elif isinstance(space, spaces.Discrete):
        wrapper = "one action leaves nothing to choose"
    elif isinstance(space, spaces.Box) and space.is_bounded("both") and space.shape:
        wrapper = "gymnasium.wrappers.DiscretizeAction(env, bins=3) makes it discrete"
    else:
        wrapper = (
            "gymnasium.wrappers.TransformAction(env, function of an index, "
            "gymnasium.spaces.Discrete(n)) makes it discrete"
        )
    text = one_line(space)
    return UnsupportedSpaceError(
        f"action space {text} is not supported: {wrapper}; supported: {SUPPORTED_ACTIONS}"
    )


class ActionAdapter:
    """The map from the agent's actions, counted from 0, to the environment's.

    Args:
        space: The raw action space.

    Attributes:
        raw_space: The space given.
        space: ``Discrete(n)`` starting at 0.

    Raises:
        UnsupportedSpaceError: The space is not discrete, or offers fewer than two actions.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Discrete) or int(space.n) < 2:
            raise _unsupported_action(space)
        self.raw_space = space
        self._start = int(space.start)
        from drama.actions import ActionSpace  # on first use: environments need no torch

        self._actions = ActionSpace.of(space)
        self.space = spaces.Discrete(self._actions.count)
        self.is_identity = self._start == 0

    def __call__(self, action: Any) -> Action:
        """Return the environment's action for the agent's ``action``.

        Raises:
            EnvError: ``action`` is not an integer from 0 to ``n - 1``.
        """
        return self._actions.check(action) + self._start


def as_rgb(frames: ObsArray) -> ObsArray:
    """Return frames as RGB: one hue per channel, the brightest of each pixel.

    Args:
        frames: uint8 ``(..., H, W, C)``. Three channels are taken as RGB.

    Returns:
        uint8 ``(..., H, W, 3)``.
    """
    count = frames.shape[-1]
    if count == 3:
        return frames
    hues = [colorsys.hsv_to_rgb(index / count, 0.7, 1.0) for index in range(count)]
    palette = np.array(hues, np.float32)  # (C, 3)
    picture = (frames[..., None] * palette).max(axis=-2)  # (..., H, W, C, 3) -> (..., H, W, 3)
    rgb: ObsArray = np.rint(picture).astype(np.uint8)
    return rgb
