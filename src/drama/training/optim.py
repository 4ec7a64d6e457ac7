"""One optimiser step: backward, clip, warm-up, LaProp."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from drama.config import OptimConfig
from drama.errors import CheckpointError
from drama.files import tensor_like
from drama.ops.dispatch import on_cpu


class Optimiser:
    """LaProp over named parameters, with gradient clipping and a linear warm-up.

    LaProp (Ziyin et al., 2020) divides the gradient by the root of its second moment first and
    averages afterwards; Adam does it the other way round. With ``g`` the clipped gradient and
    ``a_t`` the step size of update ``t``::

        v = beta2 v + (1 - beta2) g^2
        m = beta1 m + (1 - beta1) a_t g sqrt(1 - beta2^t) / (sqrt(v) + eps)
        p = p - m a_t / b_t          with b = beta1 b + (1 - beta1) a_t

    All state is in tensors on the device, including the update count, so that an update can be
    captured as a CUDA graph. The LaProp of `pytorch-optimizer` does not allow that; the tests hold
    the two equal.

    Args:
        named_parameters: Trained parameters with their names (names key the saved state).
        config: Step size, decay rates, warm-up and clip.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
    ) -> None:
        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        self.names = [name for name, _ in named]
        self.params = [p for _, p in named]
        self.config = config
        self._momentum = [torch.zeros_like(p) for p in self.params]
        self._second_moment = [torch.zeros_like(p) for p in self.params]
        device = self.params[0].device if self.params else None
        self._count = torch.zeros((), dtype=torch.int64, device=device)  # t - 1
        self._mean_lr = torch.zeros((), device=device)  # b

    @property
    def updates(self) -> int:
        """Updates made, including earlier processes. Reading it synchronises with the device."""
        return int(self._count)

    def learning_rate(self) -> Tensor:
        """Step size ``a_t`` of the next update, a scalar on the device."""
        risen = (self._count + 1).float() / max(self.config.warmup, 1)
        return self.config.lr * risen.clamp_max(1.0)

    def backward(self, loss: Tensor) -> Tensor:
        """Compute the gradients of ``loss`` and clip them; returns the norm before clipping."""
        for p in self.params:
            p.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return nn.utils.clip_grad_norm_(self.params, self.config.grad_clip)

    @torch.no_grad()
    def step(self) -> None:
        """Apply the clipped gradients and overwrite them with preconditioned ones.

        Parameters without gradient do not change.
        """
        c, lr = self.config, self.learning_rate()
        self._count += 1
        self._mean_lr.mul_(c.beta1).add_(lr, alpha=1.0 - c.beta1)
        # 1 - beta2^t, without the cancellation that float32 would suffer while t is small
        unbias = -torch.expm1(self._count * (math.log(c.beta2) if c.beta2 else -math.inf))
        gain = lr * unbias.sqrt() * (1.0 - c.beta1)
        rate = -lr / self._mean_lr
        rows = [
            (p, p.grad, m, v)
            for p, m, v in zip(self.params, self._momentum, self._second_moment, strict=True)
            if p.grad is not None
        ]
        if not rows:
            return
        params, grads, momentum, second = (list(column) for column in zip(*rows, strict=True))
        torch._foreach_mul_(second, c.beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1.0 - c.beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, c.eps)
        torch._foreach_div_(grads, root)
        torch._foreach_mul_(grads, gain)
        torch._foreach_mul_(momentum, c.beta1)
        torch._foreach_add_(momentum, grads)
        if on_cpu(rate):
            torch._foreach_addcmul_(params, momentum, [rate] * len(params))
        else:
            # Fused: with a scalar per parameter, addcmul launches a kernel for each.
            torch._foreach_add_(params, torch._foreach_mul(momentum, rate))

    def non_finite_gradient(self) -> str | None:
        """Name of the first parameter whose gradient is not finite."""
        for name, p in zip(self.names, self.params, strict=True):
            if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
                return name
        return None

    # -- saving -------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as (tensors, JSON-able scalars), keyed by parameter name."""
        tensors = {
            f"{name}.{key}": moment
            for name, m, v in zip(self.names, self._momentum, self._second_moment, strict=True)
            for key, moment in (("exp_avg", m), ("exp_avg_sq", v))
        }
        return tensors, {"updates": self.updates, "mean_lr": float(self._mean_lr)}

    def load_state(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Put back what [state][drama.training.optim.Optimiser.state] returned.

        Raises:
            CheckpointError: A tensor is missing or does not fit, or a second moment is negative.
        """
        self._count.fill_(scalars["updates"])
        self._mean_lr.fill_(scalars["mean_lr"])
        for name, m, v in zip(self.names, self._momentum, self._second_moment, strict=True):
            m.copy_(tensor_like(tensors, f"{name}.exp_avg", m))
            v.copy_(tensor_like(tensors, f"{name}.exp_avg_sq", v))
            if not bool(torch.isfinite(m).all() & (v >= 0).all() & torch.isfinite(v).all()):
                raise CheckpointError(f"the saved moments of {name} are no moments of gradients")
