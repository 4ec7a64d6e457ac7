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
from drama.ops.blocking import state_blocks
from drama.ops.checks import check_is_first, check_optional
from drama.ops.dispatch import on_cpu
from drama.ops.dtypes import accumulation_dtype, matmul_dtype
from drama.ops.ssd import factored, masked
from drama.ops.ssd.decay import log_decay


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

    Log-decays and states are float32 (float64 if x, dt, A or a state is); matrix products use the
    type of ``x``, or autocast's.

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
        ConfigError: If shapes disagree, resets are not bool, T is 0, or ``chunk_size`` is below 1.
    """
    _check_shapes(x, dt, A, B, C, chunk_size)
    batch, length, heads, headdim = x.shape
    d_state = B.shape[3]
    check_is_first("ssd", is_first, batch, length)
    state_shape = batch, heads, headdim, d_state
    check_optional("ssd", D=(D, (heads,)), initial_state=(initial_state, state_shape))
    compute = matmul_dtype(x)
    dtype = accumulation_dtype(x, dt, A, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        x_, dt_, B_, C_ = x.to(compute), dt.to(dtype), B.to(compute), C.to(compute)
        D_ = None if D is None else D.to(dtype)
        initial = None if initial_state is None else initial_state.to(dtype)
        cut = None
        if on_cpu(x) and factored.worthwhile(d_state, compute):
            logs = log_decay(dt_, A, None)
            if is_first is not None:
                logs = logs.masked_fill(is_first[..., None], 0.0)
            longest = min(chunk_size, factored.preferred_chunk(d_state))
            halves = factored.may_halve(d_state, initial)
            cut = factored.fit(logs, dt_, longest, compute, halves=halves)
        if cut is not None:
            inputs, is_first = _padded([x_, dt_, logs, B_, C_], is_first, cut.chunks)
            y, state = factored.Separable.apply(  # type: ignore[no-untyped-call]
                *inputs, D_, initial, is_first, cut
            )
        else:
            logs = log_decay(dt_, A, is_first)
            longest = min(chunk_size, masked.preferred_chunk(headdim, d_state, x.device))
            chunks = math.ceil(length / longest)
            inputs, _ = _padded([x_, dt_, logs, B_, C_], None, chunks)
            y, state = masked.Pairwise.apply(  # type: ignore[no-untyped-call]
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
        grouped = (groups, heads // groups * headdim)
        scaled = (values * dt[..., None]).view(batch, *grouped, 1)
        B, C = B.to(dtype)[:, :, None], C.to(dtype)[:, :, None]
        if torch.is_grad_enabled():
            next_state = state.mul_(decay) if inplace else state * decay
            view = next_state.view(batch, *grouped, d_state).addcmul_(scaled, B)
            # Row times matrix: on a CPU several times faster than matrix times column.
            y = torch.matmul(C, view.transpose(-1, -2))
        else:
            # The state is by far the largest tensor here, and what time a step takes is mostly the
            # time to read and write it: once each, if all is done to a part while it is in cache.
            next_state = (
                state if inplace else torch.empty_like(state, memory_format=torch.contiguous_format)
            )
            y = torch.empty(batch, groups, 1, grouped[1], dtype=dtype, device=x.device)
            for rows in state_blocks(state):
                part = torch.mul(state[rows], decay[rows], out=next_state[rows])
                view = part.view(-1, *grouped, d_state).addcmul_(scaled[rows], B[rows])
                torch.matmul(C[rows], view.transpose(-1, -2), out=y[rows])
        y = y.view(batch, heads, headdim)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype)[:, None], values)
    return y.to(x.dtype), next_state


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
