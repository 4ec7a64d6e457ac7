"""Reconstruction loss of images: error of ``sigmoid(logits)``, summed over each image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.dispatch import on_cpu


def reference(
    logits: Tensor,
    obs: Tensor,
    moving: Tensor | None = None,
    motion_weight: float = 1.0,
    cross_entropy: bool = False,
) -> Tensor:
    """Plain form of :func:`pixel_loss`."""
    target = obs.float() / 255.0
    if cross_entropy:
        error = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
        error = error - _entropy(target)
    else:
        error = (torch.sigmoid(logits.float()) - target).square()
    if moving is not None:
        error = error * torch.where(moving, motion_weight, 1.0).unsqueeze(-1)
    return error.sum(dim=(-3, -2, -1))


def pixel_loss(
    logits: Tensor,
    obs: Tensor,
    moving: Tensor | None = None,
    motion_weight: float = 1.0,
    cross_entropy: bool = False,
) -> Tensor:
    """Error of ``p = sigmoid(logits)`` to ``y = obs / 255``, summed over each image, in float32.

    The error is ``(p - y)^2``, or with ``cross_entropy`` the KL divergence of Bernoulli
    distributions, ``y log(y / p) + (1 - y) log((1 - y) / (1 - p))``, also 0 for a perfect image.
    Its gradient ``p - y`` does not vanish where ``p`` is close to 0 or 1.

    Args:
        logits: ``(..., H, W, C)``.
        obs: uint8 images of the same shape.
        moving: Pixels weighted by ``motion_weight``, bool ``(..., H, W)``; None for no pixel.
        motion_weight: Weight of moving pixels; others have weight 1.
        cross_entropy: Which error.

    Returns:
        ``(...)``. On a CPU it can be differentiated once.
    """
    if not on_cpu(logits):
        return reference(logits, obs, moving, motion_weight, cross_entropy)
    lead = logits.shape[:-3]
    if moving is not None:
        moving = moving.reshape(lead.numel(), -1)
    total: Tensor = _PixelLoss.apply(  # type: ignore[no-untyped-call]
        logits.reshape(lead.numel(), -1),
        obs.reshape(lead.numel(), -1),
        moving,
        motion_weight,
        cross_entropy,
    )
    return total.reshape(lead)


def _entropy(target: Tensor) -> Tensor:
    """Entropy of Bernoulli distributions, in nats."""
    rest = 1.0 - target
    entropy: Tensor = torch.xlogy(target, target) + torch.xlogy(rest, rest)
    return entropy.neg_()


class _PixelLoss(torch.autograd.Function):
    """In blocks, with the gradient computed while the error is in cache.

    The plain form moves seven float32 tensors of the size of the batch through memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        obs: Tensor,
        moving: Tensor | None,
        motion_weight: float,
        cross_entropy: bool,
    ) -> Tensor:
        """Take images ``(N, P C)`` and pixels ``(N, P)``; return ``(N,)``."""
        total = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        slope = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(len(logits), logits.shape[1], logits.device):
            block = logits[rows].float()
            frame = torch.sigmoid(block)
            error = torch.add(frame, obs[rows], alpha=-1 / 255)  # p - y
            weight, weighted = None, error
            if moving is not None:
                weight = torch.where(moving[rows], motion_weight, 1.0).unsqueeze(-1)
                weighted = (error.view(*weight.shape[:2], -1) * weight).view_as(error)
            if slope is not None:
                slope[rows] = (
                    torch.ops.aten.sigmoid_backward(weighted, frame)
                    if not cross_entropy
                    else weighted
                )
            each = error.mul_(weighted) if not cross_entropy else error
            if cross_entropy:
                target = obs[rows].float().div_(255.0)
                each = F.binary_cross_entropy_with_logits(block, target, reduction="none")
                each.sub_(_entropy(target))
                if weight is not None:
                    each.view(*weight.shape[:2], -1).mul_(weight)
            torch.sum(each, dim=1, out=total[rows])
        ctx.save_for_backward(slope)
        ctx.factor = 1.0 if cross_entropy else 2.0
        return total

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of ``logits``."""
        (slope,) = ctx.saved_tensors
        return slope * (ctx.factor * dtotal).to(slope.dtype)[:, None], None, None, None, None
