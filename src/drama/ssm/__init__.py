"""Selective state-space layers, importable on their own.

``ssd`` and ``selective_scan`` are the recurrences of Mamba-2 and Mamba-1 over a window, ``Mamba2``
and ``Mamba1`` the layers around them, with the parameter names of mamba_ssm and transformers.
``drama.ssm.reference`` computes the same step by step; the fast versions are in :mod:`drama.ops`.
``choose_backend`` returns whether PyTorch or the kernels of mamba_ssm run the layers on a device.
"""

from drama.ops.backend import Backend, BackendFallback, choose_backend
from drama.ssm import reference
from drama.ssm.mamba1 import Mamba1, Mamba1State
from drama.ssm.mamba2 import Mamba2, Mamba2State
from drama.ssm.selective_scan import selective_scan
from drama.ssm.ssd import ssd

__all__ = [
    "Backend",
    "BackendFallback",
    "Mamba1",
    "Mamba1State",
    "Mamba2",
    "Mamba2State",
    "choose_backend",
    "reference",
    "selective_scan",
    "ssd",
]
