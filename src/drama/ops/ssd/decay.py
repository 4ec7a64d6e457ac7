"""Log-decays of Mamba-2, and running sums of them whose differences are accurate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drama.ops.dtypes import accumulation_dtype

UNDERFLOW = {torch.float32: -152.0, torch.float64: -1080.0}
"""2 to this power is exactly 0, not even subnormal: the log-decay of a reset."""


def log_decay(dt: Tensor, A: Tensor) -> Tensor:
    """Return the log-decay of each step to base 2, ``Δ_t A / ln 2``, clamped where 2^x is 0.

    To base 2, because on a CPU ``exp`` takes 10 to 40 times as long where its result underflows,
    while the time of ``exp2`` is constant.

    The clamp changes no result, since a product of decays with such a step is 0. It keeps sums
    finite, and a reset can be one more step of complete forgetting.

    Args:
        dt: Step sizes ``(B, T, H)``.
        A: Negative rates ``(H,)``.

    Returns:
        ``(B, T, H)`` in float32 or float64.
    """
    dtype = accumulation_dtype(dt, A)
    return (dt.to(dtype) * (A.to(dtype) / math.log(2))).clamp(min=UNDERFLOW[dtype])


def split_cumsum(logs: Tensor) -> tuple[Tensor, Tensor]:
    """Return running sums of log-decays in two parts, so that *differences* of sums are accurate.

    The decay between two steps is 2 to the power of a difference of running sums. After one step of
    strong forgetting a float32 sum is in the hundreds or thousands, and later differences lose
    digits. So each number is split into a coarse part, a multiple of a power of two ``g`` large
    enough that sums of coarse parts are exact, and the rest. Differences of coarse sums are exact;
    fine sums are of size ``K g``, and their error is that times the machine epsilon.

    Args:
        logs: Clamped log-decays ``(..., K)``, from :func:`log_decay`.

    Returns:
        ``(coarse, fine)``, both ``(..., K)``; their sum is the running sum. The gradient flows
        through ``fine`` alone and is that of the whole sum.
    """
    largest = -UNDERFLOW[logs.dtype] * logs.shape[-1]
    digits = 23 if logs.dtype == torch.float32 else 52
    grid = 2.0 ** (math.ceil(math.log2(largest)) - digits)
    with torch.no_grad():
        coarse = (logs / grid).round_().mul_(grid)
    return coarse.cumsum(-1), (logs - coarse).cumsum(-1)
