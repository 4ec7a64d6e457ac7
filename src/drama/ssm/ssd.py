"""Structured state-space duality (Mamba-2): the chunked scan and its single step.

Per head, with a scalar decay ``a_t = exp(Δ_t A)``:

    h_t = a_t h_{t-1} + Δ_t x_t B_tᵀ        y_t = h_t C_t + D x_t

A window is a masked matrix product, ``Y = (L ∘ C Bᵀ) (Δ X)`` with ``L_ij = a_{j+1} ⋯ a_i``
(Dao and Gu, 2024, arXiv 2405.21060, section 6). It is computed in chunks: quadratic inside a
chunk, one matrix-valued state passed from each chunk to the next, so the cost is linear in T.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from drama.errors import ConfigError
from drama.place import on_cpu
from drama.ssm import separable
from drama.ssm._numeric import accumulation_dtype, log_decay, matmul_dtype, split_cumsum


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the Mamba-2 recurrence over a window of any length T >= 1.

    Log-decays and states are float32 (float64 if an input is); matrix products use the type of
    ``x``, or autocast's.

    Args:
        x: Inputs ``(B, T, H, P)``.
        dt: Step sizes, already positive, ``(B, T, H)``.
        A: Negative decay rate per head ``(H,)``.
        B: Input maps ``(B, T, G, N)``; head ``h`` reads group ``h // (H / G)``.
        C: Output maps ``(B, T, G, N)``.
        D: Skip weight per head ``(H,)``.
        chunk_size: Longest stretch handled as one quadratic product. Changes speed only.
        initial_state: State before the first step ``(B, H, P, N)``; zeros if None.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.

    Returns:
        ``y`` ``(B, T, H, P)`` in the type of ``x``, and the state after the last step
        ``(B, H, P, N)``.

    Raises:
        ConfigError: If shapes disagree, T is 0, or ``chunk_size`` is below 1.
    """
    _check_shapes(x, dt, A, B, C, chunk_size)
    length, headdim, d_state = x.shape[1], x.shape[3], B.shape[3]
    compute = matmul_dtype(x)
    dtype = accumulation_dtype(x, dt, A, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        x_, dt_, B_, C_ = x.to(compute), dt.to(dtype), B.to(compute), C.to(compute)
        D_ = None if D is None else D.to(dtype)
        initial = None if initial_state is None else initial_state.to(dtype)
        chunks = None
        if on_cpu(x) and compute != torch.float16:
            logs = log_decay(dt_, A, None)
            if is_first is not None:
                logs = logs.masked_fill(is_first[..., None], 0.0)
            longest = min(chunk_size, separable.preferred_chunk(d_state))
            chunks = separable.fit(logs, dt_, longest)
        if chunks is not None:
            inputs, is_first = _padded([x_, dt_, logs, B_, C_], is_first, chunks)
            y, state = separable.Separable.apply(  # type: ignore[no-untyped-call]
                *inputs, D_, initial, is_first, chunks
            )
        else:
            logs = log_decay(dt_, A, is_first)
            longest = min(chunk_size, _preferred_chunk(headdim, d_state, x.device))
            chunks = math.ceil(length / longest)
            inputs, _ = _padded([x_, dt_, logs, B_, C_], None, chunks)
            y, state = _Chunked.apply(  # type: ignore[no-untyped-call]
                *inputs, D_, initial, chunks
            )
    return y[:, :length].to(x.dtype), state


def _padded(
    inputs: list[Tensor], is_first: Tensor | None, chunks: int
) -> tuple[list[Tensor], Tensor | None]:
    """Fill the last of ``chunks`` even chunks: less is wasted than with full ones and a rest."""
    length = inputs[0].shape[1]
    padding = chunks * math.ceil(length / chunks) - length
    if padding:
        # A step with Δ = 0 neither decays nor writes, so the final state is that of step T.
        inputs = [F.pad(v, (0, 0) * (v.dim() - 2) + (0, padding)) for v in inputs]
        is_first = None if is_first is None else F.pad(is_first, (0, padding))
    return inputs, is_first


def _preferred_chunk(headdim: int, d_state: int, device: torch.device) -> int:
    """Return the chunk length that is cheapest for heads of this shape.

    Per step and head, a chunk of K costs elementwise work on K decays, and its share of a state,
    P N / K: least near the square root of P N, times a measured factor. A GPU would rather have
    few, large products.
    """
    if not on_cpu(device):
        return 256
    return int(2 ** round(math.log2(max(16.0, 0.6 * math.sqrt(headdim * d_state)))))


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Take one step of the recurrence.

    Args:
        x: Input ``(B, H, P)``.
        dt: Step size ``(B, H)``.
        A: ``(H,)``.
        B: ``(B, G, N)``.
        C: ``(B, G, N)``.
        state: ``(B, H, P, N)``.
        D: ``(H,)``.
        inplace: Overwrite ``state``, which is otherwise left as it was; not with gradients.

    Returns:
        ``y`` ``(B, H, P)`` in the type of ``x``, and the next state ``(B, H, P, N)``.
    """
    batch, heads, headdim = x.shape
    groups, d_state = B.shape[1:]
    dtype = state.dtype
    with torch.autocast(x.device.type, enabled=False):
        dt = dt.to(dtype)
        values = x.to(dtype)
        decay = torch.exp(dt * A.to(dtype))[..., None, None]
        grouped = (batch, groups, heads // groups * headdim)
        scaled = (values * dt[..., None]).view(*grouped, 1)
        # The state is by far the largest tensor here: what time a step takes is mostly the time to
        # read and write it.
        next_state = state.mul_(decay) if inplace else state * decay
        next_state = next_state.view(*grouped, d_state).addcmul_(scaled, B.to(dtype)[:, :, None])
        # Row times matrix: on a CPU several times faster than matrix times column.
        y = torch.matmul(C.to(dtype)[:, :, None], next_state.transpose(-1, -2))
        y = y.view(batch, heads, headdim)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], values)
    return y.to(x.dtype), next_state.view(batch, heads, headdim, d_state)


class _Chunked(torch.autograd.Function):
    """The window in chunks of K steps, with a backward pass of its own. Differentiable once.

    With ``l`` the running sums of the log-decays (to base 2) inside a chunk,
    ``M = L ∘ C Bᵀ ∘ Δ + diag(D)``, and ``s`` the state at the chunk's start, stored ``(N, P)``:

        Y = [M | 2^l C] [X ; s]              s' = 2^(l_K) s + Wᵀ X,    W_j = 2^(l_K - l_j) Δ_j B_j

    Both sides of the first product are kept as one matrix each, ``left`` and ``right``, so that a
    chunk costs two products forward and four backward, all batched over sequences, chunks, heads.
    """

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
        chunks: int,
    ) -> tuple[Tensor, Tensor]:
        """Take ``(B, chunks·K, ...)``; return ``y`` and the final state ``(B, H, P, N)``."""
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
        decay = _pairwise_decay(coarse, fine)  # (B, chunks, H, K, K)
        scores = torch.matmul(C, B.transpose(-1, -2)).to(dtype)  # (B, chunks, G, K, K)

        left = torch.empty(*per_head, chunk, width, dtype=compute, device=x.device)
        weights = decay * dt[..., None, :]
        _grouped(weights, scores).mul_(scores[:, :, :, None])
        if D is not None:
            weights.diagonal(dim1=-2, dim2=-1).add_(D[:, None])
        left[..., :chunk] = weights
        right = torch.empty(*per_head, width, headdim, dtype=compute, device=x.device)
        right[..., :chunk, :] = _by_chunk(x, chunks)
        inputs = right[..., :chunk, :].flatten(0, 2)

        written = _per_head(B, to_end * dt)  # (B·chunks·H, K, N)
        if reads_state:
            added = torch.bmm(written.transpose(1, 2), inputs).view(*per_head, d_state, headdim)
            left[..., chunk:] = _per_head(C, from_start).view(*per_head, chunk, d_state)
            state = logs.new_zeros(1) if initial_state is None else initial_state.transpose(2, 3)
            state = state.expand(batch, heads, d_state, headdim)
            carried = from_start[..., -1, None, None]  # (B, chunks, H, 1, 1)
            for index in range(chunks):
                right[:, index, :, chunk:] = state
                state = torch.addcmul(added[:, index], carried[:, index], state)
            state = state.transpose(2, 3).contiguous()
        else:
            # No other chunk reads it: it comes in the layout in which it is handed on.
            state = torch.bmm(inputs.transpose(1, 2), written).to(dtype)
            state = state.view(batch, heads, headdim, d_state)
        y = torch.bmm(left.flatten(0, 2), right.flatten(0, 2))
        ctx.save_for_backward(dt, B, C, decay, scores, to_end, from_start, left, right, written)
        ctx.has_skip, ctx.has_initial = D is not None, initial_state is not None
        return _by_step(y.view(*per_head, chunk, headdim)), state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dfinal: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors that ``forward`` took."""
        dt, B, C, decay, scores, to_end, from_start, left, right, written = ctx.saved_tensors
        batch, chunks, heads, width, headdim = right.shape
        chunk, d_state = B.shape[-2:]
        compute, dtype = right.dtype, decay.dtype
        per_head = (batch, chunks, heads)
        reads_state = width > chunk
        inputs = right[..., :chunk, :].flatten(0, 2)

        dy = _by_chunk(dy, chunks).flatten(0, 2)
        dleft = torch.bmm(dy, right.flatten(0, 2).transpose(1, 2)).view(*per_head, chunk, width)
        transposed = left.flatten(0, 2).transpose(1, 2)
        dx = torch.bmm(transposed[:, :chunk], dy)

        # The states, from the last chunk to the first.
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

        # W_j = 2^(l_K - l_j) Δ_j B_j. Derivatives by l leave out the factor ln 2 until the end.
        dwritten = torch.bmm(inputs, adjoints.flatten(0, 2).transpose(1, 2))
        dwritten = dwritten.view(*per_head, chunk, d_state).to(dtype)
        along = _grouped(dwritten, B).mul(B[:, :, :, None]).sum(-1).view_as(dt)
        along *= to_end
        ddt = along.clone()
        along *= dt
        along[..., -1] = 0  # l_K - l_K is 0: left in, it would cancel only up to rounding
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
            _by_step(dx.view(*per_head, chunk, headdim)),
            _by_step(ddt),
            _by_step(dlogs),
            _by_step(dB.to(compute)),
            _by_step(dC.to(compute)),
            dD,
            dinitial,
            None,
        )


def _by_chunk(x: Tensor, chunks: int) -> Tensor:
    """View time in chunks, behind the heads: (B, T, H, ...) as (B, chunks, H, K, ...)."""
    batch, length = x.shape[:2]
    return x.view(batch, chunks, length // chunks, *x.shape[2:]).transpose(2, 3)


def _by_step(x: Tensor) -> Tensor:
    """Undo :func:`_by_chunk`."""
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
    """Undo :func:`_per_head` for gradients: (B, chunks, H, K, N) to (B, chunks, G, K, N)."""
    return torch.einsum("bcghkn,bcghk->bcgkn", _grouped(dmaps, maps), _grouped(scale, maps))


def _pairwise_decay(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return ``L_ij = 2^(Σ_{j<k<=i} logs_k)`` for ``i >= j``, else 0: (..., K) to (..., K, K)."""
    between = fine[..., :, None] - fine[..., None, :]
    between += coarse[..., :, None] - coarse[..., None, :]
    # Masked before exp2, which would overflow above the diagonal.
    steps = coarse.shape[-1]
    between += torch.full((steps, steps), -math.inf, device=fine.device, dtype=fine.dtype).triu_(1)
    return between.exp2_()


def _check_shapes(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int) -> None:
    if x.dim() != 4 or x.shape[1] < 1:
        raise ConfigError(f"ssd: x must be (B, T, H, P) with T >= 1, got {tuple(x.shape)}")
    batch, length, heads, _ = x.shape
    if dt.shape != (batch, length, heads) or A.shape != (heads,):
        raise ConfigError(
            f"ssd: for x {tuple(x.shape)}, dt must be {(batch, length, heads)} and A {(heads,)}, "
            f"got {tuple(dt.shape)} and {tuple(A.shape)}"
        )
    if B.dim() != 4 or B.shape != C.shape or B.shape[:2] != (batch, length):
        raise ConfigError(
            f"ssd: B and C must both be (B, T, G, N) with B, T = {batch}, {length}, "
            f"got {tuple(B.shape)} and {tuple(C.shape)}"
        )
    if heads % B.shape[2] != 0:
        raise ConfigError(f"ssd: {B.shape[2]} groups do not divide {heads} heads")
    if chunk_size < 1:
        raise ConfigError(f"ssd: chunk_size must be at least 1, got {chunk_size}")
