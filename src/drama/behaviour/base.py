"""What every behaviour has: actor, critic, and the contract with the trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from drama.config import BehaviourConfig
from drama.types import Rollout
from drama.world_model.heads import MLP
from drama.world_model.latent import Randomness, mix_uniform, sample_categorical
from drama.world_model.twohot import TwoHot


class Behaviour(nn.Module):
    """Actor, and critic over two-hot bins, that learn from imagined trajectories alone.

    For each rollout the trainer does, with the behaviour in training mode::

        for batch in behaviour.batches(rollout, generator):
            loss, metrics = behaviour.loss(batch)
            ...                       # gradients, clip, optimiser
            behaviour.after_step()

    which is one gradient step on the whole rollout unless a subclass says otherwise.

    Args:
        config: Sizes and coefficients.
        features: Size of the policy's input ``concat(latent_t, d_{t-1})``.
        num_actions: Number of discrete actions.
    """

    def __init__(self, config: BehaviourConfig, features: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        layers, zero = config.layers, config.zero_init_heads
        self.actor = MLP(
            features, num_actions, layers=layers, units=config.actor_units, zero_init=zero
        )
        self.critic = MLP(
            features, config.bins, layers=layers, units=config.critic_units, zero_init=zero
        )
        self.twohot = TwoHot(config.bins, config.bin_limit)

    # -- playing ------------------------------------------------------------------------------

    def policy(self, features: Tensor) -> Tensor:
        """Log-probabilities of the actions, ``(..., F)`` to ``(..., A)``."""
        return mix_uniform(self.actor(features), self.config.unimix)

    def act(
        self, features: Tensor, random: Randomness, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Choose actions, drawn or most probable.

        Returns:
            Actions ``(...)`` int64 and their log-probabilities ``(...)``.
        """
        log_probs = self.policy(features)
        action = log_probs.argmax(-1) if greedy else sample_categorical(log_probs, random)
        return action, log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def value(self, features: Tensor) -> Tensor:
        """Expected return, ``(..., F)`` to ``(...)``."""
        return self.twohot.decode(self.critic(features))

    # -- learning -----------------------------------------------------------------------------

    @property
    def steps_per_update(self) -> int:
        """Gradient steps made on one rollout; the same for every rollout."""
        return 1

    def batches(self, rollout: Rollout, generator: torch.Generator | None) -> Iterable[Any]:
        """Yield what each gradient step on ``rollout`` is given, ``steps_per_update`` times.

        Args:
            rollout: Trajectories dreamt under the present policy.
            generator: Source of randomness.
        """
        return [rollout]

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of one gradient step, and detached scalars for the log."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what follows each gradient step."""
