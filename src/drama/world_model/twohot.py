"""Scalars as two-hot distributions over symlog space (DreamerV3, equations 8 to 10)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drama.config import TwoHotDecode


def symlog(x: Tensor) -> Tensor:
    """``sign(x) ln(|x| + 1)``: compresses large magnitudes, close to the identity near 0."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """Inverse of [symlog][drama.world_model.twohot.symlog]."""
    return x.sign() * x.abs().expm1()


class TwoHot(nn.Module):
    """Encode scalars on equally spaced bins over ``[-limit, limit]`` in symlog space.

    Args:
        bins: Odd number of bins, so that one is 0.
        limit: Outermost bin in symlog space; larger values are clamped.
        decode: ``symexp-mean``, the symexp of the mean bin, or ``mean-symexp``, the mean of the
            bins' symexp.
    """

    bins: Tensor
    magnitudes: Tensor
    """``symexp`` of the bins above 0, ``(bins // 2,)``."""

    def __init__(
        self, bins: int = 255, limit: float = 20.0, decode: TwoHotDecode = "symexp-mean"
    ) -> None:
        super().__init__()
        self.limit = limit
        self.means_values = decode == "mean-symexp"
        half = bins // 2
        # From integers, so that the centre is exactly 0 and the ends exactly ±limit.
        grid = torch.arange(-half, half + 1, dtype=torch.float64) * (limit / half)
        self.register_buffer("bins", grid.float(), persistent=False)
        self.register_buffer("magnitudes", symexp(grid[half + 1 :]).float(), persistent=False)

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of ``logits`` ``(..., bins)`` to the code of ``target`` ``(...)``."""
        return self.losses(logits, target.unsqueeze(-1)).squeeze(-1)

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy to each of several targets: ``(..., bins)``, ``(..., K)`` to ``(..., K)``.

        Only two bins have weight: their log-probabilities are gathered, without a dense target.
        """
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        last = self.bins.shape[0] - 1
        position = (symlog(targets.float()).clamp(-self.limit, self.limit) + self.limit) * (
            last / (2 * self.limit)
        )
        lower = position.floor().clamp(0, last - 1)
        upper_weight = position - lower  # in [0, 1]
        # A NaN target must give a NaN loss, which training reports by name.
        index = lower.nan_to_num(0.0).long()
        log_lower, log_upper = log_probs.gather(-1, torch.cat([index, index + 1], -1)).chunk(2, -1)
        return -((1.0 - upper_weight) * log_lower + upper_weight * log_upper)

    def decode(self, logits: Tensor) -> Tensor:
        """Expected value, ``(..., bins)`` to ``(...)``.

        ``symexp-mean`` undervalues uncertain outcomes: 0 with probability 0.9 and 100 with 0.1
        decode to 0.59. ``mean-symexp`` (DreamerV3) gives 10.03, the expectation up to the width of
        the bins; errors of the outermost probabilities are multiplied by ``symexp(limit)``.
        """
        probs = torch.softmax(logits.float(), dim=-1)
        if not self.means_values:
            return symexp((probs * self.bins).sum(dim=-1))
        half = self.magnitudes.shape[0]
        # Differences first: bins of opposite sign and equal probability cancel exactly.
        odd = probs[..., half + 1 :] - probs[..., :half].flip(-1)
        return (odd * self.magnitudes).sum(dim=-1)
