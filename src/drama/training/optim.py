"""One optimiser step: backward, clip, warm-up, LaProp."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from drama.config import OptimConfig


class Optimiser:
    """LaProp over named parameters, with gradient clipping and a linear warm-up.

    LaProp (Ziyin et al., 2020) divides the gradient by the root of its second moment first and
    averages afterwards; Adam does it the other way round. With ``g`` the clipped gradient and
    ``a_t`` the step size of update ``t``::

        v = beta2 v + (1 - beta2) g^2
        m = beta1 m + (1 - beta1) a_t g sqrt(1 - beta2^t) / (sqrt(v) + eps)
        p = p - m a_t / b_t          with b = beta1 b + (1 - beta1) a_t

    All that changes from one update to the next beside the tensors lies in three one-element
    tensors on the device, so that :meth:`apply` can be recorded once as a CUDA graph and replayed,
    which `pytorch-optimizer`'s LaProp does not allow; the tests hold the two together.

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
        self.updates = 0
        """Updates made, those of an earlier process included."""
        self._mean_lr = 0.0  # b_t above, which is a sum of beta1's powers, not a tensor
        self._momentum = [torch.zeros_like(p) for p in self.params]
        self._second_moment = [torch.zeros_like(p) for p in self.params]
        device = self.params[0].device if self.params else None
        self._gain = torch.zeros((), device=device)  # (1 - beta1) a_t sqrt(1 - beta2^t)
        self._rate = torch.zeros((), device=device)  # -a_t / b_t

    def learning_rate(self) -> float:
        """Step size of the next update."""
        if self.updates >= self.config.warmup:
            return self.config.lr
        return self.config.lr * (self.updates + 1) / self.config.warmup

    def backward(self, loss: Tensor) -> Tensor:
        """Compute fresh gradients of ``loss`` and clip them; returns their norm before."""
        for p in self.params:
            p.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        return nn.utils.clip_grad_norm_(self.params, self.config.grad_clip, foreach=True)

    def step(self) -> None:
        """Apply the clipped gradients; they hold the preconditioned ones afterwards."""
        self.advance()
        self.apply()

    def advance(self) -> None:
        """Count one update and put its step size on the device, without waiting for it."""
        c, lr = self.config, self.learning_rate()
        self.updates += 1
        self._mean_lr = c.beta1 * self._mean_lr + (1.0 - c.beta1) * lr
        self._gain.fill_((1.0 - c.beta1) * lr * math.sqrt(1.0 - c.beta2**self.updates))
        self._rate.fill_(-lr / self._mean_lr)

    @torch.no_grad()
    def apply(self) -> None:
        """Do the tensor work of the update last counted. A parameter without gradient rests."""
        c = self.config
        rows = [
            (p, p.grad, m, v)
            for p, m, v in zip(self.params, self._momentum, self._second_moment, strict=True)
            if p.grad is not None
        ]
        params, grads, momentum, second = (list(column) for column in zip(*rows, strict=True))
        torch._foreach_mul_(second, c.beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1.0 - c.beta2)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, c.eps)
        torch._foreach_div_(grads, root)
        torch._foreach_mul_(grads, self._gain)
        torch._foreach_mul_(momentum, c.beta1)
        torch._foreach_add_(momentum, grads)
        torch._foreach_addcmul_(params, momentum, [self._rate] * len(params))

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
        return tensors, {"updates": self.updates, "mean_lr": self._mean_lr}

    def load_state(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Put back what [state][drama.training.optim.Optimiser.state] returned."""
        self.updates = scalars["updates"]
        self._mean_lr = scalars["mean_lr"]
        for name, m, v in zip(self.names, self._momentum, self._second_moment, strict=True):
            m.copy_(tensors[f"{name}.exp_avg"])
            v.copy_(tensors[f"{name}.exp_avg_sq"])
