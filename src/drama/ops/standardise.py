"""Standardisation of features by running moments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

DECAY = 0.99
"""Decay of the running mean and variance, per update."""
LIMIT = 10.0
"""Standardised features are clipped to ``[-LIMIT, LIMIT]``."""
EPS = 1e-5
"""Added to the variance, which is 0 for a constant feature."""


class RunningStandardise(nn.Module):
    """``(x - mean) / sqrt(variance + EPS)``, clipped, per feature.

    The moments are buffers, saved with the model and updated only by
    [update][drama.ops.standardise.RunningStandardise.update]. The first batch initialises
    them; before it they are 0 and 1.

    Args:
        size: Number of features F.
    """

    mean: Tensor
    variance: Tensor
    started: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise ``(..., F)``; float32."""
        scaled = (x.float() - self.mean) * (self.variance + EPS).rsqrt()
        return scaled.clamp(-LIMIT, LIMIT)

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Move mean and variance towards those of the batch ``(..., F)``."""
        variance, mean = torch.var_mean(x.float().flatten(0, -2), dim=0, correction=0)
        for running, new in ((self.mean, mean), (self.variance, variance)):
            mixed = DECAY * running + (1.0 - DECAY) * new
            running.copy_(torch.where(self.started, mixed, new))
        self.started.fill_(True)

    def invert(self, x: Tensor) -> Tensor:
        """Undo the standardisation of ``(..., F)``; float32."""
        return x.float() * (self.variance + EPS).sqrt() + self.mean
