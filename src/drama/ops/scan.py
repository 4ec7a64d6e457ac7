"""Chunked selective scan of Mamba-1: memory for inputs and a few states, not ``(B, T, D, N)``.

Inside a chunk everything but the recurrence itself is one batched operation. Only the state at the
start of each chunk is kept; the backward pass recomputes the others, from the last chunk to the
first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from drama.ops.autograd import differentiable_once

# Steps per chunk: T / 8 states kept, 8 states recomputed at a time.
_CHUNK = 8


class ScanInputs(NamedTuple):
    """Inputs of the recurrence, all of one type."""

    x: Tensor
    """``(B, T, D)``."""
    dt: Tensor
    """``(B, T, D)``."""
    A: Tensor
    """``(D, N)``."""
    B: Tensor
    """``(B, T, N)``."""
    C: Tensor
    """``(B, T, N)``."""
    keep: Tensor | None
    """0 where a step begins a sequence, else 1: ``(B, T)``."""


def chunked_scan(inputs: ScanInputs, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """Run the recurrence without skip connection. Differentiable once.

    Args:
        inputs: Inputs of T steps.
        initial_state: ``(B, D, N)``.

    Returns:
        ``y`` ``(B, T, D)`` and the final state ``(B, D, N)``.
    """
    y, state = _Scan.apply(initial_state, *inputs)  # type: ignore[no-untyped-call]
    return y, state


class _Scan(torch.autograd.Function):
    """The recurrence with its adjoint ``g_t = dy_t C_tᵀ + exp(Δ_{t+1} A) ∘ g_{t+1}``."""

    @staticmethod
    def forward(ctx: Any, initial_state: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        inputs = ScanInputs(*tensors)
        y = torch.empty_like(inputs.x)
        state = initial_state
        starts = state.new_empty(-(-y.shape[1] // _CHUNK), *state.shape)
        for index, begin in enumerate(range(0, y.shape[1], _CHUNK)):
            part = slice(begin, begin + _CHUNK)
            starts[index] = state
            _, states = _advance(inputs, state, part)
            # (K, B, 1, N) · (K, B, N, D) -> (K, B, D)
            maps = inputs.C[:, part].transpose(0, 1)[:, :, None]
            read = torch.matmul(maps, states.transpose(-1, -2)).squeeze(2)
            y[:, part] = read.transpose(0, 1)
            state = states[-1]
        ctx.save_for_backward(*inputs, starts)
        return y, state.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor, dstate: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, starts = ctx.saved_tensors
        inputs = ScanInputs(*tensors)
        x, dt, A, B, C, _ = inputs
        dx, ddt, dA = torch.empty_like(x), torch.empty_like(dt), torch.zeros_like(A)
        dB, dC = torch.empty_like(B), torch.empty_like(C)
        adjoint = dstate
        with torch.autocast(x.device.type, enabled=False):
            for index in reversed(range(len(starts))):
                part = slice(index * _CHUNK, (index + 1) * _CHUNK)
                decay, states = _advance(inputs, starts[index], part)
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
        return adjoint, dx, ddt, dA, dB, dC, None


def _advance(inputs: ScanInputs, state: Tensor, part: slice) -> tuple[Tensor, Tensor]:
    """Return the decays and the states of one chunk, time first: both ``(K, B, D, N)``."""
    x, dt, B = (v[:, part].transpose(0, 1) for v in (inputs.x, inputs.dt, inputs.B))
    decay = torch.mul(dt[..., None], inputs.A).exp_()
    if inputs.keep is not None:
        decay *= inputs.keep[:, part].transpose(0, 1)[..., None, None]
    states = (dt * x)[..., None] * B[:, :, None]
    for k in range(len(states)):
        states[k].addcmul_(decay[k], state)
        state = states[k]
    return decay, states
