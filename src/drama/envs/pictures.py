"""Pictures among raw observations: which Box is one, its axes, rescaling and resizing."""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

_PICTURE_SIDE = 8
"""Least side in pixels of a picture that neither its dtype nor its rank identifies."""
_LONGEST_ASPECT = 8
"""A 2-D uint8 Box longer than this many times its width is a stack of vectors (4 x 128 RAM)."""


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


def rescaling(
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


def resize(
    images: npt.NDArray[np.uint8], size: tuple[int, ...], interpolation: int
) -> npt.NDArray[np.uint8]:
    """Resize images ``(B, H, W, C)`` of any number of channels to ``(height, width)``."""
    height, width = size
    out = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
    for image, target in zip(images, out, strict=True):
        for start in range(0, image.shape[-1], 4):  # OpenCV resizes any number up to 4
            planes = np.ascontiguousarray(image[..., start : start + 4])
            resized = cv2.resize(planes, (width, height), interpolation=interpolation)
            target[..., start : start + 4] = resized.reshape(height, width, -1)
    return out
