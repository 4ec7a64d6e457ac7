"""Which pixels of a frame move."""

from __future__ import annotations

import torch
from torch import Tensor

MOTION_THRESHOLD = 8
"""A pixel has changed where one of its channels has by more than this, of 255."""


def moving_pixels(obs: Tensor, is_first: Tensor) -> Tensor:
    """Where a frame differs from the one before or behind it in the same episode.

    That is where something is that moves, and where it just was or will be.

    Args:
        obs: uint8 frames ``(B, T, H, W, C)``.
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
