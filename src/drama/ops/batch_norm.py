"""BatchNorm and the SiLU after it, alone and after a convolution.

In training on a CPU they are one Function that saves only the input of the norm: a third less
memory, and not slower. In evaluation a convolution absorbs the norm after it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.ops.autograd import differentiable_once
from drama.ops.dispatch import on_cpu
from drama.ops.dtypes import matmul_dtype


class ConvLayers(nn.Sequential):
    """``nn.Sequential`` of convolutions, BatchNorm and SiLU that runs the operations below.

    Results and weights' names are those of ``nn.Sequential``. Weights are stored channels-last, the
    faster layout on CPUs and tensor cores.
    """

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Apply all layers."""
        if not (self.training or torch.is_grad_enabled()):
            for layer in self.folded():
                x = layer(x)
            return x
        rest: list[Any] = list(self)
        while rest:  # no `match`: torch.compile of PyTorch 2.8 does not trace it
            if _begins_with(rest, nn.BatchNorm2d, nn.SiLU):
                x, rest = batch_norm_silu(rest[0], x), rest[2:]
            else:
                x, rest = rest[0](x), rest[1:]
        return x

    def folded(self) -> list[Callable[[Tensor], Tensor]]:
        """Return the layers for evaluation, to be applied in turn while no weight changes.

        A norm between a convolution and SiLU is folded into the convolution, once for all calls.
        """
        layers: list[Callable[[Tensor], Tensor]] = []
        rest: list[Any] = list(self)
        while rest:
            if _begins_with(rest, nn.Conv2d, nn.BatchNorm2d, nn.SiLU):
                layers.append(_FoldedConv(rest[0], rest[1]))
                rest = rest[3:]
            elif _begins_with(rest, nn.BatchNorm2d, nn.SiLU):
                layers.append(functools.partial(batch_norm_silu, rest[0]))
                rest = rest[2:]
            else:
                layers.append(rest[0])
                rest = rest[1:]
        return layers


def _begins_with(layers: list[Any], *types: type[nn.Module]) -> bool:
    first = layers[: len(types)]
    return len(first) == len(types) and all(map(isinstance, first, types))


def reference(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Plain form of :func:`batch_norm_silu`."""
    return F.silu(norm(x))


def batch_norm_silu(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return ``silu(norm(x))`` and update the running statistics in training.

    On a CPU in training it can be differentiated once.

    Args:
        norm: The layer.
        x: ``(N, C, H, W)``.
    """
    if not (norm.training and torch.is_grad_enabled() and on_cpu(x)):
        return reference(norm, x)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    y: Tensor = _BatchNormSiLU.apply(x, norm.weight, norm.bias, norm)  # type: ignore[no-untyped-call]
    return y


class _FoldedConv:
    """``silu(norm(conv(x)))`` in evaluation, as one convolution and SiLU.

    Args:
        conv: The convolution, with or without bias.
        norm: The norm after it, whose running statistics are used.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        weight = conv.weight * scale[:, None, None, None]
        shift = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        bias, dtype = norm.bias - shift * scale, matmul_dtype(weight)
        # Autocast would round them again at each call.
        self.weight, self.bias = weight.to(dtype), bias.to(dtype)
        self.stride, self.padding = conv.stride, conv.padding

    def __call__(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)``."""
        y = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return F.silu(y, inplace=True)


class _BatchNormSiLU(torch.autograd.Function):
    """With batch statistics; saves the input and recomputes the rest."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        assert norm.momentum is not None
        y, mean, scale = torch.native_batch_norm(
            x, weight, bias, norm.running_mean, norm.running_var, True, norm.momentum, norm.eps
        )
        ctx.save_for_backward(x, weight, bias, mean, scale)  # scale = (var + eps)^(-1/2)
        ctx.eps = norm.eps
        return F.silu(y, inplace=True)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        variance = scale.square().reciprocal_()  # includes eps
        inner = torch.batch_norm(x, weight, bias, mean, variance, False, 0.0, 0.0, False)
        torch.ops.aten.silu_backward.grad_input(dy, inner, grad_input=inner)
        dx, dweight, dbias = torch.ops.aten.native_batch_norm_backward(
            inner, x, weight, None, None, mean, scale, True, ctx.eps, [True, True, True]
        )
        return dx, dweight, dbias, None
