"""Replayed frames seen from a little beside: more to learn from than was collected."""

from __future__ import annotations

import torch
from torch import Tensor

from drama.errors import ConfigError


def check_shift(random_shift: tuple[int, ...], obs_shape: tuple[int, ...]) -> None:
    """Raise a ConfigError unless these are frames, and such a shift leaves something of them."""
    if len(obs_shape) != 3:
        raise ConfigError("replay.random_shift is of frames; these are vectors")
    for most, side, word in zip(random_shift, obs_shape[:2], ("rows", "columns"), strict=True):
        if most >= side:
            raise ConfigError(
                f"replay.random_shift of {most} leaves nothing of {side} {word} of pixels"
            )


def shift_frames(
    obs: Tensor, rows: int, columns: int, generator: torch.Generator | None = None
) -> Tensor:
    """Move each window of frames by an offset of its own, the same for all of its frames.

    Kostrikov et al. (2021), *Image Augmentation Is All You Need*, for whole windows: what a game
    does at one place is learnt for those beside it.

    Args:
        obs: Frames ``(B, T, H, W, C)``.
        rows: Largest number of pixels up or down; every offset is equally likely.
        columns: Likewise left or right.
        generator: Source of the offsets, on the device of ``obs``.

    Returns:
        Frames of the same shape. Pixels that come in from outside repeat the edge.
    """
    batch, length, height, width = obs.shape[:4]
    index = []
    for side, most in ((height, rows), (width, columns)):
        move = torch.randint(-most, most + 1, (batch, 1), generator=generator, device=obs.device)
        # Row i of the moved frame is row i - move of the frame.
        index.append((torch.arange(side, device=obs.device) - move).clamp(0, side - 1))
    window = torch.arange(batch, device=obs.device).view(batch, 1, 1, 1)
    time = torch.arange(length, device=obs.device).view(1, length, 1, 1)
    return obs[window, time, index[0].view(batch, 1, height, 1), index[1].view(batch, 1, 1, width)]
