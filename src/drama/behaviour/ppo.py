"""Proximal policy optimisation (Schulman et al., 2017) on imagined trajectories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.config import BehaviourConfig
from drama.behaviour.returns import continuation_weights, lambda_return, weighted_mean
from drama.ops.dtypes import matmul_dtype
from drama.types import Rollout


class Minibatch(NamedTuple):
    """``N`` imagined actions, out of the order in which they were taken."""

    features: Tensor
    """Input of actor and critic, ``(N, F)``, standardised if configured."""
    action: Tensor
    """``(N,)`` int64."""
    log_prob: Tensor
    """Log-probability of each action under the policy that sampled it, ``(N,)``."""
    advantage: Tensor
    """Normalised advantage of each action, ``(N,)``."""
    target: Tensor
    """Lambda-return that the critic learns, ``(N,)``."""
    weight: Tensor
    """Probability that the episode still ran, ``(N,)``."""
    report: dict[str, Tensor]
    """Scalars of the whole rollout, for the log."""


class PPO(ActorCritic):
    """Epochs over the whole rollout, with advantages recomputed before each.

    Returns, advantages, their scale and both regressions of the critic are the actor-critic's at
    every epoch; the actor's score function is replaced by the clipped ratio to the policy that
    sampled the actions.
    """

    @property
    def steps_per_update(self) -> int:
        """Epochs."""
        return self.config.ppo.epochs

    def _gain(
        self, rollout: Rollout, log_probs: Tensor, advantage: Tensor, scale: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        log_prob = log_probs.gather(-1, rollout.action.unsqueeze(-1)).squeeze(-1)
        return clipped_gain(log_prob, rollout.log_prob, advantage, self.config.ppo.clip)


class MinibatchPPO(Behaviour):
    """Epochs of minibatches of single actions, with advantages computed once per rollout.

    With the rollout's own critic ``V`` the advantages are ``R_t - V(s_t)``, ``R`` the
    lambda-return: generalised advantage estimation with a soft end. They and the critic's targets
    stay what they were at the start while the rollout is learnt from. Every loss is weighted by
    the probability that the episode still ran, and so is the mean at which advantages are centred.

    They are then divided by the running range of returns, at least 1, unless the configuration asks
    for their deviation. PPO's usual division by the deviation brings also the noise of a world
    model that has not learnt a reward yet to full size, against which an entropy bonus is small.

    The critic learns the two-hot code of its target, without a clip on its change. Actor and critic
    share no weights and the optimiser divides by the gradient's size, so their losses carry no
    relative weight.
    """

    @property
    def steps_per_update(self) -> int:
        """Epochs times minibatches."""
        return self.config.ppo.epochs * self.config.ppo.minibatches

    def gradient_steps(
        self, rollout: Rollout, generator: torch.Generator | None
    ) -> Iterator[Minibatch]:
        """Yield minibatches: in each epoch every imagined action once, in a new random order.

        Args:
            rollout: Trajectories imagined under the present policy.
            generator: Source of the orders.
        """
        # Computed here and now, not when the first minibatch is asked for.
        return self._shuffled(self._prepare(rollout), generator)

    @torch.no_grad()
    def _prepare(self, rollout: Rollout) -> Minibatch:
        """The whole rollout as one minibatch ``(B H, ...)``, in its order."""
        config = self.config
        features = self.network_input(rollout.features)  # (B, H + 1, F)
        features = features.to(matmul_dtype(features))
        value = self.twohot.decode(self.critic(features))  # (B, H + 1)
        returns = lambda_return(
            rollout.reward,
            rollout.termination,
            value,
            gamma=config.gamma,
            lambda_=config.lambda_,
        )
        weight = continuation_weights(rollout.termination)  # (B, H)
        value = value[:, :-1]
        advantage = returns - value
        mean, spread = weighted_moments(advantage, weight)
        if self.training:
            self.return_scale.update(returns)
        scale = self.return_scale.scale()
        if config.ppo.advantage_scale == "deviation":
            scale = spread.sqrt() + 1e-5  # more than rounding, which is all there may be
        _, spread_of_returns = weighted_moments(returns, weight)
        explained = 1.0 - spread / spread_of_returns.clamp_min(_TINY)
        report = {
            "return": weighted_mean(returns, weight),
            "value": weighted_mean(value, weight),
            "reward": weighted_mean(rollout.reward, weight),
            "survival": weight[:, -1].mean(),
            "advantage_scale": scale,
            # Nothing to explain where returns do not differ.
            "explained_variance": explained.where(spread_of_returns > _TINY, 0.0),
        }
        return Minibatch(
            features[:, :-1].flatten(0, 1),
            rollout.action.flatten(),
            rollout.log_prob.flatten(),
            ((advantage - mean) / scale).flatten(),
            returns.flatten(),
            weight.flatten(),
            report,
        )

    def _shuffled(self, whole: Minibatch, generator: torch.Generator | None) -> Iterator[Minibatch]:
        columns = {name: x for name, x in whole._asdict().items() if name != "report"}
        count, device = whole.action.shape[0], whole.action.device
        for _ in range(self.config.ppo.epochs):
            order = torch.randperm(count, generator=generator, device=device)
            for index in order.tensor_split(self.config.ppo.minibatches):
                yield whole._replace(**{name: x[index] for name, x in columns.items()})

    def loss(self, batch: Minibatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Clipped objective of the actor with the entropy bonus, plus the critic's regression.

        Returns:
            The scalar loss, and detached scalars for the log.
        """
        clip, weight = self.config.ppo.clip, batch.weight
        log_probs = self.action_log_probs(batch.features)  # (N, A)
        log_prob = log_probs.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
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
        return actor_loss + critic_loss, metrics | batch.report


_TINY = 1e-12


def make_ppo(config: BehaviourConfig, features: int, num_actions: int) -> Behaviour:
    """Build the form of PPO that the settings ask for: on whole rollouts or in minibatches."""
    kind = PPO if config.ppo.recompute_advantages else MinibatchPPO
    return kind(config, features, num_actions)


def weighted_moments(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``x`` where each entry counts ``weight`` times; both scalars."""
    mean = weighted_mean(x, weight)
    return mean, weighted_mean((x - mean).square(), weight)


def clipped_gain(
    log_prob: Tensor, sampled: Tensor, advantage: Tensor, clip: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """``min(r A, clip(r, 1 - clip, 1 + clip) A)`` with ``r`` the ratio of probabilities.

    Args:
        log_prob: Of each action under the present policy, any shape.
        sampled: Of each under the policy that sampled it, likewise.
        advantage: Likewise.
        clip: Width of the clip.

    Returns:
        The gain per action. Per action for the log: ``approx_kl``, ``(r - 1) - log r``, whose
        mean estimates the divergence of the sampling policy from the present one, and
        ``clip_fraction``, 1 where the ratio is beyond the clip.
    """
    log_ratio = log_prob - sampled
    ratio = log_ratio.exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip, 1.0 + clip) * advantage)
    ratio, log_ratio = ratio.detach(), log_ratio.detach()
    beyond = ((ratio - 1.0).abs() > clip).float()
    return gain, {"approx_kl": ratio - 1.0 - log_ratio, "clip_fraction": beyond}
