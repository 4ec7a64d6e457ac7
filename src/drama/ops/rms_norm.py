"""RMSNorm, alone and with SiLU behind it: fused on a GPU, few passes over memory on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.dispatch import on_cpu

# Up to here the calls cost more than the work, and PyTorch's own are made in C++.
_FEW_ELEMENTS = 2**15


class RMSNorm(nn.RMSNorm):
    """``x / rms(x) * weight`` over the last axis, in the type of ``x``; sums are float32 at least.

    PyTorch fuses it on a GPU, if ``x`` and the weight have one type, which autocast does not give
    them. On a CPU it is eight operations, each of which writes a tensor as large as ``x``: where
    that is large, it is one here, differentiable once, that keeps nothing but its input.
    """

    silu = False

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., size)``."""
        if on_cpu(x) and x.numel() > _FEW_ELEMENTS:
            y: Tensor = _RMSNorm.apply(x, self.weight, self.eps, self.silu)  # type: ignore[no-untyped-call]
            return y
        y = F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
        return F.silu(y) if self.silu else y


class RMSNormSiLU(RMSNorm):
    """``silu(RMSNorm(x))``: what stands behind a linear layer almost everywhere."""

    silu = True


class _RMSNorm(torch.autograd.Function):
    """With ``r = (mean x² + ε)^(-1/2)``: ``y = x r weight``, or its SiLU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, silu: bool) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y = torch.empty(flat.shape, dtype=x.dtype, device=x.device)
        scale = torch.empty(len(flat), 1, dtype=_at_least_float32(x.dtype), device=x.device)  # r
        for rows in row_blocks(len(flat), x.shape[-1], x.device):
            block = flat[rows].to(scale.dtype)
            norm = torch.linalg.vector_norm(block, dim=-1, keepdim=True)
            scale[rows] = r = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
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
            # Both sums over dy x are products with a vector.
            product = dblock * block
            dweight += torch.mv(product.t(), r[:, 0])
            # d x = r (weight dy - x r² mean(weight dy x)).
            along = torch.mv(product, columns)[:, None] * r.square().div_(-len(columns))
            dx[rows] = (dblock * weight).addcmul_(block, along).mul_(r)
        return dx.view(dy.shape), dweight.to(weight.dtype), None, None


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype
