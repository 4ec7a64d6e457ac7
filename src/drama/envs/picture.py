"""Frames as people see them, whatever their channels are."""

from __future__ import annotations

import colorsys

import numpy as np

from drama.types import ObsArray


def as_rgb(frames: ObsArray) -> ObsArray:
    """Return frames in colour: one hue for each channel, the brighter of two in a pixel.

    Args:
        frames: uint8 ``(..., H, W, C)``. Three channels are red, green and blue already.

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
