"""The chunked scan of Mamba-2 with decays split between its two ends: the fast path on a CPU.

With ``l_t`` the running sums of a chunk's log-decays, to base 2, the decay between two steps is
``L_ij = 2^(l_i - l_j)``. Kept together, it makes a matrix of K x K per head. Split into
``2^(l_i)``, which scales row i of the result, and ``2^(-l_j)``, which scales input j, it leaves
the matrix ``C Bᵀ`` that all heads of a group share, so that one product serves them:

    Y_i = 2^(l_i - m) Z_i + (D + Δ_i C_i·B_i) x_i         Z = tril(C Bᵀ, -1) X̃ + C (2^m s)
    X̃_j = 2^(m - l_j) Δ_j x_j                             s' = 2^(l_K) s + 2^(l_K - m) Bᵀ X̃

``s`` is the state at the chunk's start, stored ``(N, H P)``, and ``m = l_K / 2`` halves the range
of the exponents. That range is what limits this form: where a chunk forgets by more than
:data:`LARGEST_DROP` doublings, ``2^(m - l_j)`` would leave the number type, and :func:`fit` says
so. The diagonal stands apart because nothing decays on it: its gradient would cancel only up to
rounding.

A reset is no decay here but a mask on ``C Bᵀ``, on the rows that read ``s`` and on those that write
``s'``, which all heads share as well.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from drama.blocks import row_blocks
from drama.ssm._numeric import multiply_add_into, multiply_into, split_cumsum

LARGEST_DROP = {torch.bfloat16: 112.0, torch.float32: 112.0, torch.float64: 800.0}
"""Doublings that a chunk may forget by, by the type of the matrix products: half of them stay far
inside the type's exponents."""
LARGEST_STEP = {torch.bfloat16: 12.0, torch.float32: 12.0, torch.float64: 40.0}
"""Doublings that one step may forget by. A decay's gradient is found as the difference of two sums
that hold much more; where less than that gets through a step, it would be mostly rounding."""
LARGEST_DT = 2.0**20
SHORTEST_CHUNK = 16
SMALLEST_STATE = {torch.bfloat16: 32, torch.float32: 16, torch.float64: 16}
"""State size from which on this way is the faster one, by the type of the matrix products."""


def preferred_chunk(d_state: int) -> int:
    """Return the chunk length that was measured to be cheapest for states of this size."""
    return 64 if d_state <= 32 else 128


def worthwhile(d_state: int, dtype: torch.dtype) -> bool:
    """Whether this way is the faster one; float16 has too few exponents for it."""
    return d_state >= SMALLEST_STATE.get(dtype, math.inf)


def fit(logs: Tensor, dt: Tensor, longest: int, dtype: torch.dtype) -> int | None:
    """Return how many even chunks of at most ``longest`` steps keep the exponents in range.

    Looks at the numbers, so it is for tensors on a CPU.

    Args:
        logs: Log-decays to base 2, 0 at resets, ``(B, T, H)``.
        dt: Step sizes ``(B, T, H)``.
        longest: Preferred length of a chunk; shorter ones are tried, down to 16 steps.
        dtype: Type of the matrix products, which hold the powers; that of ``logs`` can be wider.

    Returns:
        The number of chunks, or None where none of these lengths is short enough.
    """
    length = logs.shape[1]
    if length <= SHORTEST_CHUNK or not logs.numel():  # in so few steps there is nothing to gain
        return None
    if not bool((dt.amax() <= LARGEST_DT) & (logs.amin() >= -LARGEST_STEP[dtype])):  # nor is NaN
        return None
    limit = -LARGEST_DROP[dtype]
    while True:
        chunks = math.ceil(length / longest)
        chunk = math.ceil(length / chunks)
        padded = F.pad(logs, (0, 0, 0, chunks * chunk - length))
        if bool(torch.unflatten(padded, 1, (chunks, chunk)).sum(2).amin() >= limit):
            return chunks
        if chunk <= SHORTEST_CHUNK:
            return None
        longest = max(chunk // 2, SHORTEST_CHUNK)


class _Layout(NamedTuple):
    """How ``(B, T, H, ...)`` is seen as ``(chunks, B, G, K, H/G, ...)``.

    Chunks come first, so that all but the first or all but the last of them lie in one piece: the
    first reads no state where none is given, and the last one's is often not asked for.
    """

    chunks: int
    groups: int

    def inward(self, x: Tensor) -> Tensor:
        """View time in chunks and heads in groups."""
        x = torch.unflatten(torch.unflatten(x, 2, (self.groups, -1)), 1, (self.chunks, -1))
        return x.transpose(2, 3).transpose(0, 1)

    def outward(self, x: Tensor) -> Tensor:
        """Undo :meth:`inward`."""
        return x.transpose(0, 1).transpose(2, 3).flatten(1, 2).flatten(2, 3)

    def state_inward(self, state: Tensor) -> Tensor:
        """View states ``(B, H, P, N)`` as ``(B, G, N, H/G, P)``."""
        return torch.unflatten(state, 1, (self.groups, -1)).permute(0, 1, 4, 2, 3)

    def state_outward(self, state: Tensor) -> Tensor:
        """Undo :meth:`state_inward`, in memory of its own: what is saved may not be handed out."""
        outward = state.permute(0, 1, 3, 4, 2)
        return outward.clone(memory_format=torch.contiguous_format).flatten(1, 2)


class _Scales(NamedTuple):
    """Powers of two, for each step and head or for each chunk and head."""

    row: Tensor
    """``2^(l_i - m)``: ``(chunks, B, G, K, H/G, 1)``."""
    column: Tensor
    """``2^(m - l_j)``, likewise."""
    begin: Tensor
    """``2^m``, beside states: ``(chunks, B, G, 1, H/G, 1)``."""
    end: Tensor
    """``2^(l_K - m)``, likewise."""

    @classmethod
    def of(cls, logs: Tensor) -> _Scales:
        """From log-decays ``(chunks, B, G, K, H/G)``."""
        coarse, fine = (v.transpose(-1, -2) for v in split_cumsum(logs.transpose(-1, -2)))
        middle = coarse[..., -1:, :] / 2
        # Products of powers instead of powers of sums, which would be rounded first.
        row = torch.exp2(coarse - middle) * torch.exp2(fine)
        column = torch.exp2(middle - coarse) * torch.exp2(-fine)
        return cls(*(v[..., None] for v in (row, column, torch.exp2(middle), row[..., -1:, :])))


class _Masks(NamedTuple):
    """What resets let through: shared by all heads."""

    pairs: Tensor
    """Strictly lower, and no reset between: ``(K, K)`` or ``(chunks, B, 1, K, K)``."""
    reads: Tensor | None
    """Rows before the chunk's first reset, ``(chunks, B, 1, K, 1)``."""
    writes: Tensor | None
    """Rows from the chunk's last reset on, likewise."""

    @classmethod
    def of(cls, is_first: Tensor | None, chunks: int, scores: Tensor) -> _Masks:
        """From resets ``(B, T)``; ``scores`` ``(..., K, K)`` gives type and size."""
        dtype = scores.dtype
        lower = torch.ones(scores.shape[-2:], dtype=dtype, device=scores.device).tril_(-1)
        if is_first is None:
            return cls(lower, None, None)
        resets = torch.unflatten(is_first, 1, (chunks, -1)).transpose(0, 1).cumsum(-1)
        resets = resets[:, :, None, :, None]
        same = resets == resets.transpose(-1, -2)
        return cls(
            same.to(dtype) * lower,
            (resets == 0).to(dtype),
            (resets == resets[..., -1:, :]).to(dtype),
        )


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


class Separable(torch.autograd.Function):
    """A window in chunks for which :func:`fit` has found the number. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        logs: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        initial_state: Tensor | None,
        is_first: Tensor | None,
        chunks: int,
    ) -> tuple[Tensor, Tensor]:
        """Take ``(B, chunks·K, ...)``; return ``y`` and the final state ``(B, H, P, N)``."""
        layout = _Layout(chunks, B.shape[2])
        compute, dtype = x.dtype, logs.dtype
        result = torch.empty(x.shape, dtype=compute, device=x.device)
        x, dt, logs, y = (layout.inward(v) for v in (x, dt[..., None], logs, result))
        B, C = (layout.inward(v)[..., 0, :].contiguous() for v in (B, C))  # (chunks, B, G, K, N)
        batch, d_state = x.shape[1], B.shape[-1]
        per_state = (batch, layout.groups, d_state, *x.shape[-2:])
        first = 0 if initial_state is not None else 1  # of the chunks that read a state

        scales = _Scales.of(logs)
        scores = torch.matmul(C, B.transpose(-1, -2))  # (chunks, B, G, K, K)
        masks = _Masks.of(is_first, chunks, scores)
        scores *= masks.pairs
        own = (C * B).sum(-1, dtype=dtype)[..., None, None]  # C_i·B_i: (chunks, B, G, K, 1, 1)
        skip = dt * own
        if D is not None:
            skip += D.view(layout.groups, 1, -1, 1)

        into = dt * scales.column
        scaled = torch.empty(x.shape, dtype=compute, device=x.device)  # X̃
        for tile in _tiles(x):
            multiply_into(scaled[tile], x[tile].to(dtype), into[tile])
        mixed = torch.matmul(scores, scaled.flatten(-2))  # Z: (chunks, B, G, K, H/G·P)

        writers = _masked(B, masks.writes).transpose(-1, -2)
        added = torch.matmul(writers, scaled.flatten(-2)).view(chunks, *per_state)
        carried = scales.begin * scales.end  # (chunks, B, G, 1, H/G, 1)
        if masks.reads is not None:
            carried *= masks.reads[..., -1:, :, None]
        state = logs.new_zeros(1) if initial_state is None else layout.state_inward(initial_state)
        state = state.expand(per_state)
        states = torch.empty(chunks - first, *per_state, dtype=compute, device=x.device)  # 2^m s
        for index in range(chunks):
            if index >= first:
                multiply_into(states[index - first], state, scales.begin[index])
            state = state * carried[index]
            state.addcmul_(added[index].to(dtype), scales.end[index])
        if len(states):
            readers = _masked(C, masks.reads)[first:]
            _add_products(mixed[first:], readers, states.flatten(-2))

        mixed = mixed.view_as(scaled)
        for tile in _tiles(x):
            part = mixed[tile].to(dtype) * scales.row[tile]
            multiply_add_into(y[tile], part, x[tile].to(dtype), skip[tile])

        ctx.save_for_backward(
            x, dt, B, C, own, skip, scores, scaled, mixed, states, state, is_first, *scales
        )
        ctx.layout, ctx.has_skip = layout, D is not None
        ctx.set_materialize_grads(False)
        return result, layout.state_outward(state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors that ``forward`` took."""
        x, dt, B, C, own, skip, scores, scaled, mixed, states, final, is_first, *s = (
            ctx.saved_tensors
        )
        scales, layout = _Scales(*s), ctx.layout
        masks = _Masks.of(is_first, layout.chunks, scores)
        compute, dtype, chunks = scaled.dtype, dt.dtype, layout.chunks
        first = chunks - len(states)
        result = x.new_empty(x.shape[1], chunks * x.shape[3], x.shape[2] * x.shape[4], x.shape[5])
        dx = layout.inward(result)
        dy = layout.inward(torch.zeros_like(result) if dy is None else dy)

        dskip, dsums = torch.empty_like(dt.expand_as(skip)), torch.empty_like(skip)
        dmixed = torch.empty_like(mixed)
        for tile in _tiles(x):
            upstream = dy[tile].to(dtype)
            torch.sum(upstream * x[tile].to(dtype), -1, keepdim=True, out=dskip[tile])
            multiply_into(dmixed[tile], upstream, scales.row[tile])
            both = dmixed[tile].to(dtype) * mixed[tile].to(dtype)
            torch.sum(both, -1, keepdim=True, out=dsums[tile])
        flat = dmixed.flatten(-2)
        dscaled = torch.matmul(scores.transpose(-1, -2), flat)
        dscores = torch.matmul(flat, scaled.flatten(-2).transpose(-1, -2))
        # Cut off, not only multiplied by 0: above the diagonal 2^(l_i - l_j) can be 2^112, so that
        # a product may well be infinite there.
        dscores.tril_(-1).mul_(masks.pairs)
        down = (dskip * dt).sum(-2, keepdim=True)[..., 0]  # of C_i·B_i: (chunks, B, G, K, 1)
        dB = torch.matmul(dscores.transpose(-1, -2), C).to(dtype).addcmul_(down, C.to(dtype))
        dC = torch.matmul(dscores, B).to(dtype).addcmul_(down, B.to(dtype))

        # The states, from the last chunk to the first; nothing reads that of the last but dfinal.
        last = chunks if dfinal is not None else chunks - 1
        adjoint = None if dfinal is None else layout.state_inward(dfinal.to(dtype))
        dadded = torch.empty(last, *final.shape, dtype=compute, device=x.device)
        if len(states):
            readers = _masked(C, masks.reads)[first:]
            dstates = torch.matmul(readers.transpose(-1, -2), flat[first:]).view_as(states)
            dreaders = torch.matmul(flat[first:], states.flatten(-2).transpose(-1, -2))
            dC[first:] += dreaders if masks.reads is None else dreaders * masks.reads[first:]
        carried = scales.begin * scales.end
        if masks.reads is not None:
            carried *= masks.reads[..., -1:, :, None]
        for index in reversed(range(chunks)):
            if adjoint is not None:
                after = final
                if index < chunks - 1:
                    after = states[index + 1 - first] / scales.begin[index + 1]
                dsums[index, :, :, -1:] += (adjoint * after).sum((2, 4), keepdim=True)
                multiply_into(dadded[index], adjoint, scales.end[index])
                adjoint = adjoint * carried[index]
            if index >= first:
                read = dstates[index - first] * scales.begin[index]
                adjoint = read.to(dtype) if adjoint is None else adjoint.add_(read)
        if last:
            writers = _masked(B, masks.writes)[:last]
            _add_products(dscaled[:last], writers, dadded.flatten(-2))
            dwriters = torch.matmul(scaled[:last].flatten(-2), dadded.flatten(-2).transpose(-1, -2))
            dB[:last] += dwriters if masks.writes is None else dwriters * masks.writes[:last]

        along, into = torch.empty_like(dsums), dt * scales.column
        dscaled = dscaled.view_as(scaled)
        for tile in _tiles(x):
            part = dscaled[tile].to(dtype)
            torch.sum(part * x[tile].to(dtype), -1, keepdim=True, out=along[tile])
            part = part * into[tile]
            multiply_add_into(dx[tile], part, dy[tile].to(dtype), skip[tile])
        ddt = (along * scales.column).addcmul_(dskip, own)
        dsums -= along * into
        # A log-decay is part of all later sums of its chunk.
        dlogs = dsums.flip(3).cumsum(3).flip(3).mul_(math.log(2))
        return (
            result,
            layout.outward(ddt)[..., 0],
            layout.outward(dlogs)[..., 0],
            layout.outward(dB.to(compute)[..., None, :]),
            layout.outward(dC.to(compute)[..., None, :]),
            dskip.sum((0, 1, 3)).flatten() if ctx.has_skip else None,
            layout.state_outward(adjoint) if first == 0 and adjoint is not None else None,
            None,
            None,
        )


def _tiles(x: Tensor) -> list[tuple[slice, slice]]:
    """Cut ``(chunks, B, ...)`` into chunks and sequences whose intermediates stay in cache."""
    chunks, batch = x.shape[:2]
    size = x[0, 0].numel()
    return [
        (part, rows)
        for rows in row_blocks(batch, chunks * size, x.device)
        for part in row_blocks(chunks, (rows.stop - rows.start) * size, x.device)
    ]


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the matrix products ``a b`` to ``total``, all ``(chunks, B, G, ..., ...)``."""
    flat = total.flatten(0, 2)
    flat.baddbmm_(a.flatten(0, 2), b.flatten(0, 2))
