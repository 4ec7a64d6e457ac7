"""Lambda-returns, continuation weights and the scale of advantages."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def lambda_return(
    reward: Tensor, termination: Tensor, value: Tensor, *, gamma: float, lambda_: float
) -> Tensor:
    """``R_t = r_t + gamma (1 - e_t) [(1 - lambda) V(s_{t+1}) + lambda R_{t+1}]``.

    Args:
        reward: Reward of action t, ``(B, H)``.
        termination: Probability (or flag) that action t ended the episode, ``(B, H)``.
        value: ``V(s_0) .. V(s_H)``, ``(B, H + 1)``.
        gamma: Discount.
        lambda_: 0 gives one-step returns, 1 the bootstrapped Monte-Carlo return.

    Returns:
        ``R_0 .. R_{H-1}``, ``(B, H)``; the recursion starts from ``R_H = V(s_H)``.
    """
    discount = gamma * (1.0 - termination)
    following = value[:, -1]
    returns = []
    for t in reversed(range(reward.shape[1])):
        mixed = (1.0 - lambda_) * value[:, t + 1] + lambda_ * following
        following = reward[:, t] + discount[:, t] * mixed
        returns.append(following)
    returns.reverse()
    return torch.stack(returns, dim=1)


def continuation_weights(termination: Tensor) -> Tensor:
    """Probability that the episode has not ended before action t, a weight of losses.

    The product of ``1 - e_k`` over earlier actions k < t: ``(B, H)`` to ``(B, H)``, first column 1.
    """
    alive = torch.cumprod(1.0 - termination, dim=1)
    return torch.cat([torch.ones_like(alive[:, :1]), alive[:, :-1]], dim=1)


def weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of ``x``, a scalar; 0 if all weights are 0."""
    # A minibatch may lie beyond imagined ends altogether: its mean must not be NaN.
    return (weight * x).sum() / weight.sum().clamp_min(1e-12)


class ReturnScale(nn.Module):
    """Running 5-to-95 percentile range of returns; advantages are divided by ``max(least, range)``.

    The percentiles are buffers, saved with the model and updated only by
    [update][drama.behaviour.returns.ReturnScale.update]. The first batch initialises them.

    Args:
        decay: Decay of the exponential moving averages.
        least: Smallest scale.
    """

    low: Tensor
    high: Tensor
    started: Tensor

    def __init__(self, decay: float = 0.99, least: float = 1.0) -> None:
        super().__init__()
        self.decay = decay
        self.least = least
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update(self, returns: Tensor) -> None:
        """Move the running percentiles towards those of ``returns`` (any shape)."""
        # torch.quantile synchronises with the host in some versions.
        ordered = returns.float().flatten().sort().values
        for running, share in ((self.low, 0.05), (self.high, 0.95)):
            new = _percentile(ordered, share)
            mixed = self.decay * running + (1.0 - self.decay) * new
            running.copy_(torch.where(self.started, mixed, new))
        self.started.fill_(True)

    def scale(self) -> Tensor:
        """Return the divisor of advantages: ``max(least, high - low)``, a scalar."""
        return (self.high - self.low).clamp_min(self.least)


def _percentile(ordered: Tensor, share: float) -> Tensor:
    """Percentile of sorted values ``(N,)``, with linear interpolation."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    return torch.lerp(ordered[below], ordered[min(below + 1, len(ordered) - 1)], position - below)
