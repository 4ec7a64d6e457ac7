"""States and steps of imagined trajectories, as named tuples."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class LatentState(NamedTuple):
    """State of ``B`` trajectories before action t, batch first."""

    stoch: Tensor
    """Latent ``z_t``, one-hot and flattened: ``(B, Z)``."""
    deter: Tensor
    """``d_{t-1}``, float32; zeros at the start of an episode: ``(B, D)``."""
    dynamics: Any
    """State of the sequence model after step t - 1, a NamedTuple of tensors."""


class Prediction(NamedTuple):
    """Open-loop prediction of ``H`` steps of ``B`` trajectories."""

    obs: Tensor
    """Decoded observations, one before each action: ``(B, H, ...)``, of the environment's dtype."""
    reward: Tensor
    """Expected reward of each action, ``(B, H)``."""
    termination: Tensor
    """Termination probability of each action, ``(B, H)``."""


class ImaginedStep(NamedTuple):
    """One imagined step of ``B`` trajectories."""

    action: Tensor
    """``(B,)`` int64."""
    log_prob: Tensor
    """Log-probability of the action, ``(B,)``."""
    state: LatentState
    """State after the action."""
    features: Tensor
    """Policy features of that state, ``(B, Z + D)``."""
    q_values: Tensor | None
    """One-step Q-values of all actions, ``(B, A)``, with ``actor_gradient="all-actions"``."""


class Successors(NamedTuple):
    """States after each of ``A`` actions from ``B`` states; those from one state are adjacent."""

    state: LatentState
    """State after the action, at the last sampled latent, ``(B A, ...)``."""
    features: Tensor
    """Policy features of that state, ``(B A, Z + D)``."""
    q_values: Tensor
    """One-step Q-values, means over the sampled latents: ``(B, A)``."""
