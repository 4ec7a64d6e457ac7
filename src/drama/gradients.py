"""What every backward pass that is written out by hand has in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def differentiable_once(backward: Backward) -> Backward:
    """Have a Function's ``backward`` run in the types it was written for, and not be built upon.

    A second derivative through code that writes one out would lack terms. PyTorch's own decorator
    of that purpose refuses it only on the way back through this one node. Where an input's gradient
    goes on through ordinary operations, such as those that make decays of Δ and A, there are ways
    around it, and wrong numbers at their ends. So ``create_graph`` is refused here at once.

    Autocast is off inside, as it is in the forward passes: ``backward()`` may be called where it
    is on, and would have products in another type than the numbers they belong to.

    Args:
        backward: Takes the context and the gradients of the outputs.

    Returns:
        The same, which raises a ``RuntimeError`` under ``create_graph=True``.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # as it is in a backward pass with create_graph alone
            raise RuntimeError(
                "create_graph=True reached a function whose gradient is written out, and which "
                "can be differentiated once only; drama.ssm.reference has scans without that limit"
            )
        device = next((v.device.type for v in upstream if v is not None), "cpu")
        with torch.autocast(device, enabled=False):
            return backward(ctx, *upstream)

    return run
