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
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import row_blocks
from drama.ops.dtypes import multiply_add_into, multiply_into
from drama.ops.ssd.decay import split_cumsum
from drama.ops.ssd.subchunk import FirstHalf, group_of, half

LARGEST_DROP = {torch.float32: 112.0, torch.float64: 800.0}
"""Doublings that a chunk may forget by, by the type of the matrix products: half of them stay far
inside the type's exponents."""
LARGEST_STEP = {torch.float32: 12.0, torch.float64: 40.0}
"""Doublings that one step may forget by. A decay's gradient is found as the difference of two sums
that hold much more; where less than that gets through a step, it would be mostly rounding."""
MOST_HALVED = 0.5
"""Share of the heads that may have their chunk halved, which costs about half as much again."""
SMALLEST_HALVED = 32
"""State size below which states are so cheap to pass on that more chunks are better than halves."""
LARGEST_DT = 2.0**20
SHORTEST_CHUNK = 16
SMALLEST_STATE = {torch.float32: 16, torch.float64: 16}
"""State size from which the separable variant is faster, by the type of the matrix products.

bfloat16 is absent: the gradient of a log-decay is a difference of two large sums of products. With
products rounded to bfloat16 its relative error is 2 to 12 %, pairwise below 1 %.
"""


def preferred_chunk(d_state: int) -> int:
    """Return the chunk length that was measured to be cheapest for states of this size."""
    return 64 if d_state <= 32 else 128


def may_halve(d_state: int, initial_state: Tensor | None) -> bool:
    """Whether :func:`fit` may compute the first half of a chunk apart for some heads."""
    return initial_state is None and d_state >= SMALLEST_HALVED


def worthwhile(d_state: int, dtype: torch.dtype) -> bool:
    """Whether the separable variant is faster and precise enough for products in ``dtype``."""
    return d_state >= SMALLEST_STATE.get(dtype, math.inf)


class Fit(NamedTuple):
    """How a window is cut."""

    chunks: int
    halved: Tensor | None = None
    """Heads whose one chunk is out of range as a whole and not in halves, ``(S,)``."""


def fit(
    logs: Tensor, dt: Tensor, longest: int, dtype: torch.dtype, *, halves: bool = False
) -> Fit | None:
    """Return in how many even chunks of at most ``longest`` steps the exponents stay in range.

    Looks at the numbers, so it is for tensors on a CPU.

    Args:
        logs: Log-decays to base 2, 0 at resets, ``(B, T, H)``.
        dt: Step sizes ``(B, T, H)``.
        longest: Preferred length of a chunk; shorter ones are tried, down to 16 steps.
        dtype: Type of the matrix products, which hold the powers; that of ``logs`` can be wider.
        halves: Whether a window that is one chunk may leave some heads to
            :mod:`drama.ops.ssd.subchunk`.

    Returns:
        How to cut it, or None where none of these lengths is short enough.
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
        beyond = torch.unflatten(padded, 1, (chunks, chunk)).sum(2) < limit  # (B, chunks, H)
        if not bool(beyond.any()):
            return Fit(chunks)
        if halves and chunks == 1:
            heads = beyond.any(0)[0].nonzero()[:, 0]
            both = (v[..., heads].sum(1).amin() for v in torch.split(logs, half(length), dim=1))
            if len(heads) <= MOST_HALVED * logs.shape[2] and all(bool(v >= limit) for v in both):
                return Fit(1, heads)
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

    def flags(self, heads: Tensor, per_group: int) -> Tensor:
        """Which heads are among those given, as bool ``(G, 1, H/G)``."""
        flags = torch.zeros(self.groups * per_group, dtype=torch.bool, device=heads.device)
        flags[heads] = True
        return flags.view(self.groups, 1, per_group)

    def state_inward(self, state: Tensor) -> Tensor:
        """View states ``(B, H, P, N)`` as ``(B, G, H/G, P, N)``."""
        return torch.unflatten(state, 1, (self.groups, -1))


class _Scales(NamedTuple):
    """Powers of two, for each step and head or for each chunk and head."""

    row: Tensor
    """``2^(l_i - m)``: ``(chunks, B, G, K, H/G, 1)``."""
    column: Tensor
    """``2^(m - l_j)``, likewise."""
    begin: Tensor
    """``2^m``, beside states: ``(chunks, B, G, H/G, 1, 1)``."""
    end: Tensor
    """``2^(l_K - m)``, likewise."""

    @classmethod
    def of(cls, logs: Tensor, halved: Tensor | None) -> _Scales:
        """From log-decays ``(chunks, B, G, K, H/G)``; of ``halved`` heads for the second half."""
        coarse, fine = (v.transpose(-1, -2) for v in split_cumsum(logs.transpose(-1, -2)))
        middle = coarse[..., -1:, :] / 2
        if halved is not None:
            steps = half(logs.shape[3])
            middle = middle + halved * coarse[..., steps - 1 : steps, :] / 2
        # Products of powers instead of powers of sums, which would be rounded first.
        row = torch.exp2(coarse - middle) * torch.exp2(fine)
        if halved is not None:
            row[..., :steps, :].masked_fill_(halved, 0.0)
        column = torch.exp2(middle - coarse) * torch.exp2(-fine)
        begin, end = (
            v.transpose(-1, -2)[..., None] for v in (torch.exp2(middle), row[..., -1:, :])
        )
        return cls(row[..., None], column[..., None], begin, end)


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
        cut: Fit,
    ) -> tuple[Tensor, Tensor]:
        """Take ``(B, chunks·K, ...)``; return ``y`` and the final state ``(B, H, P, N)``."""
        chunks, halved = cut
        layout = _Layout(chunks, B.shape[2])
        compute, dtype = x.dtype, logs.dtype
        result = torch.empty(x.shape, dtype=compute, device=x.device)
        by_step = x, dt, logs
        x, dt, logs, y = (layout.inward(v) for v in (x, dt[..., None], logs, result))
        B, C = (layout.inward(v)[..., 0, :].contiguous() for v in (B, C))  # (chunks, B, G, K, N)
        batch, d_state = x.shape[1], B.shape[-1]
        per_state = (batch, layout.groups, *x.shape[-2:], d_state)
        first = 0 if initial_state is not None else 1  # of the chunks that read a state

        scales = _Scales.of(logs, None if halved is None else layout.flags(halved, logs.shape[-1]))
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

        added = _added(scaled, B, masks.writes)  # (chunks, B, G, H/G, P, N)
        carried = scales.begin * scales.end  # (chunks, B, G, H/G, 1, 1)
        if masks.reads is not None:
            carried *= masks.reads[..., -1:, :, None]
        state = None if initial_state is None else layout.state_inward(initial_state)
        states = torch.empty(chunks - first, *per_state, dtype=compute, device=x.device)  # 2^m s
        for index in range(chunks):
            if index >= first:
                assert state is not None
                multiply_into(states[index - first], state, scales.begin[index])
            written = added[index].to(dtype)
            if state is None:
                state = written.mul_(scales.end[index])
            else:
                state = (state * carried[index]).addcmul_(written, scales.end[index])
        assert state is not None
        if len(states):
            readers = _masked(C, masks.reads)[first:]
            _add_products(mixed[first:], readers, states.flatten(3, 4).transpose(-1, -2))

        mixed = mixed.view_as(scaled)
        for tile in _tiles(x):
            part = mixed[tile].to(dtype) * scales.row[tile]
            multiply_add_into(y[tile], part, x[tile].to(dtype), skip[tile])
        first_half: Iterable[Tensor] = ()
        if halved is not None:
            first_half = FirstHalf.add_to(result, *by_step, scores[0], halved)

        ctx.save_for_backward(
            x, dt, B, C, own, skip, scores, scaled, mixed, states, is_first, *scales, *first_half
        )
        ctx.layout, ctx.halved, ctx.has_skip = layout, halved, D is not None
        ctx.set_materialize_grads(False)
        return result, state.flatten(1, 2)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors that ``forward`` took."""
        x, dt, B, C, own, skip, scores, scaled, mixed, states, is_first, *s = ctx.saved_tensors
        scales, first_half = _Scales(*s[:4]), FirstHalf(*s[4:]) if s[4:] else None
        layout = ctx.layout
        masks = _Masks.of(is_first, layout.chunks, scores)
        compute, dtype, chunks = scaled.dtype, dt.dtype, layout.chunks
        first = chunks - len(states)
        result = x.new_empty(x.shape[1], chunks * x.shape[3], x.shape[2] * x.shape[4], x.shape[5])
        dx = layout.inward(result)
        dy = torch.zeros_like(result) if dy is None else dy
        extra = None
        if first_half is not None:
            extra = first_half.backward(dy, ctx.halved, None if is_first is None else masks.pairs)
        dy = layout.inward(dy)

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
        if extra is not None:
            groups = group_of(ctx.halved, result.shape[2], layout.groups)
            steps = extra.scores.shape[-1]
            dscores[0, :, :, :steps, :steps].index_add_(1, groups, extra.scores)
        # Cut off, not only multiplied by 0: above the diagonal 2^(l_i - l_j) can be 2^112, so that
        # a product may well be infinite there.
        dscores.tril_(-1).mul_(masks.pairs)
        down = (dskip * dt).sum(-2, keepdim=True)[..., 0]  # of C_i·B_i: (chunks, B, G, K, 1)
        dB = torch.matmul(dscores.transpose(-1, -2), C).to(dtype).addcmul_(down, C.to(dtype))
        dC = torch.matmul(dscores, B).to(dtype).addcmul_(down, B.to(dtype))

        # The states, from the last chunk to the first; nothing reads that of the last but dfinal.
        last = chunks if dfinal is not None else chunks - 1
        adjoint = None if dfinal is None else layout.state_inward(dfinal.to(dtype))
        dadded = torch.empty(last, *states.shape[1:], dtype=compute, device=x.device)
        if len(states):
            readers = _masked(C, masks.reads)[first:]
            dstates = torch.matmul(flat[first:].transpose(-1, -2), readers).view_as(states)
            dreaders = torch.matmul(flat[first:], states.flatten(3, 4))
            dC[first:] += dreaders if masks.reads is None else dreaders * masks.reads[first:]
        carried = scales.begin * scales.end
        if masks.reads is not None:
            carried *= masks.reads[..., -1:, :, None]
        for index in reversed(range(chunks)):
            if adjoint is not None:
                if index < chunks - 1:
                    after = states[index + 1 - first] / scales.begin[index + 1]
                else:  # the final state was not saved: it is large, and hardly ever needed
                    writes = None if masks.writes is None else masks.writes[index:]
                    after = _added(scaled[index:], B[index:], writes)[0] * scales.end[index]
                    if index >= first:
                        before = states[index - first] / scales.begin[index]
                        after = after.addcmul_(before, carried[index])
                through = (adjoint * after).sum((3, 4))  # (B, G, H/G)
                dsums[index, :, :, -1] += through[..., None]
                multiply_into(dadded[index], adjoint, scales.end[index])
                adjoint = adjoint * carried[index]
            if index >= first:
                read = dstates[index - first] * scales.begin[index]
                adjoint = read.to(dtype) if adjoint is None else adjoint.add_(read)
        if last:
            writers = _masked(B, masks.writes)[:last]
            _add_products(dscaled[:last], writers, dadded.flatten(3, 4).transpose(-1, -2))
            dwriters = torch.matmul(scaled[:last].flatten(-2), dadded.flatten(3, 4))
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
        # A log-decay is part of all later sums of its chunk, up to the next reset: what lies behind
        # that adds up to 0, but to 0 and rounding.
        if is_first is None:
            dlogs = dsums.flip(3).cumsum(3).flip(3).mul_(math.log(2))
        else:
            later = torch.matmul(masks.pairs.to(dtype).transpose(-1, -2), dsums[..., 0])
            dlogs = dsums.add_(later[..., None]).mul_(math.log(2))
        ddt, dlogs = (layout.outward(v)[..., 0] for v in (ddt, dlogs))
        if extra is not None:
            for total, part in ((result, extra.x), (ddt, extra.dt), (dlogs, extra.logs)):
                total[:, : part.shape[1], ctx.halved] += part.to(total.dtype)
        return (
            result,
            ddt,
            dlogs,
            layout.outward(dB.to(compute)[..., None, :]),
            layout.outward(dC.to(compute)[..., None, :]),
            dskip.sum((0, 1, 3)).flatten() if ctx.has_skip else None,
            adjoint.flatten(1, 2) if first == 0 and adjoint is not None else None,
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


def _added(scaled: Tensor, B: Tensor, writes: Tensor | None) -> Tensor:
    """What each chunk's inputs add to the state behind it: ``(chunks, B, G, H/G, P, N)``."""
    product = torch.matmul(scaled.flatten(-2).transpose(-1, -2), _masked(B, writes))
    return torch.unflatten(product, 3, scaled.shape[-2:])


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the matrix products ``a b`` to ``total``, all ``(chunks, B, G, ..., ...)``."""
    flat = total.flatten(0, 2)
    flat.baddbmm_(a.flatten(0, 2), b.flatten(0, 2))
