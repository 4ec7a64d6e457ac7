"""The selective scan of Mamba-1, over a window and for a single step.

Per channel d, with a diagonal decay over the N states:

    h_t = exp(Δ_t A) ∘ h_{t-1} + Δ_t x_t B_tᵀ        y_t = h_t C_t + D ∘ x_t

Source: Gu and Dao, 2023, arXiv 2312.00752, section 3.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drama.errors import ConfigError
from drama.ops import kernels
from drama.ops.backend_name import ChosenBackend
from drama.ops.checks import check_is_first, check_optional
from drama.ops.dtypes import accumulation_dtype
from drama.ops.recurrence import recurrent_step
from drama.ops.scan import ScanInputs, chunked_scan


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
    backend: ChosenBackend = "torch",
) -> tuple[Tensor, Tensor]:
    """Run the Mamba-1 recurrence over a window of any length T >= 1.

    Computed in float32 (float64 if x, dt, A or the state is). Differentiable once.

    Args:
        x: Inputs ``(B, T, D)``.
        dt: Step sizes, positive, ``(B, T, D)``.
        A: Negative decay rates ``(D, N)``.
        B: Input maps ``(B, T, N)``.
        C: Output maps ``(B, T, N)``.
        D: Skip weight per channel ``(D,)``.
        initial_state: State before the first step ``(B, D, N)``; zeros if None.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.
        backend: ``torch``, or the ``kernels`` of mamba_ssm (no initial state, no resets).

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
    if backend == "kernels":
        return kernels.selective_scan(
            x, dt, A, B, C, D=D, initial_state=initial_state, is_first=is_first
        )
    dtype = accumulation_dtype(x, dt, A, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        if initial_state is None:
            initial_state = x.new_zeros(state_shape, dtype=dtype)
        x_, dt_, A_, B_, C_ = (v.to(dtype) for v in (x, dt, A, B, C))
        keep = None if is_first is None else (~is_first).to(dtype)
        y, state = chunked_scan(ScanInputs(x_, dt_, A_, B_, C_, keep), initial_state.to(dtype))
        if D is not None:
            y = torch.addcmul(y, D.to(dtype), x_)
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
    backend: ChosenBackend = "torch",
) -> tuple[Tensor, Tensor]:
    """Run one step of the recurrence.

    Args:
        x: Input ``(B, D)``.
        dt: Step size ``(B, D)``.
        A: ``(D, N)``.
        B: ``(B, N)``.
        C: ``(B, N)``.
        state: ``(B, D, N)``.
        D: ``(D,)``.
        inplace: Overwrite ``state``, which is otherwise unchanged; not with gradients.
        backend: As for :func:`selective_scan`.

    Returns:
        ``y`` ``(B, D)`` in the type of ``x``, and the next state ``(B, D, N)``.
    """
    if backend == "kernels":
        return kernels.selective_scan_step(x, dt, A, B, C, state, D=D, inplace=inplace)
    dtype = state.dtype
    with torch.autocast(x.device.type, enabled=False):
        dt, values = dt.to(dtype), x.to(dtype)
        # To base 2: on a CPU exp takes many times as long where its result underflows.
        rates = A.to(dtype) / math.log(2)
        inputs = (values * dt)[:, None, :, None]  # (B, 1, D, 1)
        B, C = B.to(dtype)[:, None, None], C.to(dtype)[:, None, None]  # (B, 1, 1, N)

        def decay(rows: slice) -> Tensor:
            return (dt[rows, :, None] * rates).exp2_()

        y, next_state = recurrent_step(state, decay, inputs, B, C, inplace=inplace)
        y = y.flatten(1)
        if D is not None:
            y = torch.addcmul(y, D.to(dtype), values)
    return y.to(x.dtype), next_state


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
