"""RMSNorm, with SiLU after it, and with a gate before it (Mamba-2).

    rms_norm(x) = x / rms(x) * weight                     rms(x) = sqrt(mean x² + ε)
    gated_rms_norm(y, z) = rms_norm(y * silu(z))

On an accelerator RMSNorm is PyTorch's fused kernel. On a CPU that is eight operations, each of
which writes a tensor of the size of ``x``: for large inputs it is one Function here, in blocks that
stay in cache, which saves nothing but its input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.dispatch import on_cpu
from drama.ops.dtypes import accumulation_dtype, multiply_into

# Up to this size the overhead of the Function exceeds its gain.
_FEW_ELEMENTS = 2**15


class RMSNorm(nn.RMSNorm):
    """``x / rms(x) * weight`` over the last axis, in the type of ``x``; sums are float32 at least.

    Args:
        size: Size of the last axis.
    """

    eps: float
    silu = False

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., size)``."""
        return rms_norm(x, self.weight, self.eps, silu=self.silu)


class RMSNormSiLU(RMSNorm):
    """``silu(RMSNorm(x))``, as after almost every linear layer."""

    silu = True


class GatedRMSNorm(nn.Module):
    """``RMSNorm(y * silu(z)) * weight``, normalised over each of ``groups`` equal parts.

    Args:
        width: Size of the last axis.
        groups: Number of parts.
        eps: ``ε``.
    """

    def __init__(self, width: int, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups = groups
        self.eps = eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """Gate ``y`` with ``z``, both ``(..., width)``, and normalise; in the type of ``z``."""
        return gated_rms_norm(y, z, self.weight, self.groups, self.eps)


def reference(x: Tensor, weight: Tensor, eps: float, *, silu: bool = False) -> Tensor:
    """Plain form of :func:`rms_norm`."""
    y = x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
    return F.silu(y) if silu else y


def gated_reference(y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """Plain form of :func:`gated_rms_norm`."""
    gated = torch.unflatten(y * F.silu(z), -1, (groups, -1))
    return reference(gated, weight.view(groups, -1), eps).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, silu: bool = False) -> Tensor:
    """Normalise the last axis of ``x``. On a CPU differentiable once.

    Args:
        x: ``(..., size)``.
        weight: ``(size,)``.
        eps: Added to the mean square.
        silu: Apply SiLU to the result.

    Returns:
        ``(..., size)`` in the type of ``x``.
    """
    if on_cpu(x) and x.numel() > _FEW_ELEMENTS:
        y: Tensor = _RMSNorm.apply(x, weight, eps, silu)  # type: ignore[no-untyped-call]
        return y
    # The fused kernel needs one type of both, which autocast does not give.
    y = F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)
    return F.silu(y) if silu else y


def gated_rms_norm(y: Tensor, z: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """Gate ``y`` with ``z`` and normalise. Differentiable once; saves nothing but its inputs.

    Args:
        y: ``(..., width)``.
        z: ``(..., width)``.
        weight: ``(width,)``.
        groups: Number of equal parts of the last axis, normalised separately.
        eps: Added to the mean square.

    Returns:
        ``(..., width)`` in the type of ``z``; computed in float32 at least.
    """
    width = z.shape[-1]
    with torch.autocast(z.device.type, enabled=False):
        out: Tensor = _GatedRMSNorm.apply(  # type: ignore[no-untyped-call]
            y.reshape(-1, width), z.reshape(-1, width), weight, groups, eps
        )
    return out.view(z.shape)


def rms_scale(x: Tensor, eps: float) -> Tensor:
    """Return ``1 / rms(x)`` over the last axis, ``(..., 1)``; ``x`` is float32 or float64."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    """With ``r = (mean x² + ε)^(-1/2)``: ``y = x r weight``, or its SiLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, silu: bool) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = torch.empty(flat.shape, dtype=x.dtype, device=x.device)
        scale = torch.empty(len(flat), 1, dtype=accumulation_dtype(x), device=x.device)  # r
        for rows in row_blocks(len(flat), x.shape[-1], x.device):
            block = flat[rows].to(scale.dtype)
            scale[rows] = r = rms_scale(block, eps)
            block = (block * r).mul_(weight)
            y[rows] = F.silu(block, inplace=True) if silu else block
        ctx.save_for_backward(flat, weight, scale)
        ctx.silu = silu
        return y.view(x.shape)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, scale = ctx.saved_tensors
        upstream = dy.reshape(flat.shape)
        dx = torch.empty_like(flat)
        columns = weight.to(scale.dtype)
        dweight = torch.zeros_like(columns)
        for rows in row_blocks(len(flat), len(columns), flat.device):
            block, dblock = (v[rows].to(scale.dtype) for v in (flat, upstream))
            r = scale[rows]
            if ctx.silu:
                dblock = torch.ops.aten.silu_backward(dblock, (block * r).mul_(weight))
            # Both sums over dy x as matrix-vector products.
            product = dblock * block
            dweight += torch.mv(product.t(), r[:, 0])
            # d x = r (weight dy - x r² mean(weight dy x)).
            along = torch.mv(product, columns)[:, None] * r.square().div_(-len(columns))
            dx[rows] = (dblock * weight).addcmul_(block, along).mul_(r)
        return dx.view(dy.shape), dweight.to(weight.dtype), None, None


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
            scale[rows] = rms_scale(parts, eps)
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
            # Both sums over dout·g as matrix-vector products: d weight = Σ_rows r dout g, and
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
