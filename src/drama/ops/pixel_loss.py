"""Reconstruction loss of images: squared error of ``sigmoid(logits)``, summed over each image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.dispatch import on_cpu


def reference(
    logits: Tensor, obs: Tensor, moving: Tensor | None = None, motion_weight: float = 1.0
) -> Tensor:
    """Plain form of :func:`pixel_loss`."""
    error = (torch.sigmoid(logits.float()) - obs.float() / 255.0).square()
    if moving is not None:
        error = error * torch.where(moving, motion_weight, 1.0).unsqueeze(-1)
    return error.sum(dim=(-3, -2, -1))


def pixel_loss(
    logits: Tensor, obs: Tensor, moving: Tensor | None = None, motion_weight: float = 1.0
) -> Tensor:
    """Squared error of ``sigmoid(logits)`` to ``obs / 255``, summed over each image, in float32.

    Args:
        logits: ``(..., H, W, C)``.
        obs: uint8 images of the same shape.
        moving: Pixels weighted by ``motion_weight``, bool ``(..., H, W)``; None for no pixel.
        motion_weight: Weight of moving pixels; others have weight 1.

    Returns:
        ``(...)``. On a CPU it can be differentiated once.
    """
    if not on_cpu(logits):
        return reference(logits, obs, moving, motion_weight)
    lead = logits.shape[:-3]
    if moving is not None:
        moving = moving.reshape(lead.numel(), -1)
    total: Tensor = _PixelLoss.apply(  # type: ignore[no-untyped-call]
        logits.reshape(lead.numel(), -1), obs.reshape(lead.numel(), -1), moving, motion_weight
    )
    return total.reshape(lead)


class _PixelLoss(torch.autograd.Function):
    """In blocks, with the gradient computed while the error is in cache.

    The plain form moves seven float32 tensors of the size of the batch through memory.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, obs: Tensor, moving: Tensor | None, motion_weight: float
    ) -> Tensor:
        """Take images ``(N, P C)`` and pixels ``(N, P)``; return ``(N,)``."""
        total = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        slope = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(len(logits), logits.shape[1], logits.device):
            frame = torch.sigmoid(logits[rows].float())
            error = torch.add(frame, obs[rows], alpha=-1 / 255)
            weighted = error
            if moving is not None:
                weight = torch.where(moving[rows], motion_weight, 1.0).unsqueeze(-1)
                weighted = (error.view(*weight.shape[:2], -1) * weight).view_as(error)
            if slope is not None:
                slope[rows] = torch.ops.aten.sigmoid_backward(weighted, frame)
            torch.sum(error.mul_(weighted), dim=1, out=total[rows])
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of ``logits``."""
        (slope,) = ctx.saved_tensors
        return slope * (2.0 * dtotal).to(slope.dtype)[:, None], None, None, None
