"""Numerical helpers that the scans share: accumulation types, log-decays and exact differences."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drama.blocks import row_blocks

# 2 to the power of these is exactly 0 (not even subnormal) in the type they stand beside.
_UNDERFLOW = {torch.float32: -152.0, torch.float64: -1080.0}


def accumulation_dtype(*tensors: Tensor | None) -> torch.dtype:
    """Return float64 if any tensor is float64, else float32: states and decays never use less."""
    if any(t is not None and t.dtype == torch.float64 for t in tensors):
        return torch.float64
    return torch.float32


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return the type for matrix products on ``x``: autocast's where it is on, else its own."""
    device = x.device.type
    if x.dtype == torch.float32 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def log_decay(dt: Tensor, A: Tensor, is_first: Tensor | None) -> Tensor:
    """Return the base-2 log of each step's decay, ``Δ_t A / ln 2``, or where its power underflows.

    To base 2, because on a CPU ``exp2`` takes the same time for every number, while ``exp`` was
    measured to take 10 to 40 times as long where its result underflows, as strong forgetting does.

    The clamp changes no result: a product of decays that contains such a step is 0 in any case.
    It keeps sums finite, and makes a reset just another step that forgets everything, exactly.

    Args:
        dt: Step sizes ``(B, T, H)``.
        A: Negative rates ``(H,)``.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.

    Returns:
        ``(B, T, H)`` in float32 or float64.
    """
    dtype = accumulation_dtype(dt, A)
    floor = _UNDERFLOW[dtype]
    logs = (dt.to(dtype) * (A.to(dtype) / math.log(2))).clamp(min=floor)
    return logs if is_first is None else logs.masked_fill(is_first[..., None], floor)


def split_cumsum(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Sum log-decays along the last dimension so that *differences* of the sums stay accurate.

    The decay between two steps is 2 to the power of a difference of running sums. After one step
    of strong forgetting a plain float32 sum is in the hundreds or thousands, and the differences
    behind it have lost the digits that matter. So each number is split in a coarse part, a
    multiple of a power of two ``g`` so large that all sums of coarse parts are exact, and the
    small rest. Differences of the first sums are exact; those of the second are of size ``K g``,
    and err by that times the machine epsilon.

    Args:
        logs: Clamped log-decays ``(..., K)``, from :func:`log_decay`.

    Returns:
        ``(coarse, fine)``, both ``(..., K)``; their sum is the running sum. The gradient flows
        through ``fine`` alone, and is that of the whole sum.
    """
    largest = -_UNDERFLOW[logs.dtype] * logs.shape[-1]
    digits = 23 if logs.dtype == torch.float32 else 52
    grid = 2.0 ** (math.ceil(math.log2(largest)) - digits)
    with torch.no_grad():
        coarse = (logs / grid).round_().mul_(grid)
    return coarse.cumsum(-1), (logs - coarse).cumsum(-1)


def state_blocks(state: Tensor) -> list[slice]:
    """Cut a batch of states ``(B, ...)`` so that a part stays in cache while a step is taken.

    Measured: longer parts than elsewhere, because a step has few operations and they are short.
    """
    return row_blocks(len(state), math.prod(state.shape[1:]), state.device, elements=2**18)


def multiply_into(out: Tensor, a: Tensor, b: Tensor) -> None:
    """``out = a b``, rounded once, whatever the type of ``out``.

    An ``out=`` of another type, or factors of two types, take several times as long on a CPU as
    operations of one type and a copy.
    """
    if a.dtype == b.dtype == out.dtype:
        torch.mul(a, b, out=out)
    else:
        out.copy_(a * b)


def multiply_add_into(out: Tensor, total: Tensor, a: Tensor, b: Tensor) -> None:
    """``out = total + a b``, likewise; ``total`` may be overwritten."""
    if total.dtype == out.dtype:
        torch.addcmul(total, a, b, out=out)
    else:
        out.copy_(total.addcmul_(a, b))
