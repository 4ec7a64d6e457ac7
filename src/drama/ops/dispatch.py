"""Device dispatch: selects the code path for a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

_HOSTS = ("cpu",)
"""Device types treated as the CPU. Tests empty it to run an accelerator's code on the CPU."""
_WITHOUT_FLOAT64 = ("mps",)


def on_cpu(where: Tensor | torch.device) -> bool:
    """Whether an operation runs eagerly on the CPU.

    On the CPU ``.item()`` is free and cache blocking pays. Elsewhere reading a number synchronises,
    shapes should be static, and one large launch is faster than many; the same holds for code that
    is being compiled.

    Args:
        where: A tensor of the operation, or its device.
    """
    device = where.device if isinstance(where, Tensor) else where
    return device.type in _HOSTS and not torch.compiler.is_compiling()


def widest_float(where: Tensor | torch.device) -> torch.dtype:
    """Return the type for exact sums and counters: float64 where the device supports it."""
    device = where.device if isinstance(where, Tensor) else where
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64
