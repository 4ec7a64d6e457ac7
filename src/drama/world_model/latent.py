"""The categorical latent: uniform mixing, straight-through sampling, KL divergence."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mix_uniform(logits: Tensor, share: float) -> Tensor:
    """Return log-probabilities of ``(1 - share) softmax(logits) + share / classes``.

    Args:
        logits: ``(..., classes)`` of any float type; the result is float32 (or float64).
        share: Weight of the uniform distribution, in [0, 1].
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    if share == 0.0:
        return F.log_softmax(logits, dim=-1)
    probs = (1.0 - share) * F.softmax(logits, dim=-1) + share / logits.shape[-1]
    return probs.log()


Randomness = torch.Generator | Tensor | None
"""Source of random numbers: a generator, PyTorch's default one (None), or uniform numbers, one per
variable ``(..., 1)``. Compiled code cannot use a generator."""


def uniform_numbers(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Sample the uniform numbers of :func:`sample_categorical` for variables of ``shape``."""
    return torch.rand((*shape, 1), generator=generator, dtype=torch.float32, device=like.device)


def sample_categorical(log_probs: Tensor, random: Randomness) -> Tensor:
    """Sample class indices ``(...)`` from ``(..., classes)`` log-probabilities, float32 or float64.

    Inverse transform sampling with one uniform number per variable: no host sync, and many times
    cheaper than Gumbel-max, which needs one per class. In float32 probabilities are exact to within
    2^-23; a class of probability 0 is never sampled.
    """
    cumulative = log_probs.exp().cumsum(dim=-1)
    if isinstance(random, Tensor):
        uniform = random
    else:
        uniform = torch.rand(
            (*log_probs.shape[:-1], 1),
            generator=random,
            dtype=log_probs.dtype,
            device=log_probs.device,
        )
    # First class whose cumulative sum exceeds u times the total. One exists for u < 1 whatever the
    # rounding, except for NaN, which must reach the loss: training reports it by name.
    index = torch.searchsorted(cumulative, uniform * cumulative[..., -1:], right=True)
    return index.squeeze(-1).clamp_max(log_probs.shape[-1] - 1)


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
