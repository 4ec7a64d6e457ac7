"""Chunked scan of Mamba-2, masked form: a decay matrix ``L`` of K x K per head and chunk.

No power can overflow, for the decay between two steps is at most 1: right for any decays, on any
device. :mod:`drama.ops.ssd.factored` avoids the matrix where it can.

With ``l`` the running sums of the log-decays (to base 2) inside a chunk, ``L_ij = 2^(l_i - l_j)``
for i >= j, ``M = L ∘ C Bᵀ ∘ Δ + diag(D)``, and ``s`` the state at the chunk's start, stored
``(N, P)``:

    Y = [M | 2^l C] [X ; s]              s' = 2^(l_K) s + Wᵀ X,    W_j = 2^(l_K - l_j) Δ_j B_j

Both sides of the first product are kept as one matrix each, ``left`` and ``right``: a chunk costs
two products forward and four backward, all batched over sequences, chunks and heads.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.dispatch import on_cpu
from drama.ops.ssd.decay import UNDERFLOW, split_cumsum
from drama.ops.ssd.window import Window


def scan(window: Window, is_first: Tensor | None, chunk_size: int) -> tuple[Tensor, Tensor]:
    """Run the recurrence over a window. Differentiable once.

    Args:
        window: Its inputs.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.
        chunk_size: Largest number of steps of a chunk.

    Returns:
        ``y`` ``(B, T, H, P)`` and the final state ``(B, H, P, N)``.
    """
    window = window.with_reset_decay(is_first, UNDERFLOW[window.logs.dtype])
    _, length, _, headdim = window.x.shape
    d_state = window.B.shape[3]
    longest = min(chunk_size, preferred_chunk(headdim, d_state, window.x.device))
    chunks = math.ceil(length / longest)
    y, state = _Masked.apply(chunks, *window.padded(chunks))  # type: ignore[no-untyped-call]
    return y[:, :length], state


def preferred_chunk(headdim: int, d_state: int, device: torch.device) -> int:
    """Return the fastest chunk length for heads of this shape.

    Per step and head, a chunk of K steps costs elementwise work on K decays and ``P N / K`` for its
    state: least near ``sqrt(P N)``, times a measured factor. Accelerators prefer few, large
    products.
    """
    if not on_cpu(device):
        return 256
    return int(2 ** round(math.log2(max(16.0, 0.6 * math.sqrt(headdim * d_state)))))


class _Masked(torch.autograd.Function):
    """The scan and its hand-written gradient."""

    @staticmethod
    def forward(ctx: Any, chunks: int, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Take a window of ``chunks·K`` steps; return ``y`` and the final state."""
        x, dt, logs, B, C, D, initial_state = Window(*inputs)
        batch, length, heads, headdim = x.shape
        d_state = B.shape[-1]
        chunk = length // chunks
        compute, dtype = x.dtype, logs.dtype
        per_head = (batch, chunks, heads)
        # One chunk that starts from nothing reads no state.
        reads_state = chunks > 1 or initial_state is not None
        width = chunk + d_state if reads_state else chunk

        # (B, chunks, H, K) and (B, chunks, G, K, N)
        dt, logs, B, C = (_by_chunk(v, chunks).contiguous() for v in (dt, logs, B, C))
        coarse, fine = split_cumsum(logs)
        to_end = torch.exp2((fine[..., -1:] - fine) + (coarse[..., -1:] - coarse))
        from_start = (coarse + fine).exp2_()
        decay = _decay_matrix(coarse, fine)  # (B, chunks, H, K, K)
        scores = torch.matmul(C, B.transpose(-1, -2)).to(dtype)  # (B, chunks, G, K, K)

        left = torch.empty(*per_head, chunk, width, dtype=compute, device=x.device)
        weights = decay * dt[..., None, :]
        _grouped(weights, scores).mul_(scores[:, :, :, None])
        if D is not None:
            weights.diagonal(dim1=-2, dim2=-1).add_(D[:, None])
        left[..., :chunk] = weights
        right = torch.empty(*per_head, width, headdim, dtype=compute, device=x.device)
        right[..., :chunk, :] = _by_chunk(x, chunks)
        values = right[..., :chunk, :].flatten(0, 2)

        written = _per_head(B, to_end * dt)  # (B·chunks·H, K, N)
        if reads_state:
            added = torch.bmm(written.transpose(1, 2), values).view(*per_head, d_state, headdim)
            left[..., chunk:] = _per_head(C, from_start).view(*per_head, chunk, d_state)
            state = logs.new_zeros(1) if initial_state is None else initial_state.transpose(2, 3)
            state = state.expand(batch, heads, d_state, headdim)
            carried = from_start[..., -1, None, None]  # (B, chunks, H, 1, 1)
            for index in range(chunks):
                right[:, index, :, chunk:] = state
                state = torch.addcmul(added[:, index], carried[:, index], state)
            state = state.transpose(2, 3).contiguous()
        else:
            # No other chunk reads it: computed in the layout in which it is returned.
            state = torch.bmm(values.transpose(1, 2), written).to(dtype)
            state = state.view(batch, heads, headdim, d_state)
        y = torch.bmm(left.flatten(0, 2), right.flatten(0, 2))
        ctx.save_for_backward(dt, B, C, decay, scores, to_end, from_start, left, right, written)
        ctx.has_skip, ctx.has_initial = D is not None, initial_state is not None
        return _by_step(y.view(*per_head, chunk, headdim)), state

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors that ``forward`` took."""
        dt, B, C, decay, scores, to_end, from_start, left, right, written = ctx.saved_tensors
        batch, chunks, heads, width, headdim = right.shape
        chunk, d_state = B.shape[-2:]
        compute, dtype = right.dtype, decay.dtype
        per_head = (batch, chunks, heads)
        reads_state = width > chunk
        values = right[..., :chunk, :].flatten(0, 2)

        dy = _by_chunk(dy, chunks).flatten(0, 2)
        dleft = torch.bmm(dy, right.flatten(0, 2).transpose(1, 2)).view(*per_head, chunk, width)
        transposed = left.flatten(0, 2).transpose(1, 2)
        dx = torch.bmm(transposed[:, :chunk], dy)

        # States, from the last chunk to the first.
        adjoint = dfinal.transpose(2, 3)  # (B, H, N, P)
        if reads_state:
            dstarts = torch.bmm(transposed[:, chunk:], dy).view(*per_head, d_state, headdim)
        adjoints = torch.empty(*per_head, d_state, headdim, dtype=compute, device=dy.device)
        for index in reversed(range(chunks)):
            adjoints[:, index] = adjoint
            if reads_state:
                through = from_start[:, index, :, -1, None, None]
                adjoint = torch.addcmul(dstarts[:, index], through, adjoint)
        dx = dx.baddbmm_(written, adjoints.flatten(0, 2))

        # W_j = 2^(l_K - l_j) Δ_j B_j. Derivatives by l omit the factor ln 2 until the end.
        dwritten = torch.bmm(values, adjoints.flatten(0, 2).transpose(1, 2))
        dwritten = dwritten.view(*per_head, chunk, d_state).to(dtype)
        along = _grouped(dwritten, B).mul(B[:, :, :, None]).sum(-1).view_as(dt)
        along *= to_end
        ddt = along.clone()
        along *= dt
        along[..., -1] = 0  # l_K - l_K is 0, but would cancel only up to rounding
        dsums = -along  # gradient of l
        dsums[..., -1] = along.sum(-1)
        dB = _sum_over_heads(dwritten, to_end * dt, B)

        # M = L ∘ C Bᵀ ∘ Δ + diag(D), with ∂L_ij/∂l_i ~ L_ij ~ -∂L_ij/∂l_j.
        dweights = dleft[..., :chunk].to(dtype)
        dD = dweights.diagonal(dim1=-2, dim2=-1).sum((0, 1, 3)) if ctx.has_skip else None
        dweights = dweights * decay
        both = torch.empty_like(dweights)
        torch.mul(_grouped(dweights, scores), scores[:, :, :, None], out=_grouped(both, scores))
        diagonal = both.diagonal(dim1=-2, dim2=-1)
        ddt += diagonal
        diagonal.zero_()  # l_i - l_i is 0, as above
        received = both.sum(-2)
        ddt += received
        dsums += torch.matmul(both, dt[..., None]).squeeze(-1)
        dsums -= received * dt
        dweights *= dt[..., None, :]
        dscores = _grouped(dweights, scores).sum(3).to(compute)  # (B, chunks, G, K, K)
        dC = torch.matmul(dscores, B).to(dtype)
        dB += torch.matmul(dscores.transpose(-1, -2), C)

        dinitial = None
        if reads_state:
            dread = dleft[..., chunk:].to(dtype)  # of 2^l C
            dC += _sum_over_heads(dread, from_start, C)
            dsums += _grouped(dread, C).mul(C[:, :, :, None]).sum(-1).view_as(dt) * from_start
            kept = (adjoints * right[..., chunk:, :]).sum((-2, -1), dtype=dtype)
            dsums[..., -1] += kept * from_start[..., -1]
            dinitial = adjoint.transpose(2, 3) if ctx.has_initial else None
        # A log-decay is part of all later sums of its chunk.
        dlogs = dsums.flip(-1).cumsum(-1).flip(-1) * math.log(2)
        return (
            None,
            _by_step(dx.view(*per_head, chunk, headdim)),
            _by_step(ddt),
            _by_step(dlogs),
            _by_step(dB.to(compute)),
            _by_step(dC.to(compute)),
            dD,
            dinitial,
        )


def _by_chunk(x: Tensor, chunks: int) -> Tensor:
    """View time in chunks, after the heads: (B, T, H, ...) as (B, chunks, H, K, ...)."""
    batch, length = x.shape[:2]
    return x.view(batch, chunks, length // chunks, *x.shape[2:]).transpose(2, 3)


def _by_step(x: Tensor) -> Tensor:
    """Invert :func:`_by_chunk`."""
    return x.transpose(2, 3).flatten(1, 2)


def _grouped(x: Tensor, shared: Tensor) -> Tensor:
    """View the heads of ``x`` by the groups of ``shared``: (B, chunks, G, H/G, ...)."""
    groups = shared.shape[2]
    return x.view(*x.shape[:2], groups, x.shape[2] // groups, *x.shape[3:])


def _per_head(maps: Tensor, scale: Tensor) -> Tensor:
    """Scale each group's maps for each of its heads: (B, chunks, G, K, N) to (B·chunks·H, K, N)."""
    scale = _grouped(scale.to(maps.dtype), maps)  # (B, chunks, G, H/G, K)
    return (maps[:, :, :, None] * scale[..., None]).flatten(0, 3)


def _sum_over_heads(dmaps: Tensor, scale: Tensor, maps: Tensor) -> Tensor:
    """Transpose of :func:`_per_head`: (B, chunks, H, K, N) to (B, chunks, G, K, N)."""
    return torch.einsum("bcghkn,bcghk->bcgkn", _grouped(dmaps, maps), _grouped(scale, maps))


def _decay_matrix(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return ``L_ij = 2^(Σ_{j<k<=i} logs_k)`` for ``i >= j``, else 0: (..., K) to (..., K, K)."""
    between = fine[..., :, None] - fine[..., None, :]
    between += coarse[..., :, None] - coarse[..., None, :]
    # Masked before exp2, which would overflow above the diagonal.
    steps = coarse.shape[-1]
    between += torch.full((steps, steps), -math.inf, device=fine.device, dtype=fine.dtype).triu_(1)
    return between.exp2_()
