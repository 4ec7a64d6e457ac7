"""Base of all behaviours: actor, critic, and the contract with the trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from drama.actions import ActionSpace, Categorical
from drama.behaviour.returns import ReturnScale, lambda_return
from drama.config import BehaviourConfig
from drama.ops.categorical import Randomness
from drama.ops.standardise import RunningStandardise
from drama.types import Rollout
from drama.world_model import WorldModel
from drama.world_model.heads import MLP
from drama.world_model.twohot import TwoHot

IntrinsicReward = Callable[[WorldModel, Tensor, Tensor], "Tensor | None"]
"""Signature of :meth:`Behaviour.intrinsic_reward`."""


class Behaviour(nn.Module):
    """Actor, critic over two-hot bins, and return scale, trained on imagined rollouts alone.

    For each rollout the trainer runs, with the behaviour in training mode::

        for batch in behaviour.batches(rollout, generator):
            loss, metrics = behaviour.loss(batch)
            ...                       # gradients, clip, optimiser
            behaviour.after_step()

    One gradient step on the whole rollout, unless a subclass makes several.

    Args:
        config: Sizes and coefficients.
        features: Size F of the policy features ``concat(z_t, d_{t-1})``.
        actions: The action space.
    """

    def __init__(self, config: BehaviourConfig, features: int, actions: ActionSpace) -> None:
        super().__init__()
        self.config = config
        self.actions = actions
        layers = config.layers
        # At first the policy is uniform and the value 0.
        self.actor = MLP(
            features, actions.policy_size, layers=layers, units=config.actor_units, zero_init=True
        )
        self.critic = MLP(
            features, config.bins, layers=layers, units=config.critic_units, zero_init=True
        )
        self.twohot = TwoHot(config.bins, config.bin_limit, config.twohot_decode)
        self.return_scale = ReturnScale(config.return_decay, config.min_return_scale)
        self.standardise = RunningStandardise(features) if config.standardise_input else None

    # -- acting -------------------------------------------------------------------------------

    def network_input(self, features: Tensor) -> Tensor:
        """Input of actor and critic: the features ``(..., F)``, standardised if configured."""
        return features if self.standardise is None else self.standardise(features)

    def policy_of(self, actor_outputs: Tensor) -> Categorical:
        """Return the policy for outputs ``(..., A)`` of the actor."""
        return self.actions.policy(actor_outputs)

    def policy(self, features: Tensor) -> Categorical:
        """Return the policy for features ``(..., F)``."""
        return self.policy_of(self.actor(self.network_input(features)))

    def improved_log_probs(self, log_probs: Tensor, q_values: Tensor) -> Tensor:
        """KL-regularised policy improvement: ``log pi(a) + Q(a) / (entropy * scale)``, normalised.

        It maximises ``E[Q] / scale - entropy * KL[. || pi]``: a nat of divergence from ``pi`` costs
        what the actor-critic's bonus pays for a nat of entropy. With an entropy coefficient of 0 it
        is the greedy policy, where Q-values equal to within rounding are equal.

        Args:
            log_probs: Log-probabilities of ``pi``, ``(..., A)``.
            q_values: ``Q(a)``, ``(..., A)``.
        """
        rounding = 1e-5 * q_values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-3)
        price = (self.config.entropy * self.return_scale.scale()).maximum(rounding)
        ahead = q_values - q_values.amax(dim=-1, keepdim=True)
        return torch.log_softmax(log_probs + ahead / price, dim=-1)

    def act(
        self,
        features: Tensor,
        random: Randomness,
        greedy: bool = False,
        q_values: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Choose actions, sampled or most probable.

        Args:
            features: Policy features ``(..., F)``.
            random: Source of randomness.
            greedy: Take the most probable action.
            q_values: Act with the policy improved by these Q-values, ``(..., A)``.

        Returns:
            Actions ``(...)`` int64 and their log-probabilities ``(...)``.
        """
        policy = self.policy(features)
        if q_values is not None:
            policy = Categorical(self.improved_log_probs(policy.log_probs, q_values))
        action = policy.mode() if greedy else policy.sample(random)
        return action, policy.log_prob(action)

    def value(self, features: Tensor) -> Tensor:
        """Expected return, ``(..., F)`` to ``(...)``."""
        return self.twohot.decode(self.critic(self.network_input(features)))

    def one_step_return(self, features: Tensor, reward: Tensor, termination: Tensor) -> Tensor:
        """Bootstrapped one-step return ``r + gamma (1 - e) V(s')``, ``(...)``.

        Args:
            features: Policy features of the next state s', ``(..., F)``.
            reward: Predicted reward of the action, ``(...)``.
            termination: Predicted probability that it ends the episode, ``(...)``.
        """
        return reward + self.config.gamma * (1.0 - termination) * self.value(features)

    def intrinsic_reward(
        self, world_model: WorldModel, deter: Tensor, features: Tensor
    ) -> Tensor | None:
        """Reward added to the predicted one in imagination, ``(...)``; None adds nothing.

        Override it to explore, for example. `DreamEnv`, evaluation and acting never call it.

        Args:
            world_model: The imagined environment, in evaluation mode.
            deter: ``d_t`` after the action, ``(..., D)``.
            features: Policy features of the state that follows, ``(..., F)``.
        """
        return None

    # -- learning -----------------------------------------------------------------------------

    @property
    def steps_per_update(self) -> int:
        """Gradient steps per rollout, constant."""
        return 1

    def batches(self, rollout: Rollout, generator: torch.Generator | None) -> Iterable[Any]:
        """Yield the batch of each gradient step on ``rollout``, ``steps_per_update`` in all.

        The running mean and variance of the input are updated after the last step, so that
        probability ratios compare policies with the same input.

        Args:
            rollout: Trajectories imagined under the current policy.
            generator: Source of randomness.
        """
        steps = self.gradient_steps(rollout, generator)
        return steps if self.standardise is None else self._then_update_moments(steps, rollout)

    def gradient_steps(self, rollout: Rollout, generator: torch.Generator | None) -> Iterable[Any]:
        """Batches that :meth:`batches` yields: here the whole rollout each time."""
        return [rollout] * self.steps_per_update

    def _then_update_moments(self, steps: Iterable[Any], rollout: Rollout) -> Iterator[Any]:
        yield from steps
        if self.training and self.standardise is not None:
            self.standardise.update(rollout.features)

    def returns(self, rollout: Rollout, value: Tensor) -> Tensor:
        """Lambda-returns ``(B, H)`` of a rollout with values ``(B, H + 1)``."""
        config = self.config
        return lambda_return(
            rollout.reward,
            rollout.termination,
            value,
            gamma=config.gamma,
            lambda_=config.lambda_,
        )

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of one gradient step and detached scalars for the log."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Update what is not trained by gradients; called after each gradient step."""
