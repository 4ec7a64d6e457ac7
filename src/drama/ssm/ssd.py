"""Structured state-space duality (Mamba-2): the chunked scan and its single step.

Per head, with a scalar decay ``a_t = exp(Δ_t A)``:

    h_t = a_t h_{t-1} + Δ_t x_t B_tᵀ        y_t = h_t C_t + D x_t

A window is a masked matrix product, ``Y = (L ∘ C Bᵀ) (Δ X)`` with ``L_ij = a_{j+1} ⋯ a_i``
(Dao and Gu, 2024, arXiv 2405.21060, section 6). It is computed in chunks: quadratic inside a
chunk, one matrix-valued state passed from each chunk to the next, so the cost is linear in T.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drama.errors import ConfigError
from drama.ops import kernels
from drama.ops.backend_name import ChosenBackend
from drama.ops.checks import check_is_first, check_optional
from drama.ops.dtypes import accumulation_dtype, matmul_dtype
from drama.ops.recurrence import recurrent_output, recurrent_step
from drama.ops.ssd import factored, masked
from drama.ops.ssd.decay import log_decay
from drama.ops.ssd.window import Window


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
    backend: ChosenBackend = "torch",
) -> tuple[Tensor, Tensor]:
    """Run the Mamba-2 recurrence over a window of any length T >= 1.

    Log-decays and states are float32 (float64 if x, dt, A or a state is); matrix products use the
    type of ``x``, or that of autocast. In PyTorch it can be differentiated once.

    Args:
        x: Inputs ``(B, T, H, P)``.
        dt: Step sizes, positive, ``(B, T, H)``.
        A: Negative decay rate per head ``(H,)``.
        B: Input maps ``(B, T, G, N)``; head ``h`` reads group ``h // (H / G)``.
        C: Output maps ``(B, T, G, N)``.
        D: Skip weight per head ``(H,)``.
        chunk_size: Largest number of steps computed as one quadratic product; speed only.
        initial_state: State before the first step ``(B, H, P, N)``; zeros if None.
        is_first: Steps before which the state is cleared, bool ``(B, T)``.
        backend: ``torch``, or the ``kernels`` of mamba_ssm.

    Returns:
        ``y`` ``(B, T, H, P)`` in the type of ``x``, and the state after the last step
        ``(B, H, P, N)``.

    Raises:
        ConfigError: If shapes disagree, resets are not bool, T is 0, or ``chunk_size`` is below 1.
    """
    _check_shapes(x, dt, A, B, C, chunk_size)
    batch, length, heads, headdim = x.shape
    check_is_first("ssd", is_first, batch, length)
    state_shape = batch, heads, headdim, B.shape[3]
    check_optional("ssd", D=(D, (heads,)), initial_state=(initial_state, state_shape))
    if backend == "kernels":
        return kernels.ssd(
            x,
            dt,
            A,
            B,
            C,
            D=D,
            chunk_size=chunk_size,
            initial_state=initial_state,
            is_first=is_first,
        )
    compute = matmul_dtype(x)
    dtype = accumulation_dtype(x, dt, A, initial_state)
    with torch.autocast(x.device.type, enabled=False):
        window = Window(
            x.to(compute),
            dt.to(dtype),
            log_decay(dt.to(dtype), A),
            B.to(compute),
            C.to(compute),
            None if D is None else D.to(dtype),
            None if initial_state is None else initial_state.to(dtype),
        )
        # The factored form where it is faster and its exponents suffice, else the masked form.
        y, state = factored.scan(window, is_first, chunk_size) or masked.scan(
            window, is_first, chunk_size
        )
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
    inplace: bool = False,
    backend: ChosenBackend = "torch",
) -> tuple[Tensor, Tensor]:
    """Run one step of the recurrence.

    Args:
        x: Input ``(B, H, P)``.
        dt: Step size ``(B, H)``.
        A: ``(H,)``.
        B: ``(B, G, N)``.
        C: ``(B, G, N)``.
        state: ``(B, H, P, N)``.
        D: ``(H,)``.
        inplace: Overwrite ``state``, which is otherwise unchanged; not with gradients.
        backend: As for :func:`ssd`.

    Returns:
        ``y`` ``(B, H, P)`` in the type of ``x``, and the next state ``(B, H, P, N)``.
    """
    if backend == "kernels":
        return kernels.ssd_step(x, dt, A, B, C, state, D=D, inplace=inplace)
    p = _prepare(x, dt, A, B, C, state)
    with torch.autocast(x.device.type, enabled=False):
        y, next_state = recurrent_step(state, p.decay_of, p.inputs, p.B, p.C, inplace=inplace)
        return p.output(y, D).to(x.dtype), next_state


def ssd_peek(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    backend: ChosenBackend = "torch",
) -> Tensor:
    """Return ``y`` of :func:`ssd_step`, without gradients, and do not write the next state.

    The next state is by far the largest tensor of a step. Arguments are those of
    :func:`ssd_step`.
    """
    if backend == "kernels":
        return kernels.ssd_step(x, dt, A, B, C, state, D=D)[0]
    p = _prepare(x, dt, A, B, C, state)
    with torch.autocast(x.device.type, enabled=False):
        return p.output(recurrent_output(state, p.decay_of, p.inputs, p.B, p.C), D).to(x.dtype)


class _Step(NamedTuple):
    """Arguments of one step of the recurrence, in the type of the state."""

    decay: Tensor
    """``exp(Δ A)``, ``(B, H, 1, 1)``."""
    inputs: Tensor
    """``Δ x`` by group, ``(B, G, R, 1)``."""
    B: Tensor
    """``(B, G, 1, N)``."""
    C: Tensor
    """``(B, G, 1, N)``."""
    x: Tensor
    """``(B, H, P)``."""

    def decay_of(self, rows: slice) -> Tensor:
        """Decay of some sequences of the batch."""
        return self.decay[rows]

    def output(self, y: Tensor, D: Tensor | None) -> Tensor:
        """Add the skip connection to ``y`` ``(B, G, 1, R)``: ``(B, H, P)``."""
        y = y.view(self.x.shape)
        return y if D is None else torch.addcmul(y, D.to(y.dtype)[:, None], self.x)


def _prepare(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> _Step:
    batch, heads, headdim = x.shape
    groups, dtype = B.shape[1], state.dtype
    with torch.autocast(x.device.type, enabled=False):
        dt, values = dt.to(dtype), x.to(dtype)
        decay = torch.exp(dt * A.to(dtype))[..., None, None]
        inputs = (values * dt[..., None]).view(batch, groups, heads // groups * headdim, 1)
        return _Step(decay, inputs, B.to(dtype)[:, :, None], C.to(dtype)[:, :, None], values)


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
