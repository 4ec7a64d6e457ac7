"""The two recurrences one step at a time, plain enough to be checked by eye.

:func:`drama.ssm.ssd` and :func:`drama.ssm.selective_scan` are tested against these. They run in the
type of their inputs, so float64 inputs give a float64 reference.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Run Mamba-2's ``h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_tᵀ``, ``y_t = h_t C_t + D x_t``.

    Arguments and results as :func:`drama.ssm.ssd`; ``chunk_size`` has no effect.
    """
    batch, length, heads, headdim = x.shape
    per_group = heads // B.shape[2]
    B = B.repeat_interleave(per_group, dim=2)  # (B, T, H, N)
    C = C.repeat_interleave(per_group, dim=2)
    h = x.new_zeros(batch, heads, headdim, B.shape[-1]) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        if is_first is not None:
            h = torch.where(is_first[:, t, None, None, None], 0.0, h)
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]  # (B, H, 1, 1)
        write = (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None, :]
        h = decay * h + write  # (B, H, P, N)
        y = (h * C[:, t, :, None, :]).sum(-1)
        outputs.append(y if D is None else y + D[:, None] * x[:, t])
    return torch.stack(outputs, dim=1), h


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
    """Run Mamba-1's ``h_t = exp(Δ_t A) ∘ h_{t-1} + Δ_t x_t B_tᵀ``, ``y_t = h_t C_t + D ∘ x_t``.

    Arguments and results as :func:`drama.ssm.selective_scan`.
    """
    batch, length, channels = x.shape
    h = x.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state
    outputs = []
    for t in range(length):
        if is_first is not None:
            h = torch.where(is_first[:, t, None, None], 0.0, h)
        decay = torch.exp(dt[:, t, :, None] * A)  # (B, D, N)
        h = decay * h + (dt[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        y = (h * C[:, t, None, :]).sum(-1)
        outputs.append(y if D is None else y + D * x[:, t])
    return torch.stack(outputs, dim=1), h
