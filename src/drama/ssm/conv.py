"""The short causal depthwise convolution in front of a selective SSM, with resets, and its SiLU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from drama.blocks import row_blocks
from drama.ssm._numeric import matmul_dtype


def causal_conv1d_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    history: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its own causal filter, then apply SiLU.

    ``y_t = silu(bias + Σ_o weight[K-1-o] x_{t-o})``, over the offsets ``o = 0 .. K-1`` for which
    no reset lies in ``(t-o, t]``. Sums are taken in the type of ``weight``; nothing but the inputs
    is kept for the backward pass. Differentiable once.

    Args:
        x: Inputs ``(B, T, C)``.
        weight: Filters ``(C, 1, K)``, as ``nn.Conv1d`` keeps them.
        bias: ``(C,)`` or None.
        history: The ``K - 1`` inputs before ``x``, ``(B, K - 1, C)``; zeros if None.
        is_first: Steps that begin a new sequence, bool ``(B, T)``.

    Returns:
        ``y`` ``(B, T, C)`` in the type of matrix products, and the history for the next call
        ``(B, K - 1, C)`` in the type of ``x``, in which inputs from before the last reset are zero.
    """
    batch, length, channels = x.shape
    past = weight.shape[-1] - 1
    if history is None:
        history = x.new_zeros(batch, past, channels)
    if bias is None:
        bias = weight.new_zeros(channels)
    same = None if is_first is None else _same_sequence(is_first, past, weight.dtype)
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _ConvSilu.apply(  # type: ignore[no-untyped-call]
            x, weight[:, 0].t().contiguous(), bias, history, same, dtype
        )
        recent = torch.cat([history[:, length:].to(x.dtype), x[:, max(length - past, 0) :]], dim=1)
        if same is not None and past > 0:
            # Row r of the history lies K-2-r steps before the last step.
            last = same[:, -1, : past - 1].flip(-1)
            keep = torch.cat([last, same.new_ones(batch, 1)], dim=1).bool()
            recent = torch.where(keep[..., None], recent, 0)
    return y, recent


def causal_conv1d_silu_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor
) -> tuple[Tensor, Tensor]:
    """Take one step of :func:`causal_conv1d_silu`: ``x`` ``(B, C)`` to ``y`` and new history."""
    # Copied, because with strides a product takes several times as long on a CPU.
    filters = weight[:, 0].t().contiguous()  # (K, C)
    past = history.shape[1]
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    total = torch.addcmul(bias, x.to(weight.dtype), filters[past])
    for tap in range(past):
        total = total.addcmul_(history[:, tap].to(weight.dtype), filters[tap])
    recent = torch.cat([history[:, 1:].to(x.dtype), x[:, None]], dim=1)[:, :past]
    return F.silu(total).to(x.dtype), recent


class _ConvSilu(torch.autograd.Function):
    """Tile by tile, so that what lies between input and output stays in a processor's cache.

    Nothing but the inputs is kept; the backward pass computes the sums again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        filters: Tensor,
        bias: Tensor,
        history: Tensor,
        same: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Take ``x`` ``(B, T, C)``, ``filters`` ``(K, C)`` and a mask ``(B, T, K - 1)``."""
        ctx.save_for_backward(x, filters, bias, history, same)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        for rows, steps in _tiles(x):
            padded = _padded(x, history, rows, steps, filters.dtype)
            total = _total(padded, filters, bias, None if same is None else same[rows, steps])
            y[rows, steps] = F.silu(total, inplace=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, ``filters``, ``bias`` and ``history``."""
        x, filters, bias, history, same = ctx.saved_tensors
        taps = filters.shape[0]
        past = taps - 1
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dhistory = torch.zeros_like(history)
        dfilters, dbias = torch.zeros_like(filters), torch.zeros_like(bias)
        for rows, steps in _tiles(x):
            mask = None if same is None else same[rows, steps]
            padded = _padded(x, history, rows, steps, filters.dtype)
            total = _total(padded, filters, bias, mask)
            dtotal = torch.ops.aten.silu_backward(dy[rows, steps].to(total.dtype), total)
            dpadded = torch.zeros_like(padded)
            product = total  # no longer needed: scratch space
            for tap in range(taps):
                window = slice(tap, tap + dtotal.shape[1])
                kept = dtotal
                if mask is not None and tap < past:
                    kept = dtotal * mask[:, :, past - 1 - tap, None]
                dpadded[:, window].addcmul_(kept, filters[tap])
                dfilters[tap] += torch.mul(kept, padded[:, window], out=product).sum((0, 1))
            dbias += dtotal.sum((0, 1))
            dx[rows, steps] = dpadded[:, past:]
            _add_behind(dx, dhistory, rows, steps.start, dpadded[:, :past])
        return dx, dfilters, dbias, dhistory, None, None


def _tiles(x: Tensor) -> list[tuple[slice, slice]]:
    """Cut ``(B, T, C)`` into rows and steps: whole sequences, or parts of one."""
    batch, length, channels = x.shape
    return [
        (rows, steps)
        for rows in row_blocks(batch, length * channels, x.device)
        for steps in row_blocks(length, (rows.stop - rows.start) * channels, x.device)
    ]


def _padded(x: Tensor, history: Tensor, rows: slice, steps: slice, dtype: torch.dtype) -> Tensor:
    """Return the inputs of some steps, behind the K - 1 that came before: ``(rows, K-1+T, C)``."""
    past = history.shape[1]
    begin = steps.start - past
    if begin >= 0:
        return x[rows, begin : steps.stop].to(dtype)
    return torch.cat([history[rows, begin:].to(dtype), x[rows, : steps.stop].to(dtype)], dim=1)


def _add_behind(dx: Tensor, dhistory: Tensor, rows: slice, begin: int, grad: Tensor) -> None:
    """Add the gradient of the K - 1 inputs before step ``begin``, some of them history."""
    past = grad.shape[1]
    inside = min(begin, past)
    if inside > 0:
        dx[rows, begin - inside : begin] += grad[:, past - inside :]
    if inside < past:
        dhistory[rows, begin:] += grad[:, : past - inside]


def _total(padded: Tensor, filters: Tensor, bias: Tensor, same: Tensor | None) -> Tensor:
    """Return what SiLU is applied to, ``(rows, T, C)``."""
    past = filters.shape[0] - 1
    length = padded.shape[1] - past
    total = torch.addcmul(bias, padded[:, past:], filters[past])
    for tap in range(past):
        window = padded[:, tap : tap + length]
        if same is not None:
            window = window * same[:, :, past - 1 - tap, None]
        total.addcmul_(window, filters[tap])
    return total


def _same_sequence(is_first: Tensor, past: int, dtype: torch.dtype) -> Tensor:
    """Return 1 where steps ``t`` and ``t - o`` share a sequence, ``(B, T, past)``, o from 1."""
    keep = (~is_first).to(dtype)
    columns: list[Tensor] = []
    for offset in range(past):
        # No reset at t - offset, and none later up to t. Steps before the window hold no reset.
        shifted = F.pad(keep, (offset, 0), value=1.0)[:, : keep.shape[1]]
        columns.append(shifted if not columns else columns[-1] * shifted)
    return torch.stack(columns, dim=-1) if columns else keep.new_ones(*keep.shape, 0)
