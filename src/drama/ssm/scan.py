"""The selective scan of Mamba-1: memory for inputs and a few states, not for ``(B, T, D, N)``.

Per channel d, with a diagonal decay over the N states:

    h_t = exp(Δ_t A) ∘ h_{t-1} + Δ_t x_t B_tᵀ        y_t = h_t C_t + D ∘ x_t

(Gu and Dao, 2023, arXiv 2312.00752, section 3.3.) The window is walked in chunks. Inside a chunk
everything but the recurrence itself is one batched operation; only the state at the start of each
chunk is kept, and the backward pass recomputes the others, chunk by chunk from the end.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from drama.errors import ConfigError
from drama.ops.autograd import differentiable_once
from drama.ops.blocking import state_blocks
from drama.ops.checks import check_is_first, check_optional
from drama.ops.dtypes import accumulation_dtype

# Steps per chunk: T / 8 states kept against 8 states recomputed at a time.
_CHUNK = 8


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the Mamba-1 recurrence over a window of any length T >= 1.

    Everything is computed in float32 (float64 if x, dt, A or the state is). Differentiable once.

    Args:
        x: Inputs ``(B, T, D)``.
        dt: Step sizes, already positive, ``(B, T, D)``.
        A: Negative decay rates ``(D, N)``.
        B: Input maps ``(B, T, N)``.
        C: Output maps ``(B, T, N)``.
        D: Skip weight per channel ``(D,)``.
        initial_state: State before the first step ``(B, D, N)``; zeros if None.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.

    Returns:
        ``y`` ``(B, T, D)`` in the type of ``x``, and the state after the last step ``(B, D, N)``.

    Raises:
        ConfigError: If shapes disagree, resets are not bool, or T is 0.
    """
    _check_shapes(x, dt, A, B, C)
    batch, length, channels = x.shape
    check_is_first("selective_scan", is_first, batch, length)
    state_shape = batch, channels, A.shape[1]
    check_optional("selective_scan", D=(D, (channels,)), initial_state=(initial_state, state_shape))
    dtype = accumulation_dtype(x, dt, A, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        if initial_state is None:
            initial_state = x.new_zeros(batch, channels, A.shape[1], dtype=dtype)
        keep = None if is_first is None else (~is_first).to(dtype)
        y, state = _Scan.apply(  # type: ignore[no-untyped-call]
            x.to(dtype),
            dt.to(dtype),
            A.to(dtype),
            B.to(dtype),
            C.to(dtype),
            initial_state.to(dtype),
            keep,
        )
        if D is not None:
            y = torch.addcmul(y, D.to(dtype), x.to(dtype))
    return y.to(x.dtype), state


def selective_scan_step(
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
        x: Input ``(B, D)``.
        dt: Step size ``(B, D)``.
        A: ``(D, N)``.
        B: ``(B, N)``.
        C: ``(B, N)``.
        state: ``(B, D, N)``.
        D: ``(D,)``.
        inplace: Overwrite ``state``, which is otherwise left as it was; not with gradients.

    Returns:
        ``y`` ``(B, D)`` in the type of ``x``, and the next state ``(B, D, N)``.
    """
    dtype = state.dtype
    with torch.autocast(x.device.type, enabled=False):
        dt = dt.to(dtype)
        # To base 2, because exp takes many times as long on a CPU where its result underflows.
        rates = A.to(dtype) / math.log(2)
        scaled = (x.to(dtype) * dt)[..., None]
        B, C = B.to(dtype)[:, None], C.to(dtype)[:, None]
        if torch.is_grad_enabled():
            decay = (dt[..., None] * rates).exp2_()
            next_state = state.mul_(decay) if inplace else state * decay
            next_state = next_state.addcmul_(scaled, B)
            # Row times matrix: on a CPU several times faster than matrix times column.
            y = torch.bmm(C, next_state.transpose(1, 2))
        else:
            # The state and its decay are by far the largest tensors here, hence part by part.
            next_state = (
                state if inplace else torch.empty_like(state, memory_format=torch.contiguous_format)
            )
            y = torch.empty(len(x), 1, x.shape[1], dtype=dtype, device=x.device)
            for rows in state_blocks(state):
                decay = (dt[rows, :, None] * rates).exp2_()
                part = torch.mul(state[rows], decay, out=next_state[rows])
                part = part.addcmul_(scaled[rows], B[rows])
                torch.bmm(C[rows], part.transpose(1, 2), out=y[rows])
        y = y.squeeze(1)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype), x.to(dtype))
    return y.to(x.dtype), next_state


class _Scan(torch.autograd.Function):
    """The recurrence with its adjoint ``g_t = dy_t C_tᵀ + exp(Δ_{t+1} A) ∘ g_{t+1}``."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        initial_state: Tensor,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Walk the chunks forward, keeping the state at the start of each."""
        y = torch.empty_like(x)
        state = initial_state
        starts = state.new_empty(-(-x.shape[1] // _CHUNK), *state.shape)
        for index, begin in enumerate(range(0, x.shape[1], _CHUNK)):
            part = slice(begin, begin + _CHUNK)
            starts[index] = state
            _, states = _advance(x, dt, A, B, keep, state, part)
            # (K, B, 1, N) · (K, B, N, D) -> (K, B, D)
            maps = C[:, part].transpose(0, 1)[:, :, None]
            read = torch.matmul(maps, states.transpose(-1, -2)).squeeze(2)
            y[:, part] = read.transpose(0, 1)
            state = states[-1]
        ctx.save_for_backward(x, dt, A, B, C, keep, starts)
        return y, state.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        """Walk the chunks backward, recomputing the states of each."""
        x, dt, A, B, C, keep, starts = ctx.saved_tensors
        dx, ddt, dA = torch.empty_like(x), torch.empty_like(dt), torch.zeros_like(A)
        dB, dC = torch.empty_like(B), torch.empty_like(C)
        adjoint = dstate
        with torch.autocast(x.device.type, enabled=False):
            for index in reversed(range(len(starts))):
                part = slice(index * _CHUNK, (index + 1) * _CHUNK)
                decay, states = _advance(x, dt, A, B, keep, starts[index], part)
                dy_, B_, C_ = (v[:, part].transpose(0, 1) for v in (dy, B, C))
                x_, dt_ = (v[:, part].transpose(0, 1) for v in (x, dt))
                dC[:, part] = torch.matmul(dy_[:, :, None], states).squeeze(2).transpose(0, 1)

                adjoints = dy_[..., None] * C_[:, :, None]  # (K, B, D, N)
                for k in reversed(range(len(adjoints))):
                    adjoints[k].add_(adjoint)
                    adjoint = adjoints[k] * decay[k]

                dB[:, part] = (
                    torch.matmul((x_ * dt_)[:, :, None], adjoints).squeeze(2).transpose(0, 1)
                )
                dwritten = torch.matmul(B_[:, :, None], adjoints.transpose(-1, -2)).squeeze(2)
                # Gradient of the log-decay Δ A: adjoint ∘ decay ∘ previous state.
                dlog = adjoints.mul_(decay)
                dlog[0].mul_(starts[index])
                dlog[1:].mul_(states[:-1])
                dx[:, part] = (dwritten * dt_).transpose(0, 1)
                ddt[:, part] = ((dlog * A).sum(-1) + dwritten * x_).transpose(0, 1)
                dA += dlog.mul_(dt_[..., None]).sum((0, 1))
        return dx, ddt, dA, dB, dC, adjoint, None


def _advance(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    keep: Tensor | None,
    state: Tensor,
    part: slice,
) -> tuple[Tensor, Tensor]:
    """Return the decays and the states of one chunk, time first: both ``(K, B, D, N)``."""
    steps = dt[:, part].transpose(0, 1)
    decay = torch.mul(steps[..., None], A).exp_()
    if keep is not None:
        decay *= keep[:, part].transpose(0, 1)[..., None, None]
    states = (steps * x[:, part].transpose(0, 1))[..., None] * B[:, part].transpose(0, 1)[
        :, :, None
    ]
    for k in range(len(states)):
        states[k].addcmul_(decay[k], state)
        state = states[k]
    return decay, states


def _check_shapes(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    if x.dim() != 3 or x.shape[1] < 1:
        raise ConfigError(f"selective_scan: x must be (B, T, D), T >= 1, got {tuple(x.shape)}")
    if dt.shape != x.shape or A.dim() != 2 or A.shape[0] != x.shape[2]:
        raise ConfigError(
            f"selective_scan: for x {tuple(x.shape)}, dt must have the same shape and A be "
            f"({x.shape[2]}, N), got {tuple(dt.shape)} and {tuple(A.shape)}"
        )
    expected = (*x.shape[:2], A.shape[1])
    if B.shape != expected or C.shape != expected:
        raise ConfigError(
            f"selective_scan: B and C must be {expected}, got {tuple(B.shape)} and {tuple(C.shape)}"
        )
