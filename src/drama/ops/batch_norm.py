"""BatchNorm and the SiLU behind it, which keep one tensor less for the backward pass on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.ops.autograd import differentiable_once
from drama.ops.dispatch import on_cpu


class ImageLayers(nn.Sequential):
    """A sequence of layers in which a ``BatchNorm2d`` and the ``SiLU`` behind it are one.

    The result and the names of the weights are those of ``nn.Sequential``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pass ``x`` through all layers."""
        layers = list(self)
        while layers:
            layer = layers.pop(0)
            if isinstance(layer, nn.BatchNorm2d) and layers and isinstance(layers[0], nn.SiLU):
                layers.pop(0)
                x = batch_norm_silu(layer, x)
            else:
                x = layer(x)
        return x


def batch_norm_silu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return ``silu(norm(x))``, with the running statistics moved as ``norm`` would.

    Written out, the images before and after the norm are both kept for the backward pass. In
    training on a CPU only the former are here, and what follows from them is computed again: no
    slower, because a third less memory is written and held.
    """
    if not (norm.training and torch.is_grad_enabled() and on_cpu(x)):
        y: Tensor = norm(x)
        return F.silu(y)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    y = _BatchNormSiLU.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps
    )
    return y


class _BatchNormSiLU(torch.autograd.Function):
    """With batch statistics. Differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, scale = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, bias, mean, scale)  # scale = (var + eps)^(-1/2)
        ctx.eps = eps
        return F.silu(y, inplace=True)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        variance = scale.square().reciprocal_()  # eps is in it
        inner = torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, 0.0, False)
        torch.ops.aten.silu_backward.grad_input(dy, inner, grad_input=inner)
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            inner, x, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
        )
        return dx, dweight, dbias, None, None, None, None
