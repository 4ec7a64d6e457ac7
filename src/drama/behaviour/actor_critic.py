"""Actor-critic after DreamerV3, trained on imagined trajectories alone."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from drama.behaviour.base import Behaviour
from drama.behaviour.returns import continuation_weights, lambda_return, weighted_mean
from drama.config import BehaviourConfig
from drama.ops.dtypes import matmul_dtype
from drama.types import Rollout


class ActorCritic(Behaviour):
    """Adds a slow copy of the critic; one step on each rollout.

    Args:
        config: Sizes and coefficients.
        features: Size of the policy's input ``concat(latent_t, d_{t-1})``.
        num_actions: Number of discrete actions.
    """

    def __init__(self, config: BehaviourConfig, features: int, num_actions: int) -> None:
        super().__init__(config, features, num_actions)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def loss(self, batch: Rollout) -> tuple[Tensor, dict[str, Tensor]]:
        """Policy-gradient loss of the actor plus the critic's two regressions.

        The actor learns from the actions that were drawn, by their score function, or, where the
        rollout tells what every action promised, from all of them: the sum of ``pi(a) Q(a)``.
        The critic learns the lambda-return and is held near the lambda-return that its slow
        copy gives. In training mode the running return scale moves.

        Args:
            batch: A whole rollout.

        Returns:
            The scalar loss, and detached scalars for the log.
        """
        config, rollout = self.config, batch
        features = self.network_input(rollout.features)  # (B, H + 1, F)
        # Three networks read them: under autocast each would round them anew.
        features = features.to(matmul_dtype(features))
        critic_logits = self.critic(features)  # (B, H + 1, bins)
        with torch.no_grad():
            value = self.twohot.decode(critic_logits)  # (B, H + 1)
            slow_value = self.twohot.decode(self.slow_critic(features))
            returns, slow_returns = (
                lambda_return(
                    rollout.reward,
                    rollout.termination,
                    v,
                    gamma=config.gamma,
                    lambda_=config.lambda_,
                )
                for v in (value, slow_value)
            )
            weight = continuation_weights(rollout.termination)  # (B, H)
            if self.training:
                self.return_scale.update(returns)
            scale = self.return_scale.scale()

        # One step too many, which is less work than copying the others would be.
        log_probs = self.action_log_probs(features)[:, :-1]  # (B, H, A)
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)  # (B, H)
        gain, ratios = self._gain(rollout, log_probs, (returns - value[:, :-1]) / scale, scale)
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
        self, rollout: Rollout, log_probs: Tensor, advantage: Tensor, scale: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the actor maximises per step, ``(B, H)``, and per-step values for the log."""
        if rollout.q_values is None:
            log_prob = log_probs.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1)
            return advantage * log_prob, {}
        # No baseline: probabilities sum to 1, so what all actions have in common moves nothing.
        return (log_probs.exp() * rollout.q_values / scale).sum(dim=-1), {}

    def after_step(self) -> None:
        """Let the slow critic follow."""
        self.update_slow_critic()

    @torch.no_grad()
    def update_slow_critic(self) -> None:
        """Move the slow critic's weights towards the critic's."""
        pairs = zip(self.slow_critic.parameters(), self.critic.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1.0 - self.config.slow_decay)
