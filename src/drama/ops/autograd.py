"""Common rules of manual backward passes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Backward = Callable[..., tuple[Tensor | None, ...]]


def differentiable_once(backward: Backward) -> Backward:
    """Decorate a Function's ``backward``: autocast is off, and ``create_graph`` raises.

    A second derivative through a hand-written backward pass would lack terms. PyTorch's
    ``once_differentiable`` detects this only if the second pass visits the same node; where the
    gradient of an input continues through ordinary operations (those that compute decays from Δ and
    A) it returns wrong numbers. So ``create_graph=True`` is refused at once.

    Autocast is off as in the forward pass: ``backward()`` may run under it, and products would then
    have another type than the tensors they are accumulated into.

    Args:
        backward: Takes the context and the gradients of the outputs.

    Returns:
        The decorated function. It raises ``RuntimeError`` under ``create_graph=True``.
    """

    @functools.wraps(backward)
    def run(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # in a backward pass only with create_graph
            raise RuntimeError(
                "create_graph=True reached an operation with a hand-written gradient, which can be "
                "differentiated once only; drama.ssm.reference has scans without that limit"
            )
        # No generator: torch.compile of PyTorch 2.8 cannot trace next() with a default.
        devices = [v.device.type for v in upstream if v is not None] or ["cpu"]
        with torch.autocast(devices[0], enabled=False):
            return backward(ctx, *upstream)

    return run
