"""Structured state-space duality (Mamba-2): the chunked scan and its single step.

Per head, with a scalar decay ``a_t = exp(Δ_t A)``:

    h_t = a_t h_{t-1} + Δ_t x_t B_tᵀ        y_t = h_t C_t + D x_t

A window is a masked matrix product, ``Y = (L ∘ C Bᵀ) (Δ X)`` with ``L_ij = a_{j+1} ⋯ a_i``
(Dao and Gu, 2024, arXiv 2405.21060, section 6). It is computed in chunks: quadratic inside a
chunk, one matrix-valued state passed from each chunk to the next, so the cost is linear in T.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.errors import ConfigError
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
    # Even chunks waste less padding than full ones and a short rest.
    length = x.shape[1]
    chunks = math.ceil(length / chunk_size)
    chunk = math.ceil(length / chunks)
    compute = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        y, state = _chunked(x, dt, A, B, C, D, initial_state, is_first, chunks, chunk, compute)
    return y.to(x.dtype), state


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one step of the recurrence; ``state`` itself is left as it was.

    Args:
        x: Input ``(B, H, P)``.
        dt: Step size ``(B, H)``.
        A: ``(H,)``.
        B: ``(B, G, N)``.
        C: ``(B, G, N)``.
        state: ``(B, H, P, N)``.
        D: ``(H,)``.

    Returns:
        ``y`` ``(B, H, P)`` in the type of ``x``, and the next state ``(B, H, P, N)``.
    """
    batch, heads, headdim = x.shape
    groups, d_state = B.shape[1:]
    dtype = state.dtype
    with torch.autocast(x.device.type, enabled=False):
        dt = dt.to(dtype)
        decay = torch.exp(dt * A.to(dtype))
        grouped = (batch, groups, heads // groups * headdim)
        scaled = (x.to(dtype) * dt[..., None]).view(*grouped, 1)
        # The state is by far the largest tensor here: one new one is written, and changed in place.
        next_state = (state * decay[..., None, None]).view(*grouped, d_state)
        next_state = next_state.addcmul_(scaled, B.to(dtype)[:, :, None])
        # Row times matrix: on a CPU several times faster than matrix times column.
        y = torch.matmul(C.to(dtype)[:, :, None], next_state.transpose(-1, -2))
        y = y.view(batch, heads, headdim)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], x.to(dtype))
    return y.to(x.dtype), next_state.view(batch, heads, headdim, d_state)


def _chunked(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    is_first: Tensor | None,
    chunks: int,
    chunk: int,
    compute: torch.dtype,
) -> tuple[Tensor, Tensor]:
    batch, length, heads, headdim = x.shape
    groups, d_state = B.shape[2:]
    per_group = heads // groups
    dtype = accumulation_dtype(x, dt, A, initial_state)
    logs = log_decay(dt.to(dtype), A, is_first)
    padding = chunks * chunk - length
    if padding:
        # A step with Δ = 0 neither decays nor writes, so the final state is that of step T.
        x = F.pad(x, (0, 0, 0, 0, 0, padding))
        B = F.pad(B, (0, 0, 0, 0, 0, padding))
        C = F.pad(C, (0, 0, 0, 0, 0, padding))
        dt = F.pad(dt, (0, 0, 0, padding))
        logs = F.pad(logs, (0, 0, 0, padding))

    # Time becomes (chunk, step) and moves inside the head, so that every product is one bmm.
    flat = batch * chunks * heads
    x = x.to(compute).view(batch, chunks, chunk, heads, headdim).transpose(2, 3)
    x = x.reshape(flat, chunk, headdim)  # (B·chunks·H, K, P)
    B = B.to(compute).view(batch, chunks, chunk, groups, d_state).transpose(2, 3)
    C = C.to(compute).view(batch, chunks, chunk, groups, d_state).transpose(2, 3)
    dt = dt.to(dtype).view(batch, chunks, chunk, heads).transpose(2, 3).contiguous()
    logs = logs.view(batch, chunks, chunk, heads).transpose(2, 3).contiguous()

    # L_ij = exp(Σ_{j<k<=i} Δ_k A). The upper triangle is masked before exp: it would overflow.
    coarse, fine = split_cumsum(logs)  # (B, chunks, H, K)
    between = (fine[..., :, None] - fine[..., None, :]) + (
        coarse[..., :, None] - coarse[..., None, :]
    )
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu_(1)
    weights = between.masked_fill_(future, -math.inf).exp() * dt[..., None, :]

    # Inside a chunk: the scores C Bᵀ are shared by the heads of a group.
    scores = torch.matmul(C, B.transpose(-1, -2)).to(dtype)  # (B, chunks, G, K, K)
    weights = weights.view(batch, chunks, groups, per_group, chunk, chunk) * scores.unsqueeze(3)
    weights = weights.view(batch, chunks, heads, chunk, chunk)
    if D is not None:
        weights.diagonal(dim1=-2, dim2=-1).add_(D.to(dtype)[:, None])
    weights = weights.view(flat, chunk, chunk).to(compute)

    # What each chunk adds to the state: Σ_j exp(Σ_{j<k} Δ_k A) Δ_j x_j B_jᵀ.
    to_end = torch.exp((fine[..., -1:] - fine) + (coarse[..., -1:] - coarse)) * dt
    written = B.unsqueeze(3) * to_end.view(batch, chunks, groups, per_group, chunk, 1).to(compute)
    added = torch.bmm(x.transpose(1, 2), written.reshape(flat, chunk, d_state)).to(dtype)
    added = added.view(batch, chunks, heads, headdim, d_state)

    from_start = (coarse + fine).exp()  # (B, chunks, H, K)
    if chunks == 1 and initial_state is None:
        y = torch.bmm(weights, x)
        final_state = added[:, 0]
    else:
        carried = from_start[..., -1, None, None]  # (B, chunks, H, 1, 1)
        state = x.new_zeros(1, dtype=dtype) if initial_state is None else initial_state.to(dtype)
        state = state.expand(batch, heads, headdim, d_state)
        starts: list[Tensor] = []
        for index in range(chunks):
            starts.append(state)
            state = torch.addcmul(added[:, index], carried[:, index], state)
        final_state = state
        before = torch.stack(starts, dim=1).view(flat, headdim, d_state).to(compute)
        read = C.unsqueeze(3) * from_start.view(batch, chunks, groups, per_group, chunk, 1).to(
            compute
        )
        y = torch.bmm(read.reshape(flat, chunk, d_state), before.transpose(1, 2))
        y = torch.baddbmm(y, weights, x)

    y = y.view(batch, chunks, heads, chunk, headdim).transpose(2, 3)
    y = y.reshape(batch, chunks * chunk, heads, headdim)
    return y[:, :length], final_state


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
