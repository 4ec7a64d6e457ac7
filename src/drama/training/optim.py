"""One optimiser step: backward, clip, warm-up, LaProp."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from drama.config import OptimConfig


class Optimiser:
    """LaProp over named parameters, with gradient clipping and a linear warm-up.

    The step size follows from the number of updates made, so the only state beside LaProp's
    moments is that number.

    Args:
        named_parameters: Trained parameters with their names (names key the saved state).
        config: Step size, decay rates, warm-up and clip.
    """

    def __init__(
        self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig
    ) -> None:
        # Here, not at the top: the package imports transformers where that is installed.
        from pytorch_optimizer import LaProp

        named = [(name, p) for name, p in named_parameters if p.requires_grad]
        self.names = [name for name, _ in named]
        self.params = [p for _, p in named]
        self.config = config
        self.updates = 0
        self.laprop = LaProp(
            self.params, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps
        )

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
        """Apply the clipped gradients."""
        for group in self.laprop.param_groups:
            group["lr"] = self.learning_rate()
        self.laprop.step()
        self.updates += 1

    def non_finite_gradient(self) -> str | None:
        """Name of the first parameter whose gradient is not finite."""
        for name, p in zip(self.names, self.params, strict=True):
            if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
                return name
        return None

    # -- saving -------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as (tensors, JSON-able scalars), keyed by parameter name."""
        tensors: dict[str, Tensor] = {}
        scalars: dict[str, Any] = {"updates": self.updates, "params": {}}
        scalars["groups"] = [group.get("step", 0) for group in self.laprop.param_groups]
        for name, p in zip(self.names, self.params, strict=True):
            entry: dict[str, float] = {}
            for key, value in self.laprop.state.get(p, {}).items():
                if isinstance(value, Tensor):
                    tensors[f"{name}.{key}"] = value
                else:
                    entry[key] = value
            scalars["params"][name] = entry
        return tensors, scalars

    def load_state(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        """Put back what [state][drama.training.optim.Optimiser.state] returned."""
        self.updates = scalars["updates"]
        for group, step in zip(self.laprop.param_groups, scalars["groups"], strict=True):
            group["step"] = step
        self.laprop.state.clear()
        for name, p in zip(self.names, self.params, strict=True):
            entry: dict[str, Any] = dict(scalars["params"][name])
            for key in ("exp_avg", "exp_avg_sq"):
                if f"{name}.{key}" in tensors:
                    saved = tensors[f"{name}.{key}"]
                    entry[key] = torch.empty_like(p).copy_(saved)
            if entry:
                self.laprop.state[p] = entry
