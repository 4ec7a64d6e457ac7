"""The gated RMSNorm in front of Mamba-2's output projection."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.dtypes import accumulation_dtype, multiply_into


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
        dtype = accumulation_dtype(y, z)
        out = torch.empty(z.shape, dtype=z.dtype, device=z.device)
        scale = torch.empty(len(z), groups, 1, dtype=dtype, device=z.device)  # r
        for rows in row_blocks(z.shape[0], z.shape[1], z.device):
            gated = F.silu(z[rows].to(dtype)).mul_(y[rows].to(dtype))
            parts = gated.view(len(gated), groups, -1)
            norm = torch.linalg.vector_norm(parts, dim=-1, keepdim=True)
            scale[rows] = norm.square_().div_(parts.shape[-1]).add_(eps).rsqrt_()
            parts.mul_(scale[rows])
            multiply_into(out[rows], gated, weight)
        ctx.save_for_backward(y, z, weight, scale)
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``y``, ``z`` and ``weight``."""
        y, z, weight, scale = ctx.saved_tensors
        dtype, groups = scale.dtype, scale.shape[1]
        dy, dz = torch.empty_like(y), torch.empty_like(z)
        dweight = torch.zeros(groups, 1, z.shape[1] // groups, dtype=dtype, device=z.device)
        columns = weight.view(groups, -1, 1).to(dtype)
        for rows in row_blocks(z.shape[0], z.shape[1], z.device):
            gate_in, value, upstream = (v[rows].to(dtype) for v in (z, y, dout))
            r = scale[rows]
            gate = F.silu(gate_in)
            gated = gate * value
            # Both sums over dout·g are products with a vector: d weight = Σ_rows r dout g, and
            # <d n, n> = r Σ_columns weight dout g, with n = r g the normalised g.
            product = (upstream * gated).reshape(len(gated), groups, -1).transpose(0, 1)
            dweight += torch.bmm(r.permute(1, 2, 0), product)
            along = torch.bmm(product, columns).transpose(0, 1)  # (rows, groups, 1)
            # d g = r (weight dout - g r² mean(weight dout g)).
            along *= r.square().mul_(-groups / z.shape[1])
            dgated = (upstream * weight).reshape(len(gated), groups, -1)
            dgated.addcmul_(gated.view_as(dgated), along).mul_(r)
            dgated = dgated.view_as(gated)
            multiply_into(dy[rows], dgated, gate)
            dz[rows] = torch.ops.aten.silu_backward(dgated.mul_(value), gate_in)
        return dy, dz, dweight.view_as(weight).to(weight.dtype), None, None
