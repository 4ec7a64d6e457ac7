"""Chunk lengths of the factored form: the longest whose exponents stay within the number type.

The factored form (:mod:`drama.ops.ssd.factored`) scales inputs by ``2^(m - l_j)``, with ``l`` the
running sums of a chunk's log-decays. It is limited by how much a chunk forgets, in doublings: the
sum of its log-decays to base 2. :func:`plan` reads the decays and returns how to cut the window, or
None where only the masked form is right.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.dispatch import on_cpu
from drama.ops.ssd.window import Window

LARGEST_DROP = {torch.float32: 112.0, torch.float64: 800.0}
"""Doublings that a chunk may forget, by the type of matrix products: half of them stay far inside
the range of its exponents."""
LARGEST_STEP = {torch.float32: 12.0, torch.float64: 40.0}
"""Doublings that a step may forget. The gradient of a decay is a difference of two larger sums;
beyond this it would be mostly rounding."""
LARGEST_DT = 2.0**20
"""Largest step size."""
LARGEST_SPLIT_SHARE = 0.5
"""Largest share of heads with a split chunk, whose cost is about 1.5 times that of others."""
SMALLEST_SPLIT_STATE = 32
"""State size below which passing states on is so cheap that more chunks beat split ones."""
SHORTEST_CHUNK = 16
"""Steps below which the form gains nothing."""
SMALLEST_STATE = {torch.float32: 16, torch.float64: 16}
"""State size from which the factored form is faster, by the type of matrix products.

bfloat16 is absent: the gradient of a log-decay is a difference of two large sums of products. With
products rounded to bfloat16 its relative error is 2 to 12 %; that of the masked form is below 1 %.
"""


class Plan(NamedTuple):
    """How a window is cut."""

    chunks: int
    split_heads: Tensor | None = None
    """Heads whose only chunk is out of range, but not its halves, ``(S,)``."""


def worthwhile(window: Window) -> bool:
    """Whether the factored form is faster and precise enough, if the decays allow it.

    Only on the CPU: elsewhere reading the decays would synchronise.
    """
    smallest = SMALLEST_STATE.get(window.x.dtype, math.inf)
    return on_cpu(window.x) and window.B.shape[3] >= smallest


def plan(window: Window, chunk_size: int) -> Plan | None:
    """Return how the factored form cuts a window, or None where its exponents are insufficient.

    Args:
        window: Its inputs; log-decays are 0 at resets.
        chunk_size: Largest number of steps of a chunk.
    """
    d_state = window.B.shape[3]
    fastest = 64 if d_state <= 32 else 128  # measured
    split = window.initial_state is None and d_state >= SMALLEST_SPLIT_STATE
    return fit(window.logs, window.dt, min(chunk_size, fastest), window.x.dtype, split=split)


def fit(
    logs: Tensor, dt: Tensor, longest: int, dtype: torch.dtype, *, split: bool = False
) -> Plan | None:
    """Find the longest even chunks, of ``longest`` to 16 steps, whose exponents stay in range.

    Args:
        logs: Log-decays to base 2, 0 at resets, ``(B, T, H)``.
        dt: Step sizes ``(B, T, H)``.
        longest: Preferred length of a chunk.
        dtype: Type of the matrix products, which hold the powers; ``logs`` may be wider.
        split: Whether some heads of a single chunk may be computed in two subchunks.

    Returns:
        The plan, or None where no length is short enough.
    """
    length = logs.shape[1]
    if length <= SHORTEST_CHUNK or not logs.numel():
        return None
    if not bool((dt.amax() <= LARGEST_DT) & (logs.amin() >= -LARGEST_STEP[dtype])):  # NaN too
        return None
    limit = -LARGEST_DROP[dtype]
    while True:
        chunks = math.ceil(length / longest)
        chunk = math.ceil(length / chunks)
        padded = F.pad(logs, (0, 0, 0, chunks * chunk - length))
        beyond = torch.unflatten(padded, 1, (chunks, chunk)).sum(2) < limit  # (B, chunks, H)
        if not bool(beyond.any()):
            return Plan(chunks)
        if split and chunks == 1:
            heads = beyond.any(0)[0].nonzero()[:, 0]
            halves = torch.split(logs, first_half(length), dim=1)
            in_range = all(bool(v[..., heads].sum(1).amin() >= limit) for v in halves)
            if in_range and len(heads) <= LARGEST_SPLIT_SHARE * logs.shape[2]:
                return Plan(1, heads)
        if chunk <= SHORTEST_CHUNK:
            return None
        longest = max(chunk // 2, SHORTEST_CHUNK)


def first_half(steps: int) -> int:
    """Return the number of steps of a split chunk's first half."""
    return math.ceil(steps / 2)
