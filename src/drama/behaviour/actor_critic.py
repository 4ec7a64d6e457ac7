"""Actor-critic (DreamerV3), trained on imagined rollouts alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from drama.actions import ActionSpace, Categorical
from drama.behaviour.base import Behaviour
from drama.behaviour.returns import continuation_weights, weighted_mean
from drama.config import BehaviourConfig
from drama.ops.dtypes import matmul_dtype
from drama.types import Rollout


class ActorCritic(Behaviour):
    """Score-function actor, critic regularised by a slow copy; one gradient step per rollout.

    Args:
        config: Sizes and coefficients.
        features: Size F of the policy features ``concat(z_t, d_{t-1})``.
        actions: The action space.
    """

    def __init__(self, config: BehaviourConfig, features: int, actions: ActionSpace) -> None:
        super().__init__(config, features, actions)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def loss(self, batch: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy-gradient loss of the actor plus the two regressions of the critic.

        The actor maximises the score-function objective ``A log pi(a)`` of the sampled actions, or,
        for a rollout with Q-values, the expectation ``sum pi(a) Q(a)`` over all actions. The critic
        is regressed on the lambda-return, and on the lambda-return under its slow copy. Training
        mode updates the running return scale.

        Args:
            batch: A whole rollout.

        Returns:
            The scalar loss and detached scalars for the log.
        """
        config, rollout = self.config, batch
        features = self.network_input(rollout.features)  # (B, H + 1, F)
        # Rounded once for three networks: under autocast each would round them again.
        features = features.to(matmul_dtype(features))
        critic_logits = self.critic(features)  # (B, H + 1, bins)
        with torch.no_grad():
            value = self.twohot.decode(critic_logits)  # (B, H + 1)
            slow_value = self.twohot.decode(self.slow_critic(features))
            returns, slow_returns = (self.returns(rollout, v) for v in (value, slow_value))
            weight = continuation_weights(rollout.termination)  # (B, H)
            if self.training:
                self.return_scale.update(returns)
            scale = self.return_scale.scale()

        # The last step is computed and dropped: cheaper than copying the others.
        policy = self.policy_of(self.actor(features)[:, :-1])  # (B, H, A)
        entropy = policy.entropy()  # (B, H)
        gain, ratios = self._gain(rollout, policy, (returns - value[:, :-1]) / scale, scale)
        actor_loss = -(weight * (gain + config.entropy * entropy)).mean()

        targets = torch.stack([returns, slow_returns], dim=-1)
        losses = self.twohot.losses(critic_logits[:, :-1], targets)  # (B, H, 2)
        critic_loss, slow_loss = (weight.unsqueeze(-1) * losses).mean(dim=(0, 1))

        loss = actor_loss + critic_loss + slow_loss
        return loss, {
            "actor": actor_loss.detach(),
            "critic": critic_loss.detach(),
            "slow_critic": slow_loss.detach(),
            "entropy": entropy.detach().mean(),
            "return": (weight * returns).sum() / weight.sum(),
            "value": (weight * value[:, :-1]).sum() / weight.sum(),
            "reward": (weight * rollout.reward).sum() / weight.sum(),
            "survival": weight[:, -1].mean(),
            "return_scale": self.return_scale.scale(),
            **{name: weighted_mean(x, weight) for name, x in ratios.items()},
        }

    def _gain(
        self, rollout: Rollout, policy: Categorical, advantage: Tensor, scale: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Objective of the actor per step, ``(B, H)``, and per-step values for the log."""
        if rollout.q_values is None:
            return advantage * policy.log_prob(rollout.action), {}
        # No baseline: its gradient would be 0, since probabilities sum to 1.
        return (policy.log_probs.exp() * rollout.q_values / scale).sum(dim=-1), {}

    def after_step(self) -> None:
        """Update the slow critic."""
        self.update_slow_critic()

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the weights of the slow critic towards those of the critic."""
        pairs = zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1.0 - self.config.slow_decay)
