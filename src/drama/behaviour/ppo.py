"""Proximal policy optimisation (Schulman et al., 2017, arXiv 1707.06347) on imagined rollouts.

Two forms of the clipped objective. `PPO` (``recompute_advantages``, the public code's form) makes
epochs over the whole rollout and recomputes returns and advantages before each. `MinibatchPPO`
computes them once per rollout and makes epochs of minibatches of single actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from drama.actions import ActionSpace, Categorical
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.config import BehaviourConfig
from drama.behaviour.returns import continuation_weights, weighted_mean
from drama.ops.dtypes import matmul_dtype
from drama.types import Rollout


class Minibatch(NamedTuple):
    """``N`` imagined actions in random order."""

    features: Tensor
    """Input of actor and critic, ``(N, F)``, standardised if configured."""
    action: Tensor
    """``(N,)`` int64."""
    log_prob: Tensor
    """Log-probability of each action under the policy that sampled it, ``(N,)``."""
    advantage: Tensor
    """Normalised advantage of each action, ``(N,)``."""
    target: Tensor
    """Lambda-return, the target of the critic, ``(N,)``."""
    weight: Tensor
    """Continuation weight, ``(N,)``."""
    metrics: dict[str, Tensor]
    """Scalars of the whole rollout for the log."""


class PPO(ActorCritic):
    """Epochs over the whole rollout, with advantages recomputed before each.

    Each epoch is a step of the actor-critic, with the clipped probability ratio in place of the
    score function.
    """

    @property
    def steps_per_update(self) -> int:
        """Gradient steps per rollout: the epochs."""
        return self.config.ppo.epochs

    def _gain(
        self, rollout: Rollout, policy: Categorical, advantage: Tensor, scale: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        log_prob = policy.log_prob(rollout.action)
        return clipped_gain(log_prob, rollout.log_prob, advantage, self.config.ppo.clip)


class MinibatchPPO(Behaviour):
    """Epochs of minibatches of single actions, with advantages computed once per rollout.

    Advantages are ``R_t - V(s_t)`` with the lambda-return R: generalised advantage estimation with
    soft terminations. They and the targets of the critic are fixed while the rollout is trained on.
    Losses, and the mean at which advantages are centred, are weighted by continuation weights.

    Advantages are divided by the running range of returns, at least ``min_return_scale``. Their
    own standard deviation, usual in PPO, would scale up the noise of a world model that has not
    learned any reward, and the entropy bonus would be small against it.

    The critic is trained on the two-hot code of its target, without value clipping. Actor and
    critic share no weights and the optimiser normalises gradients: no relative weight is needed.
    """

    @property
    def steps_per_update(self) -> int:
        """Gradient steps per rollout: epochs times minibatches."""
        return self.config.ppo.epochs * self.config.ppo.minibatches

    def gradient_steps(
        self, rollout: Rollout, generator: torch.Generator | None
    ) -> Iterator[Minibatch]:
        """Yield minibatches: in each epoch every imagined action once, in a new random order.

        Args:
            rollout: Trajectories imagined under the current policy.
            generator: Source of the random orders.
        """
        # Not a generator function: advantages are computed now, under the caller's autocast.
        return self._shuffled(self._prepare(rollout), generator)

    @torch.no_grad()
    def _prepare(self, rollout: Rollout) -> Minibatch:
        """Return the whole rollout as one minibatch ``(B H, ...)``, in order."""
        features = self.network_input(rollout.features)  # (B, H + 1, F)
        features = features.to(matmul_dtype(features))
        value = self.twohot.decode(self.critic(features))  # (B, H + 1)
        returns = self.returns(rollout, value)
        weight = continuation_weights(rollout.termination)  # (B, H)
        value = value[:, :-1]
        advantage = returns - value
        mean, variance = weighted_moments(advantage, weight)
        if self.training:
            self.return_scale.update(returns)
        scale = self.return_scale.scale()
        _, return_variance = weighted_moments(returns, weight)
        explained = 1.0 - variance / return_variance.clamp_min(_TINY)
        metrics = {
            "return": weighted_mean(returns, weight),
            "value": weighted_mean(value, weight),
            "reward": weighted_mean(rollout.reward, weight),
            "survival": weight[:, -1].mean(),
            "advantage_scale": scale,
            # 0 where returns are constant.
            "explained_variance": explained.where(return_variance > _TINY, 0.0),
        }
        return Minibatch(
            features[:, :-1].flatten(0, 1),
            rollout.action.flatten(),
            rollout.log_prob.flatten(),
            ((advantage - mean) / scale).flatten(),
            returns.flatten(),
            weight.flatten(),
            metrics,
        )

    def _shuffled(self, whole: Minibatch, generator: torch.Generator | None) -> Iterator[Minibatch]:
        columns = {name: x for name, x in whole._asdict().items() if name != "metrics"}
        count, device = whole.action.shape[0], whole.action.device
        for _ in range(self.config.ppo.epochs):
            order = torch.randperm(count, generator=generator, device=device)
            for index in order.tensor_split(self.config.ppo.minibatches):
                yield whole._replace(**{name: x[index] for name, x in columns.items()})

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped objective of the actor with entropy bonus, plus the regression of the critic.

        Returns:
            The scalar loss and detached scalars for the log.
        """
        clip, weight = self.config.ppo.clip, batch.weight
        policy = self.policy_of(self.actor(batch.features))  # (N, A)
        log_prob, entropy = policy.log_prob(batch.action), policy.entropy()
        gain, ratios = clipped_gain(log_prob, batch.log_prob, batch.advantage, clip)
        actor_loss = -(weight * (gain + self.config.entropy * entropy)).mean()
        critic_loss = (weight * self.twohot.loss(self.critic(batch.features), batch.target)).mean()
        with torch.no_grad():
            metrics = {
                "actor": actor_loss.detach(),
                "critic": critic_loss.detach(),
                "entropy": weighted_mean(entropy, weight),
                **{name: weighted_mean(x, weight) for name, x in ratios.items()},
            }
        return actor_loss + critic_loss, metrics | batch.metrics


_TINY = 1e-12


def make_ppo(config: BehaviourConfig, features: int, actions: ActionSpace) -> Behaviour:
    """Build the form of PPO that the settings ask for: on whole rollouts or in minibatches."""
    kind = PPO if config.ppo.recompute_advantages else MinibatchPPO
    return kind(config, features, actions)


def weighted_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean and variance of ``x``, both scalars."""
    mean = weighted_mean(x, weight)
    return mean, weighted_mean((x - mean).square(), weight)


def clipped_gain(
    log_prob: Tensor, sampled: Tensor, advantage: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped objective ``min(r A, clip(r, 1 - clip, 1 + clip) A)``, r the probability ratio.

    Args:
        log_prob: Log-probability of each action under the current policy, ``(...)``.
        sampled: Log-probability under the policy that sampled it, ``(...)``.
        advantage: A, ``(...)``.
        clip: Largest distance of r from 1.

    Returns:
        The objective per action, ``(...)``, and for the log, per action: ``approx_kl``,
        ``(r - 1) - log r``, an estimator of the KL divergence of the sampling policy from the
        current one, and ``clip_fraction``, 1 where the ratio is clipped.
    """
    log_ratio = log_prob - sampled
    ratio = log_ratio.exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
    ratio, log_ratio = ratio.detach(), log_ratio.detach()
    clipped = ((ratio - 1.0).abs() > clip).float()
    return gain, {"approx_kl": ratio - 1.0 - log_ratio, "clip_fraction": clipped}
