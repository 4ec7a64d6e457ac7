"""Pure maps between an environment's spaces and those of the agent.

What the agent reads is one of two spaces: an image, ``Box(0, 255, (H, W, C), uint8)``, or a
vector, ``Box(-inf, inf, (N,), float32)``. What it does is ``Discrete(n)``, counted from 0.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from drama.errors import EnvError, UnsupportedSpaceError
from drama.types import ObsArray

SUPPORTED_OBSERVATIONS = (
    "a Box image of shape (H, W), (H, W, C) or (C, H, W) with finite bounds, or a 1-D Box vector"
)
SUPPORTED_ACTIONS = "Discrete(n) with n >= 2"


def is_channel_first(shape: tuple[int, ...]) -> bool:
    """Whether a 3-D image shape reads ``(C, H, W)``.

    The channel axis is taken to be the shortest one, and the last where that leaves a choice.
    A last axis of 1, 3 or 4 is a channel axis unless the two axes before it are unequal and it
    makes a square with the middle one: ``(3, 4, 4)`` is a picture of 4 x 4.
    """
    channels, height, width = shape
    return channels < min(height, width) and (width not in (1, 3, 4) or height == width)


class ObservationAdapter:
    """The pure map from a raw observation space to the one the agent reads.

    * Image: channels are moved last; numbers are rescaled from the space's bounds to 0..255 and
      rounded (a uint8 image bounded by 0 and 255 is left alone); a single channel is repeated to
      three, any other number of channels is kept; the picture is resized to a square:
      ``INTER_AREA`` where it gets smaller, else ``INTER_NEAREST``, which keeps the hard edges of
      pixel games.
    * Vector: cast to float32.

    Args:
        space: The raw observation space.
        image_size: Side of the adapted picture in pixels, or None to keep its size. Ignored for
            vectors.
        channels_last: The last axis of a 3-D image holds the channels for certain; otherwise
            that is judged by its shape.

    Attributes:
        raw_space: The space given.
        space: The adapted space.
        is_image: Whether it is an image.
        is_identity: Whether observations pass unchanged.

    Raises:
        UnsupportedSpaceError: The space is none of the above.
        EnvError: ``image_size`` is not a positive integer.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        image_size: int | None = None,
        *,
        channels_last: bool = False,
    ) -> None:
        if image_size is not None and (
            isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1
        ):
            raise EnvError(f"image_size must be a positive integer or None, got {image_size!r}")
        if not isinstance(space, spaces.Box):
            raise _unsupported(space, "not a Box")
        if 0 in space.shape:
            raise _unsupported(space, "empty")
        self.raw_space = space
        self.space: spaces.Box
        self.is_identity: bool
        self.is_image = len(space.shape) in (2, 3)
        if self.is_image:
            self._init_image(space, image_size, channels_last)
        elif len(space.shape) == 1:
            self.space = spaces.Box(-np.inf, np.inf, space.shape, np.float32)
            self.is_identity = space.dtype == np.float32
        else:
            raise _unsupported(space, f"it has {len(space.shape)} dimensions")

    def __call__(self, obs: npt.ArrayLike) -> ObsArray:
        """Map one observation of the raw space to one of ``space``, in memory of its own.

        An environment may hand out the same array at every step and write into it; what is kept
        of an observation must not change with it.
        """
        return np.array(self.batch(np.asarray(obs)[None])[0], order="C")

    def batch(self, obs: npt.ArrayLike) -> ObsArray:
        """Map observations with one leading batch axis; the result has the same batch axis.

        Raises:
            EnvError: The shape behind the batch axis is not the raw space's.
        """
        raw = np.asarray(obs)
        if raw.shape[1:] != self.raw_space.shape:
            raise EnvError(f"an observation of shape {raw.shape[1:]} does not fit {self.raw_space}")
        if raw.dtype != self.raw_space.dtype:
            # A picture rescaled to 0..1 by its owner would come out black: say so instead.
            if not np.can_cast(raw.dtype, self.raw_space.dtype, "same_kind"):
                raise EnvError(f"an observation of dtype {raw.dtype} does not fit {self.raw_space}")
            raw = raw.astype(self.raw_space.dtype)
        if not self.is_image:
            return np.ascontiguousarray(raw, np.float32)
        if self._scale is not None:  # (B, *raw) -> uint8 in 0..255
            scaled = (raw.astype(self._scale.dtype) - self._low) * self._scale
            raw = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        if raw.ndim == 3:
            raw = raw[..., None]  # (B, H, W) -> (B, H, W, 1)
        elif self._channel_first:
            raw = np.moveaxis(raw, 1, -1)  # (B, C, H, W) -> (B, H, W, C)
        if raw.shape[1:3] != self.space.shape[:2]:
            raw = self._resize(raw)
        if raw.shape[-1] != self.space.shape[-1]:
            raw = raw.repeat(3, axis=-1)  # grey -> RGB
        return np.ascontiguousarray(raw)

    def _init_image(self, space: spaces.Box, image_size: int | None, channels_last: bool) -> None:
        # Bounds of an integer dtype are always finite, so ask the space what was declared.
        if not space.is_bounded("both"):
            raise _unsupported(space, "an image without finite bounds")
        if (space.high.astype(np.float64) - space.low.astype(np.float64)).max() > 2**24:
            raise _unsupported(space, "an image whose bounds are more than 2**24 apart")
        shape = space.shape
        self._channel_first = len(shape) == 3 and not channels_last and is_channel_first(shape)
        channels = 1
        if len(shape) == 3:
            channels = shape[0] if self._channel_first else shape[-1]
        size = shape[1:] if self._channel_first else shape[:2]
        target = (image_size, image_size) if image_size is not None else size
        channels = 3 if channels == 1 else channels
        self.space = spaces.Box(0, 255, (*target, channels), np.uint8)
        self._low: npt.NDArray[Any] | None
        self._scale: npt.NDArray[Any] | None
        self._low, self._scale = _rescaling(space)
        smaller = target[0] < size[0] or target[1] < size[1]
        self._interpolation = cv2.INTER_AREA if smaller else cv2.INTER_NEAREST
        self.is_identity = self._scale is None and shape == self.space.shape

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
    """Return offset and factor from the bounds to 0..255, or None twice if they are 0..255."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if space.dtype == np.uint8 and (low == 0).all() and (high == 255).all():
        return None, None
    width = high - low
    factor = np.divide(255.0, width, out=np.zeros_like(width), where=width > 0)
    if (low == low.flat[0]).all() and (high == high.flat[0]).all():
        low, factor = low.flat[:1], factor.flat[:1]
    # float32 unless the numbers need more: int32 and wider, float64.
    work = np.result_type(space.dtype, np.float32)
    return low.astype(work), factor.astype(work)


def _unsupported(space: spaces.Space[Any], why: str) -> UnsupportedSpaceError:
    said = " ".join(str(space).split())
    return UnsupportedSpaceError(
        f"observation space {said} is not supported ({why}); supported: {SUPPORTED_OBSERVATIONS}"
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
            said = " ".join(str(space).split())
            raise UnsupportedSpaceError(
                f"action space {said} is not supported; supported: {SUPPORTED_ACTIONS}"
            )
        self.raw_space = space
        self._start = int(space.start)
        self._count = int(space.n)
        self.space = spaces.Discrete(self._count)
        self.is_identity = self._start == 0

    def __call__(self, action: Any) -> int:
        """Return the environment's action for the agent's ``action``.

        Raises:
            EnvError: ``action`` is not an integer from 0 to ``n - 1``.
        """
        try:
            index = int(action)
        except (TypeError, ValueError):
            index = -1
        if not 0 <= index < self._count or index != action:
            raise EnvError(f"action {action!r} is not one of 0..{self._count - 1}")
        return index + self._start
