"""Scalars as two-hot distributions over symlog space (DreamerV3, equations 8 to 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def symlog(x: Tensor) -> Tensor:
    """``sign(x) ln(|x| + 1)``: compresses large magnitudes, is the identity near 0."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of [symlog][drama.world_model.twohot.symlog]."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Encodes scalars on equally spaced bins over ``[-limit, limit]`` in symlog space.

    Args:
        bins: Odd number of bins, so that one of them is 0.
        limit: Outermost bin in symlog space; larger values are clamped to it.
    """

    bins: Tensor

    def __init__(self, bins: int = 255, limit: float = 20.0) -> None:
        super().__init__()
        self.limit = limit
        half = bins // 2
        # Built from integers so that the centre is exactly 0 and the ends exactly +-limit.
        grid = torch.arange(-half, half + 1, dtype=torch.float64) * (limit / half)
        self.register_buffer("bins", grid.float(), persistent=False)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of ``logits`` ``(..., bins)`` to the code of ``target`` ``(...)``."""
        return self.losses(logits, target.unsqueeze(-1)).squeeze(-1)

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy to each of several targets: ``(..., bins)``, ``(..., K)`` to ``(..., K)``.

        Only two bins carry weight, so their log-probabilities are gathered: no dense target.
        """
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        last = self.bins.shape[0] - 1
        position = (symlog(targets.float()).clamp(-self.limit, self.limit) + self.limit) * (
            last / (2 * self.limit)
        )
        lower = position.floor().clamp(0, last - 1)
        upper_weight = position - lower  # in [0, 1]
        # A NaN target must come out as a NaN loss, which training reports by name, not as an index.
        index = lower.nan_to_num(0.0).long()
        log_lower, log_upper = log_probs.gather(-1, torch.cat([index, index + 1], -1)).chunk(2, -1)
        return -((1.0 - upper_weight) * log_lower + upper_weight * log_upper)

    def decode(self, logits: Tensor) -> Tensor:
        """Expected value: ``symexp`` of the mean bin, ``(..., bins)`` to ``(...)``."""
        return symexp((torch.softmax(logits.float(), dim=-1) * self.bins).sum(dim=-1))
