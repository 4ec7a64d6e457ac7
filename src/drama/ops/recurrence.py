"""One step of a linear recurrence with a diagonal decay: common to Mamba-1 and Mamba-2."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from drama.ops.blocking import state_blocks


def recurrent_step(
    state: Tensor,
    decay: Callable[[slice], Tensor],
    inputs: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute ``h' = decay ∘ h + Δ x Bᵀ`` and ``y = h' C``.

    The state is by far the largest tensor, and a step is bound by reading and writing it. Without
    gradients it is updated in blocks that stay in cache between the operations.

    Args:
        state: ``(B, ..., N)``, R numbers a group and state entry.
        decay: Returns the decay of some sequences of the batch, broadcast over their states.
        inputs: ``Δ x``, ``(B, G, R, 1)``.
        B: ``(B, G, 1, N)``.
        C: ``(B, G, 1, N)``.
        inplace: Overwrite ``state``; not with gradients.

    Returns:
        ``y`` ``(B, G, 1, R)`` and the next state.
    """
    batch, groups, rows, _ = inputs.shape
    shape = (groups, rows, state.shape[-1])
    # y as row times matrix: on a CPU several times faster than matrix times column.
    if torch.is_grad_enabled():
        everything = decay(slice(None))
        next_state = state.mul_(everything) if inplace else state * everything
        view = next_state.view(batch, *shape).addcmul_(inputs, B)
        return torch.matmul(C, view.transpose(-1, -2)), next_state
    next_state = (
        state if inplace else torch.empty_like(state, memory_format=torch.contiguous_format)
    )
    y = torch.empty(batch, groups, 1, rows, dtype=state.dtype, device=state.device)
    for block in state_blocks(state):
        part = torch.mul(state[block], decay(block), out=next_state[block])
        view = part.view(-1, *shape).addcmul_(inputs[block], B[block])
        torch.matmul(C[block], view.transpose(-1, -2), out=y[block])
    return y, next_state


@torch.no_grad()
def recurrent_output(
    state: Tensor, decay: Callable[[slice], Tensor], inputs: Tensor, B: Tensor, C: Tensor
) -> Tensor:
    """Return ``y`` of :func:`recurrent_step`, bit for bit, without writing the next state.

    Args:
        state: As in :func:`recurrent_step`; unchanged.
        decay: Likewise.
        inputs: Likewise.
        B: Likewise.
        C: Likewise.
    """
    batch, groups, rows, _ = inputs.shape
    y = torch.empty(batch, groups, 1, rows, dtype=state.dtype, device=state.device)
    for block in state_blocks(state):
        view = (state[block] * decay(block)).view(-1, groups, rows, state.shape[-1])
        view.addcmul_(inputs[block], B[block])
        torch.matmul(C[block], view.transpose(-1, -2), out=y[block])
    return y
