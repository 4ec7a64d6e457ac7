"""The categorical latent: straight-through sampling and KL divergence."""

from __future__ import annotations

import torch
from torch import Tensor

from drama.ops.categorical import Randomness, sample_categorical


def sample_one_hot(log_probs: Tensor, random: Randomness, straight_through: bool = True) -> Tensor:
    """Sample one-hot vectors with straight-through gradient.

    Args:
        log_probs: ``(..., classes)``.
        random: Source of randomness.
        straight_through: Whether the probabilities receive the gradient.

    Returns:
        ``(..., classes)`` in the type of ``log_probs``; values are exactly 0 and 1.
    """
    index = sample_categorical(log_probs.detach(), random)
    one_hot = torch.zeros_like(log_probs).scatter_(-1, index.unsqueeze(-1), 1.0)
    if not (straight_through and log_probs.requires_grad):
        return one_hot
    probs = log_probs.exp()
    # In this order: p - p is exactly 0, while (one_hot + p) - p rounds.
    return one_hot + (probs - probs.detach())


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``KL[p || q]`` summed over the variables: ``(..., variables, classes)`` to ``(...)``."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=(-2, -1))
