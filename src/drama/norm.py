"""RMSNorm that stays fused under autocast."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.RMSNorm):
    """``x / rms(x) * weight`` over the last axis, in the type of ``x``.

    PyTorch falls back to a slow composite (and warns) when ``x`` is bfloat16 and the weight
    float32, which is what autocast produces; casting the weight keeps the fused kernel, whose
    sums are float32 either way.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(..., size)``."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)
