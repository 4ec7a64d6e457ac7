"""Number types of sums and of matrix products, and products written in another type."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return the type of states, decays and sums: float64 if any tensor is, else float32."""
    if any(t is not None and t.dtype == torch.float64 for t in tensors):
        return torch.float64
    return torch.float32


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return the type of matrix products on ``x``: that of autocast if on, else that of ``x``."""
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """Write ``a b`` into ``out``, rounded once to its type.

    With ``out=`` or factors of mixed types PyTorch's CPU kernels take several times as long as
    operations of one type and a copy.
    """
    if a.dtype == b.dtype == out.dtype:
        torch.mul(a, b, out=out)
    else:
        out.copy_(a * b)


def multiply_add_into(out: Tensor, total: Tensor, a: Tensor, b: Tensor) -> None:
    """Write ``total + a b`` into ``out``, rounded once; ``total`` may be overwritten."""
    if total.dtype == out.dtype:
        torch.addcmul(total, a, b, out=out)
    else:
        out.copy_(total.addcmul_(a, b))
