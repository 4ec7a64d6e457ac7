"""Initial values of the step-size bias, for both layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_uniform_dt(count: int, low: float = 1e-3, high: float = 1e-1) -> Tensor:
    """Sample ``count`` step sizes log-uniformly from ``[low, high]``, as mamba_ssm does for Δ."""
    return torch.exp(torch.rand(count) * (math.log(high) - math.log(low)) + math.log(low))


def inverse_softplus(value: Tensor) -> Tensor:
    """Return ``b`` with ``softplus(b) = value``, for positive ``value``, without overflow."""
    return value + torch.log(-torch.expm1(-value))
