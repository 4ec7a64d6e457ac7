"""The gated RMSNorm in front of Mamba-2's output projection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from drama.ssm._numeric import accumulation_dtype, row_blocks


class GatedRMSNorm(nn.Module):
    """``RMSNorm(y * silu(z)) * weight``, normalised over each of ``groups`` equal parts.

    Computed in float32 at least; the result has the type of ``z``. Nothing but the inputs is kept
    for the backward pass. Differentiable once.
    """

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups = groups
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate ``y`` with ``z``, both ``(..., width)``, and normalise."""
        with torch.autocast(z.device.type, enabled=False):
            width = z.shape[-1]
            out: Tensor = _GatedRMSNorm.apply(  # type: ignore[no-untyped-call]
                y.reshape(-1, width), z.reshape(-1, width), self.weight, self.groups, self.eps
            )
            return out.view(z.shape)


class _GatedRMSNorm(torch.autograd.Function):
    """With ``g = y silu(z)`` and ``r = (mean g² + ε)^(-1/2)``: ``out = g r weight``."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
        """Take ``y`` and ``z`` ``(R, width)``."""
        ctx.save_for_backward(y, z, weight)
        ctx.groups, ctx.eps = groups, eps
        dtype = accumulation_dtype(y, z)
        out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        for rows in row_blocks(z.shape[0], z.shape[1], z.device):
            gated = F.silu(z[rows].to(dtype)).mul_(y[rows])
            parts = gated.view(len(gated), groups, -1)
            parts.mul_(_inverse_rms(parts, eps))
            out[rows] = gated.mul_(weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``y``, ``z`` and ``weight``."""
        y, z, weight = ctx.saved_tensors
        dtype = accumulation_dtype(y, z)
        dy, dz = torch.empty_like(y), torch.empty_like(z)
        dweight = torch.zeros_like(weight)
        for rows in row_blocks(z.shape[0], z.shape[1], z.device):
            gate_in, value = z[rows].to(dtype), y[rows].to(dtype)
            gate = F.silu(gate_in)
            gated = gate * value
            parts = gated.view(len(gated), ctx.groups, -1)
            scale = _inverse_rms(parts, ctx.eps)
            parts.mul_(scale)  # now normalised
            upstream = dout[rows].to(dtype)
            dweight += (upstream * gated).sum(0)
            # d g = r (d n - n mean(d n · n)), where n is g normalised.
            dnormed = (upstream * weight).view_as(parts)
            along = (dnormed * parts).mean(-1, keepdim=True)
            dgated = dnormed.sub_(parts.mul_(along)).mul_(scale).view_as(gated)
            dy[rows] = dgated * gate
            dz[rows] = torch.ops.aten.silu_backward(dgated.mul_(value), gate_in)
        return dy, dz, dweight, None, None


def _inverse_rms(parts: Tensor, eps: float) -> Tensor:
    """Return ``(mean g² + ε)^(-1/2)`` over the last dimension, kept."""
    norm: Tensor = torch.linalg.vector_norm(parts, dim=-1, keepdim=True)
    return norm.square_().div_(parts.shape[-1]).add_(eps).rsqrt_()
