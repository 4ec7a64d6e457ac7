"""Selective state-space layers, importable on their own.

``ssd`` and ``selective_scan`` are the recurrences of Mamba-2 and Mamba-1 over a window;
``Mamba2`` and ``Mamba1`` the layers around them, with the parameter names of the ecosystem.
``drama.ssm.reference`` says the same maths step by step, ``choose_backend`` what runs it.
"""

from drama.ssm import reference
from drama.ssm.backend import Backend, BackendFallback, choose_backend
from drama.ssm.mamba1 import Mamba1, Mamba1State
from drama.ssm.mamba2 import Mamba2, Mamba2State
from drama.ssm.scan import selective_scan
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
