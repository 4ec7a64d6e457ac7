"""Categorical distributions: log-probabilities mixed with the uniform one, and sampling."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Randomness = torch.Generator | Tensor | None
"""Source of random numbers: a generator, PyTorch's own (None), or the uniform numbers themselves,
one for each variable, ``(..., 1)``: compiled code cannot use a generator."""


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


def uniform_numbers(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """Return the numbers that :func:`sample_categorical` would use for variables of ``shape``."""
    return torch.rand((*shape, 1), generator=generator, dtype=torch.float32, device=like.device)


def sample_categorical(log_probs: Tensor, random: Randomness) -> Tensor:
    """Sample class indices ``(...)`` from ``(..., classes)`` log-probabilities, float32 or float64.

    Inverts the cumulative distribution at one uniform number per variable: no host sync, and many
    times cheaper than a random number per class. In float32 a class is sampled with its
    probability to within 2^-23, one of probability 0 never.
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
    # The first class whose sum exceeds u times the total. With u < 1 there is one, however the sums
    # were rounded, except among NaN: those must reach the loss, which training reports by name.
    point = uniform * cumulative[..., -1:]
    if torch.compiler.is_exporting():  # ONNX has no search
        index = (cumulative <= point).sum(dim=-1)
    else:
        index = torch.searchsorted(cumulative, point, right=True).squeeze(-1)
    return index.clamp_max(log_probs.shape[-1] - 1)
