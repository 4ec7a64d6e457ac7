"""Mask of moving pixels."""

from __future__ import annotations

import torch
from torch import Tensor

MOTION_THRESHOLD = 8
"""Smallest change of a channel, of 255, above which a pixel has changed."""


def moving_pixels(obs: Tensor, is_first: Tensor) -> Tensor:
    """Return the pixels that differ from the previous or the next image of the same episode.

    They cover a moving object, and where it was or will be.

    Args:
        obs: uint8 images ``(B, T, H, W, C)``.
        is_first: First steps of episodes, bool ``(B, T)``.

    Returns:
        bool ``(B, T, H, W)``.
    """
    before, after = obs[:, :-1], obs[:, 1:]
    change = torch.maximum(before, after) - torch.minimum(before, after)  # uint8 cannot be negative
    changed = (change > MOTION_THRESHOLD).any(dim=-1) & ~is_first[:, 1:, None, None]
    moving = torch.zeros(obs.shape[:-1], dtype=torch.bool, device=obs.device)
    moving[:, 1:] |= changed
    moving[:, :-1] |= changed
    return moving
