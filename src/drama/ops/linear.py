"""A linear layer with its output in several tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.dtypes import matmul_dtype


def split_linear(x: Tensor, weight: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Return ``torch.split(F.linear(x, weight), sizes, dim=-1)``, each part contiguous.

    One matrix product per part, so nothing is copied apart, and the backward pass accumulates the
    gradients inside its products. Differentiable once.

    Args:
        x: ``(..., D)``.
        weight: ``(sum of sizes, D)``.
        sizes: Width of each part.

    Returns:
        ``(..., size)`` for each, in the type of matrix products.
    """
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        flat = x.reshape(-1, x.shape[-1])
        parts: tuple[Tensor, ...] = _SplitLinear.apply(  # type: ignore[no-untyped-call]
            flat, weight, sizes, dtype
        )
    return tuple(part.view(*x.shape[:-1], part.shape[-1]) for part in parts)


class _SplitLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, sizes: list[int], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        ctx.types = x.dtype, weight.dtype
        x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        ctx.sizes = sizes
        return tuple(torch.mm(x, part.t()) for part in torch.split(weight, sizes))

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *dparts: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx, dweight = torch.empty_like(x), torch.empty_like(weight)
        columns = (torch.split(v, ctx.sizes) for v in (weight, dweight))
        parts = zip(dparts, *columns, strict=True)
        for index, (dpart, part, dpart_weight) in enumerate(parts):
            torch.mm(dpart.t(), x, out=dpart_weight)
            torch.addmm(dx, dpart, part, beta=min(index, 1), out=dx)
        x_type, weight_type = ctx.types
        return dx.to(x_type), dweight.to(weight_type), None, None
