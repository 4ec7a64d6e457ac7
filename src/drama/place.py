"""Where CPU and accelerator part ways: the only questions about a device that the maths asks."""

from __future__ import annotations

import torch
from torch import Tensor

_HOSTS = ("cpu",)
"""Device types treated as the CPU. The tests empty it to run an accelerator's code on the CPU."""
_WITHOUT_FLOAT64 = ("mps",)


def on_cpu(where: Tensor | torch.device) -> bool:
    """Whether work happens on the CPU, and not in code that is being compiled.

    There a look at a number costs nothing, and a cache rewards work done piece by piece. Anything
    else works through a queue: looking would wait for all of it, shapes should stay what they
    are, and one large launch beats many. A compiler wants the same: cutting work up is its task.

    Args:
        where: A tensor that takes part, or its device.
    """
    device = where.device if isinstance(where, Tensor) else where
    return device.type in _HOSTS and not torch.compiler.is_compiling()


def widest_float(where: Tensor | torch.device) -> torch.dtype:
    """Type for sums and counters that should lose nothing: float64 where the device has it."""
    device = where.device if isinstance(where, Tensor) else where
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64
