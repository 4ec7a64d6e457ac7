"""Causal depthwise convolution and SiLU in front of a selective SSM, with resets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops import kernels
from drama.ops.autograd import differentiable_once
from drama.ops.backend_name import ChosenBackend
from drama.ops.blocking import tiles
from drama.ops.checks import check_is_first
from drama.ops.dtypes import matmul_dtype


def reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    history: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Plain form of :func:`causal_conv1d_silu`, in the type of ``x``."""
    batch, _, channels = x.shape
    taps = weight.shape[-1]
    past = x.new_zeros(batch, taps - 1, channels) if history is None else history
    windows = torch.cat([past, x], dim=1).unfold(1, taps, 1)  # (B, T, C, K)
    if is_first is not None:
        sequence = F.pad(is_first.long().cumsum(1), (taps - 1, 0))  # of each input
        same = sequence.unfold(1, taps, 1) == sequence[:, taps - 1 :, None]  # (B, T, K)
        windows = windows * same[:, :, None]
    y = (windows * weight[:, 0]).sum(-1)
    y = F.silu(y if bias is None else y + bias)
    return y, windows[:, -1, :, 1:].transpose(1, 2)


def causal_conv1d_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    history: Tensor | None = None,
    is_first: Tensor | None = None,
    *,
    backend: ChosenBackend = "torch",
) -> tuple[Tensor, Tensor]:
    """Convolve each channel with its own causal filter, then apply SiLU.

    ``y_t = silu(bias + Σ_o weight[K-1-o] x_{t-o})``, over the offsets ``o = 0 .. K-1`` for which
    no reset lies in ``(t-o, t]``. Sums have the type of ``weight``. Differentiable once.

    Args:
        x: Inputs ``(B, T, C)``.
        weight: Filters ``(C, 1, K)``, as in ``nn.Conv1d``.
        bias: ``(C,)`` or None.
        history: The ``K - 1`` inputs before ``x``, ``(B, K - 1, C)``; zeros if None.
        is_first: Steps that begin a new sequence, bool ``(B, T)``.
        backend: ``torch``, or the ``kernels`` of causal_conv1d.

    Returns:
        ``y`` ``(B, T, C)`` in the type of matrix products, and the history for the next call
        ``(B, K - 1, C)`` in the type of ``x``, in which inputs from before the last reset are zero.

    Raises:
        ConfigError: If resets are not bool ``(B, T)``.
    """
    batch, length, channels = x.shape
    check_is_first("convolution", is_first, batch, length)
    if backend == "kernels":
        return kernels.causal_conv1d_silu(x, weight, bias, history, is_first)
    past = weight.shape[-1] - 1
    if bias is None:
        bias = weight.new_zeros(channels)
    same = None if is_first is None else _same_sequence(is_first, past, weight.dtype)
    dtype = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        filters = weight.flatten(1).t().contiguous()  # (K, C)
        y: Tensor = _ConvSiLU.apply(  # type: ignore[no-untyped-call]
            x, filters, bias, history, same, dtype
        )
        # A copy: a view would keep the whole window alive, and share its memory.
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
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    history: Tensor,
    *,
    backend: ChosenBackend = "torch",
) -> tuple[Tensor, Tensor]:
    """Run one step of :func:`causal_conv1d_silu`: ``x`` ``(B, C)`` to ``y`` and the new history."""
    if backend == "kernels":
        return kernels.causal_conv1d_silu_step(x, weight, bias, history)
    # Copied: strided products take several times as long on a CPU.
    filters = weight.flatten(1).t().contiguous()  # (K, C)
    past = history.shape[1]
    if bias is None:
        bias = weight.new_zeros(weight.shape[0])
    total = torch.addcmul(bias, x.to(weight.dtype), filters[past])
    for tap in range(past):
        total = total.addcmul_(history[:, tap].to(weight.dtype), filters[tap])
    recent = torch.cat([history[:, 1:].to(x.dtype), x[:, None]], dim=1)[:, :past]
    return F.silu(total).to(x.dtype), recent


class _ConvSiLU(torch.autograd.Function):
    """In tiles whose intermediates stay in cache; saves its inputs and recomputes the sums."""

    @staticmethod
    def forward(  # noqa: PLR0913 (six besides autograd's context)
        ctx: Any,
        x: Tensor,
        filters: Tensor,
        bias: Tensor,
        history: Tensor | None,
        same: Tensor | None,
        dtype: torch.dtype,
    ) -> Tensor:
        """Take ``x`` ``(B, T, C)``, ``filters`` ``(K, C)`` and ``same`` ``(B, T, K - 1)``."""
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
            # In place where sums have the type of x and no earlier tile receives a part.
            direct = tile.lead == 0 and x.dtype == filters.dtype
            dinputs = dx[rows, steps] if direct else torch.empty_like(tile.inputs)
            dinputs[:, : tile.lead].zero_()
            torch.mul(dtotal, filters[past], out=dinputs[:, tile.lead :])
            dfilters[past] += (dtotal * tile.inputs[:, tile.lead :]).sum((0, 1))
            for part in tile.shifted(past):
                tap = past - part.offset
                kept = part.masked(dtotal[:, part.steps])
                dfilters[tap] += (kept * part.source).sum((0, 1))
                if not part.in_history:
                    dinputs[:, part.at].addcmul_(kept, filters[tap])
                elif dhistory is not None:
                    dhistory[rows, part.at] += kept * filters[tap]
            if not direct:
                dx[rows, steps] = dinputs[:, tile.lead :]
                dx[rows, steps.start - tile.lead : steps.start] += dinputs[:, : tile.lead]
        return dx, dfilters, dbias, dhistory, None, None


class _Shifted(NamedTuple):
    """Steps of a tile, and their inputs ``offset`` steps earlier, which are contiguous."""

    offset: int
    steps: slice
    """Steps of the tile."""
    at: slice
    """Position of the inputs, in those of the tile or in the history."""
    in_history: bool
    """Whether they are in the history."""
    source: Tensor
    """The inputs, ``(rows, steps, C)``."""
    mask: Tensor | None
    """1 where no reset lies between, ``(rows, steps, 1)``."""

    def masked(self, x: Tensor) -> Tensor:
        return x if self.mask is None else x * self.mask


class _Tile(NamedTuple):
    """Inputs of some steps of some sequences."""

    inputs: Tensor
    """``(rows, lead + steps, C)``, in the type of the sums."""
    lead: int
    """Number of inputs of ``x`` before the tile's first step."""
    history: Tensor | None
    """``(rows, K - 1, C)``, for a tile at the start of the window."""
    same: Tensor | None
    """``(rows, steps, K - 1)``, see :func:`_same_sequence`."""

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

    def shifted(self, past: int) -> Iterator[_Shifted]:
        """Yield every earlier offset, in the inputs and in the history."""
        length = self.inputs.shape[1] - self.lead
        for offset in range(1, past + 1):
            mask = None if self.same is None else self.same[:, :, offset - 1, None]
            short = min(max(offset - self.lead, 0), length)  # steps that read the history
            for in_history, steps in ((True, slice(0, short)), (False, slice(short, length))):
                source = self.history if in_history else self.inputs
                if source is None or steps.start == steps.stop:
                    continue
                moved = self.lead - offset + (past if in_history else 0)
                at = slice(steps.start + moved, steps.stop + moved)
                masked = None if mask is None else mask[:, steps]
                yield _Shifted(offset, steps, at, in_history, source[:, at], masked)

    def total(self, filters: Tensor, bias: Tensor) -> Tensor:
        """Return the argument of SiLU, ``(rows, steps, C)``."""
        past = filters.shape[0] - 1
        total = torch.addcmul(bias, self.inputs[:, self.lead :], filters[past])
        for part in self.shifted(past):
            total[:, part.steps].addcmul_(part.masked(part.source), filters[past - part.offset])
        return total


def _tiles(x: Tensor) -> list[tuple[slice, slice]]:
    """Split ``(B, T, C)`` into whole sequences, or parts of one."""
    batch, length, channels = x.shape
    return tiles(batch, length, channels, x.device)


def _same_sequence(is_first: Tensor, past: int, dtype: torch.dtype) -> Tensor:
    """Return 1 where steps ``t`` and ``t - o`` share a sequence, ``(B, T, past)``, o from 1."""
    keep = (~is_first).to(dtype)
    columns: list[Tensor] = []
    for offset in range(past):
        # No reset at t - offset or later, up to t. Steps before the window have none.
        shifted = F.pad(keep, (offset, 0), value=1.0)[:, : keep.shape[1]]
        columns.append(shifted if not columns else columns[-1] * shifted)
    return torch.stack(columns, dim=-1) if columns else keep.new_ones(*keep.shape, 0)
