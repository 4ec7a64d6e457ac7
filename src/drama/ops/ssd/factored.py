"""Chunked scan of Mamba-2, factored form: the decay of a pair is a product of two scales.

With ``l`` the running sums of a chunk's log-decays to base 2, the decay between two steps is
``L_ij = 2^(l_i - l_j)``. The masked form (:mod:`drama.ops.ssd.masked`) keeps this ``K x K`` matrix
for each head. Factored into ``2^(l_i)``, which scales row i of the result, and ``2^(-l_j)``, which
scales input j, it leaves the matrix ``C Bᵀ``, shared by all heads of a group:

    Y_i = 2^(l_i - m) Z_i + (D + Δ_i C_i·B_i) x_i         Z = tril(C Bᵀ, -1) X̃ + C (2^m s)
    X̃_j = 2^(m - l_j) Δ_j x_j                             s' = 2^(l_K) s + 2^(l_K - m) Bᵀ X̃

``s`` is the state at the chunk's start, stored ``(N, H P)``, and ``m = l_K / 2`` halves the range
of the exponents; :mod:`drama.ops.ssd.chunking` chooses chunks for which it suffices. The diagonal
is separate because nothing decays on it: its gradient would cancel only up to rounding.

A reset is no decay here but a mask, shared by all heads, on ``C Bᵀ``, on the rows that read ``s``
and on those that write ``s'``. The form is the one of gated linear attention (Yang et al., 2024,
arXiv 2312.06635, section 4) for a scalar decay per head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.blocking import tiles
from drama.ops.dtypes import multiply_add_into, multiply_into
from drama.ops.ssd import chunking
from drama.ops.ssd.chunking import Plan
from drama.ops.ssd.layout import Layout, Masks, Scales, masked
from drama.ops.ssd.subchunk import FirstSubchunk, group_of
from drama.ops.ssd.window import Window


def scan(window: Window, is_first: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor] | None:
    """Run the recurrence over a window, unless this form is slower or its exponents insufficient.

    Differentiable once.

    Args:
        window: Its inputs.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.
        chunk_size: Largest number of steps of a chunk.

    Returns:
        ``y`` ``(B, T, H, P)`` and the final state ``(B, H, P, N)``, or None.
    """
    if not chunking.worthwhile(window):
        return None
    window = window.with_reset_decay(is_first, 0.0)
    plan = chunking.plan(window, chunk_size)
    if plan is None:
        return None
    padded = window.padded(plan.chunks)
    length = window.x.shape[1]
    missing = padded.x.shape[1] - length
    if is_first is not None and missing:
        is_first = F.pad(is_first, (0, missing))
    y, state = _Factored.apply(plan, is_first, *padded)  # type: ignore[no-untyped-call]
    return y[:, :length], state


class _Factored(torch.autograd.Function):
    """The scan and its hand-written gradient."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, is_first: Tensor | None, *inputs: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take a window of ``chunks·K`` steps; return ``y`` and the final state."""
        chunks, split_heads = plan
        x, dt, logs, B, C, D, initial_state = Window(*inputs)
        layout = Layout(chunks, B.shape[2])
        compute, dtype = x.dtype, logs.dtype
        result = torch.empty(x.shape, dtype=compute, device=x.device)
        by_step = x, dt, logs
        x, dt, logs, y = (layout.inward(v) for v in (x, dt[..., None], logs, result))
        B, C = (layout.inward(v)[..., 0, :].contiguous() for v in (B, C))  # (chunks, B, G, K, N)
        batch, d_state = x.shape[1], B.shape[-1]
        per_state = (batch, layout.groups, *x.shape[-2:], d_state)
        first = 0 if initial_state is not None else 1  # of the chunks that read a state

        scales = Scales.of(logs, split_heads)
        scores = torch.matmul(C, B.transpose(-1, -2))  # (chunks, B, G, K, K)
        masks = Masks.of(is_first, chunks, scores)
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
            readers = masked(C, masks.reads)[first:]
            _add_products(mixed[first:], readers, states.flatten(3, 4).transpose(-1, -2))

        mixed = mixed.view_as(scaled)
        for tile in _tiles(x):
            part = mixed[tile].to(dtype) * scales.row[tile]
            multiply_add_into(y[tile], part, x[tile].to(dtype), skip[tile])
        subchunk: Iterable[Tensor] = ()
        if split_heads is not None:
            subchunk = FirstSubchunk.add_to(result, *by_step, scores[0], split_heads)

        ctx.save_for_backward(
            x, dt, B, C, own, skip, scores, scaled, mixed, states, is_first, *scales, *subchunk
        )
        ctx.layout, ctx.split_heads, ctx.has_skip = layout, split_heads, D is not None
        ctx.set_materialize_grads(False)
        return result, state.flatten(1, 2)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor | None, dfinal: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors that ``forward`` took."""
        x, dt, B, C, own, skip, scores, scaled, mixed, states, is_first, *s = ctx.saved_tensors
        scales, subchunk = Scales(*s[:4]), FirstSubchunk(*s[4:]) if s[4:] else None
        layout = ctx.layout
        masks = Masks.of(is_first, layout.chunks, scores)
        compute, dtype, chunks = scaled.dtype, dt.dtype, layout.chunks
        first = chunks - len(states)
        result = x.new_empty(x.shape[1], chunks * x.shape[3], x.shape[2] * x.shape[4], x.shape[5])
        dx = layout.inward(result)
        dy = torch.zeros_like(result) if dy is None else dy
        extra = None
        if subchunk is not None:
            pairs = None if is_first is None else masks.pairs
            extra = subchunk.backward(dy, ctx.split_heads, pairs)
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
            groups = group_of(ctx.split_heads, result.shape[2], layout.groups)
            steps = extra.scores.shape[-1]
            dscores[0, :, :, :steps, :steps].index_add_(1, groups, extra.scores)
        # tril, not only a mask: above the diagonal 2^(l_i - l_j) reaches 2^112, and products inf.
        dscores.tril_(-1).mul_(masks.pairs)
        down = (dskip * dt).sum(-2, keepdim=True)[..., 0]  # of C_i·B_i: (chunks, B, G, K, 1)
        dB = torch.matmul(dscores.transpose(-1, -2), C).to(dtype).addcmul_(down, C.to(dtype))
        dC = torch.matmul(dscores, B).to(dtype).addcmul_(down, B.to(dtype))

        # States, from the last chunk to the first; the last one is read by dfinal only.
        last = chunks if dfinal is not None else chunks - 1
        adjoint = None if dfinal is None else layout.state_inward(dfinal.to(dtype))
        dadded = torch.empty(last, *states.shape[1:], dtype=compute, device=x.device)
        if len(states):
            readers = masked(C, masks.reads)[first:]
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
                else:  # the final state is recomputed: it is large and seldom needed
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
            writers = masked(B, masks.writes)[:last]
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
        # A log-decay is part of all later sums of its chunk up to the next reset; later gradients
        # sum to 0 only up to rounding.
        if is_first is None:
            dlogs = dsums.flip(3).cumsum(3).flip(3).mul_(math.log(2))
        else:
            later = torch.matmul(masks.pairs.to(dtype).transpose(-1, -2), dsums[..., 0])
            dlogs = dsums.add_(later[..., None]).mul_(math.log(2))
        ddt, dlogs = (layout.outward(v)[..., 0] for v in (ddt, dlogs))
        if extra is not None:
            for total, part in ((result, extra.x), (ddt, extra.dt), (dlogs, extra.logs)):
                total[:, : part.shape[1], ctx.split_heads] += part.to(total.dtype)
        return (
            None,
            None,
            result,
            ddt,
            dlogs,
            layout.outward(dB.to(compute)[..., None, :]),
            layout.outward(dC.to(compute)[..., None, :]),
            dskip.sum((0, 1, 3)).flatten() if ctx.has_skip else None,
            adjoint.flatten(1, 2) if first == 0 and adjoint is not None else None,
        )


def _tiles(x: Tensor) -> list[tuple[slice, slice]]:
    """Split ``(chunks, B, ...)`` into chunks and sequences whose intermediates stay in cache."""
    chunks, batch = x.shape[:2]
    return [(part, rows) for rows, part in tiles(batch, chunks, x[0, 0].numel(), x.device)]


def _added(scaled: Tensor, B: Tensor, writes: Tensor | None) -> Tensor:
    """Sum over a chunk of its inputs times B: ``(chunks, B, G, H/G, P, N)``."""
    product = torch.matmul(scaled.flatten(-2).transpose(-1, -2), masked(B, writes))
    return torch.unflatten(product, 3, scaled.shape[-2:])


def _add_products(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the matrix products ``a b`` to ``total``, all ``(chunks, B, G, ..., ...)``."""
    flat = total.flatten(0, 2)
    flat.baddbmm_(a.flatten(0, 2), b.flatten(0, 2))
