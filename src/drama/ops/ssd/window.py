"""Inputs of a chunked scan of Mamba-2, in the types in which it computes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Window(NamedTuple):
    """A window of T steps: x, B and C in the type of matrix products, the rest in that of sums."""

    x: Tensor
    """Inputs ``(B, T, H, P)``."""
    dt: Tensor
    """Step sizes ``(B, T, H)``."""
    logs: Tensor
    """Log-decays to base 2, ``(B, T, H)``, see :func:`drama.ops.ssd.decay.log_decay`."""
    B: Tensor
    """Input maps ``(B, T, G, N)``."""
    C: Tensor
    """Output maps ``(B, T, G, N)``."""
    D: Tensor | None
    """Skip weights ``(H,)``."""
    initial_state: Tensor | None
    """State before the first step ``(B, H, P, N)``; zeros if None."""

    def with_reset_decay(self, is_first: Tensor | None, value: float) -> Window:
        """Set the log-decay of steps that begin a sequence, bool ``(B, T)``."""
        if is_first is None:
            return self
        logs = self.logs.masked_fill(is_first[..., None], value)
        return self._with(self.x, self.dt, logs, self.B, self.C)

    def padded(self, chunks: int) -> Window:
        """Pad to a multiple of ``chunks`` steps: even chunks waste less than full ones and a rest.

        Steps of Δ = 0 neither decay nor write, so the final state is that of step T.
        """
        length = self.x.shape[1]
        missing = chunks * math.ceil(length / chunks) - length
        if not missing:
            return self
        x, dt, logs, B, C = (
            F.pad(v, (0, 0) * (v.dim() - 2) + (0, missing))
            for v in (self.x, self.dt, self.logs, self.B, self.C)
        )
        return self._with(x, dt, logs, B, C)

    def _with(self, x: Tensor, dt: Tensor, logs: Tensor, B: Tensor, C: Tensor) -> Window:
        # Not `_replace`, which torch.compile of PyTorch 2.8 does not trace.
        return Window(x, dt, logs, B, C, self.D, self.initial_state)
