"""The short causal depthwise convolution in front of a selective SSM, with resets, and its SiLU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.checks import check_is_first
from drama.ops.dtypes import matmul_dtype


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

    Raises:
        ConfigError: If resets are not bool ``(B, T)``.
    """
    batch, length, channels = x.shape
    check_is_first("convolution", is_first, batch, length)
    past = weight.shape[-1] - 1
    if bias is None:
        bias = weight.new_zeros(channels)
    same = None if is_first is None else _same_sequence(is_first, past, weight.dtype)
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        y: Tensor = _ConvSilu.apply(  # type: ignore[no-untyped-call]
            x, weight.flatten(1).t().contiguous(), bias, history, same, dtype
        )
        # A copy, or the state would keep the whole window alive, and share its memory.
        recent = x[:, max(length - past, 0) :].clone()
        if length < past:
            before = x.new_zeros(batch, past, channels) if history is None else history
            recent = torch.cat([before[:, length:].to(x.dtype), recent], dim=1)
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
    filters = weight.flatten(1).t().contiguous()  # (K, C)
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
        history: Tensor | None,
        same: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Take ``x`` ``(B, T, C)``, ``filters`` ``(K, C)`` and a mask ``(B, T, K - 1)``."""
        ctx.save_for_backward(x, filters, bias, history, same)
        y = torch.empty(x.shape, dtype=dtype, device=x.device)
        for rows, steps in _tiles(x):
            tile = _Tile.of(x, history, same, rows, steps, filters)
            y[rows, steps] = F.silu(tile.total(filters, bias), inplace=True)
        return y

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``x``, ``filters``, ``bias`` and ``history``."""
        x, filters, bias, history, same = ctx.saved_tensors
        past = filters.shape[0] - 1
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        dhistory = None if history is None else torch.zeros_like(history)
        dfilters, dbias = torch.zeros_like(filters), torch.zeros_like(bias)
        for rows, steps in _tiles(x):
            tile = _Tile.of(x, history, same, rows, steps, filters)
            total = tile.total(filters, bias)
            dtotal = torch.ops.aten.silu_backward(dy[rows, steps].to(total.dtype), total)
            dbias += dtotal.sum((0, 1))
            # In place where sums have the type of x, and nothing is added to an earlier tile.
            straight = tile.lead == 0 and x.dtype == filters.dtype
            dinputs = dx[rows, steps] if straight else torch.empty_like(tile.inputs)
            dinputs[:, : tile.lead].zero_()
            torch.mul(dtotal, filters[past], out=dinputs[:, tile.lead :])
            dfilters[past] += (dtotal * tile.inputs[:, tile.lead :]).sum((0, 1))
            for reach in tile.reaches(past):
                tap = past - reach.offset
                kept = reach.masked(dtotal[:, reach.steps])
                dfilters[tap] += (kept * reach.source).sum((0, 1))
                if not reach.behind:
                    dinputs[:, reach.at].addcmul_(kept, filters[tap])
                elif dhistory is not None:
                    dhistory[rows, reach.at] += kept * filters[tap]
            if not straight:
                dx[rows, steps] = dinputs[:, tile.lead :]
                dx[rows, steps.start - tile.lead : steps.start] += dinputs[:, : tile.lead]
        return dx, dfilters, dbias, dhistory, None, None


class _Reach(NamedTuple):
    """The steps of a tile whose inputs an offset earlier lie in one piece."""

    offset: int
    steps: slice
    """Steps of the tile."""
    at: slice
    """Where their inputs are, in the tile's inputs or in the history."""
    behind: bool
    """Whether that is the history."""
    source: Tensor
    """These inputs, ``(rows, steps, C)``."""
    mask: Tensor | None
    """1 where no reset lies between, ``(rows, steps, 1)``."""

    def masked(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask


class _Tile(NamedTuple):
    """What some steps of some sequences are computed from."""

    inputs: Tensor
    """``(rows, lead + steps, C)``, in the type of the sums."""
    lead: int
    """Inputs of ``x`` before the tile's first step that it reads too."""
    history: Tensor | None
    """``(rows, K - 1, C)``, for a tile that reaches behind the window."""
    same: Tensor | None
    """``(rows, steps, K - 1)``"""

    @classmethod
    def of(
        cls,
        x: Tensor,
        history: Tensor | None,
        same: Tensor | None,
        rows: slice,
        steps: slice,
        filters: Tensor,
    ) -> _Tile:
        past = filters.shape[0] - 1
        lead = min(steps.start, past)
        return cls(
            x[rows, steps.start - lead : steps.stop].to(filters.dtype),
            lead,
            None if history is None or lead == past else history[rows].to(filters.dtype),
            None if same is None else same[rows, steps],
        )

    def reaches(self, past: int) -> Iterator[_Reach]:
        """Every earlier offset, in the inputs and in the history."""
        length = self.inputs.shape[1] - self.lead
        for offset in range(1, past + 1):
            mask = None if self.same is None else self.same[:, :, offset - 1, None]
            short = min(max(offset - self.lead, 0), length)  # steps that reach behind the inputs
            for behind, steps in ((True, slice(0, short)), (False, slice(short, length))):
                source = self.history if behind else self.inputs
                if source is None or steps.start == steps.stop:
                    continue
                moved = self.lead - offset + (past if behind else 0)
                at = slice(steps.start + moved, steps.stop + moved)
                part = None if mask is None else mask[:, steps]
                yield _Reach(offset, steps, at, behind, source[:, at], part)

    def total(self, filters: Tensor, bias: Tensor) -> Tensor:
        """Return what SiLU is applied to, ``(rows, steps, C)``."""
        past = filters.shape[0] - 1
        total = torch.addcmul(bias, self.inputs[:, self.lead :], filters[past])
        for reach in self.reaches(past):
            total[:, reach.steps].addcmul_(reach.masked(reach.source), filters[past - reach.offset])
        return total


def _tiles(x: Tensor) -> list[tuple[slice, slice]]:
    """Cut ``(B, T, C)`` into rows and steps: whole sequences, or parts of one."""
    batch, length, channels = x.shape
    return [
        (rows, steps)
        for rows in row_blocks(batch, length * channels, x.device)
        for steps in row_blocks(length, (rows.stop - rows.start) * channels, x.device)
    ]


def _same_sequence(is_first: Tensor, past: int, dtype: torch.dtype) -> Tensor:
    """Return 1 where steps ``t`` and ``t - o`` share a sequence, ``(B, T, past)``, o from 1."""
    keep = (~is_first).to(dtype)
    columns: list[Tensor] = []
    for offset in range(past):
        # No reset at t - offset, and none later up to t. Steps before the window hold no reset.
        shifted = F.pad(keep, (offset, 0), value=1.0)[:, : keep.shape[1]]
        columns.append(shifted if not columns else columns[-1] * shifted)
    return torch.stack(columns, dim=-1) if columns else keep.new_ones(*keep.shape, 0)
