"""What every behaviour has: actor, critic, and the contract with the trainer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from drama.behaviour.returns import ReturnScale
from drama.behaviour.standardise import RunningStandardise
from drama.config import BehaviourConfig
from drama.types import Rollout
from drama.world_model.heads import MLP
from drama.world_model.latent import Randomness, mix_uniform, sample_categorical
from drama.world_model.twohot import TwoHot


class Behaviour(nn.Module):
    """Actor, critic over two-hot bins, and scale of returns, learning from imagination alone.

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
        self.twohot = TwoHot(config.bins, config.bin_limit, config.twohot_decode)
        self.return_scale = ReturnScale(config.return_decay, config.min_return_scale)
        self.standardise = RunningStandardise(features) if config.standardise_input else None

    # -- playing ------------------------------------------------------------------------------

    def network_input(self, features: Tensor) -> Tensor:
        """Input of actor and critic: the features ``(..., F)``, standardised if configured."""
        return features if self.standardise is None else self.standardise(features)

    def action_log_probs(self, inputs: Tensor) -> Tensor:
        """Log-probabilities ``(..., A)`` of the actions from the networks' input ``(..., F)``."""
        return mix_uniform(self.actor(inputs), 0.0)  # in float32, also under autocast

    def policy(self, features: Tensor) -> Tensor:
        """Log-probabilities of the actions, ``(..., F)`` to ``(..., A)``."""
        return self.action_log_probs(self.network_input(features))

    def improved_log_probs(self, log_probs: Tensor, q_values: Tensor) -> Tensor:
        """Log-probabilities of the policy that is better by what each action promises.

        ``log pi(a) + Q(a) / (entropy * scale)``, normalised: what maximises the promise in units
        of the return scale if a nat of divergence from ``pi`` costs as much as actor-critic's bonus
        pays for a nat of entropy. With no bonus, the most promising action alone: promises that are
        equal but for rounding are equal.

        Args:
            log_probs: Of ``pi``, ``(..., A)``.
            q_values: What each action promises, ``(..., A)``.
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
        """Choose actions, drawn or most probable.

        Args:
            features: What the policy sees, ``(..., F)``.
            random: Source of randomness.
            greedy: Take the most probable action.
            q_values: What each action promises, ``(..., A)``: act with the policy that is better
                by it.

        Returns:
            Actions ``(...)`` int64 and their log-probabilities ``(...)``.
        """
        log_probs = self.policy(features)
        if q_values is not None:
            log_probs = self.improved_log_probs(log_probs, q_values)
        action = log_probs.argmax(-1) if greedy else sample_categorical(log_probs, random)
        return action, log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def value(self, features: Tensor) -> Tensor:
        """Expected return, ``(..., F)`` to ``(...)``."""
        return self.twohot.decode(self.critic(self.network_input(features)))

    def one_step_return(self, features: Tensor, reward: Tensor, termination: Tensor) -> Tensor:
        """What an action promises, by what follows it: ``r + gamma (1 - e) V``, all ``(...)``.

        Args:
            features: What the policy sees next, ``(..., F)``.
            reward: Predicted reward of the action, ``(...)``.
            termination: Predicted probability that it ends the episode, ``(...)``.
        """
        return reward + self.config.gamma * (1.0 - termination) * self.value(features)

    # -- learning -----------------------------------------------------------------------------

    @property
    def steps_per_update(self) -> int:
        """Gradient steps made on one rollout; the same for every rollout."""
        return 1

    def batches(self, rollout: Rollout, generator: torch.Generator | None) -> Iterable[Any]:
        """Yield what each gradient step on ``rollout`` is given, ``steps_per_update`` times.

        The running mean and variance of the input move after the last step: a probability ratio
        then compares policies that read the same input.

        Args:
            rollout: Trajectories imagined under the present policy.
            generator: Source of randomness.
        """
        steps = self.gradient_steps(rollout, generator)
        return steps if self.standardise is None else self._then_move(steps, rollout)

    def gradient_steps(self, rollout: Rollout, generator: torch.Generator | None) -> Iterable[Any]:
        """What :meth:`batches` yields: the whole rollout each time, unless a subclass differs."""
        return [rollout] * self.steps_per_update

    def _then_move(self, steps: Iterable[Any], rollout: Rollout) -> Iterator[Any]:
        yield from steps
        if self.training and self.standardise is not None:
            self.standardise.update(rollout.features)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the scalar loss of one gradient step, and detached scalars for the log."""
        raise NotImplementedError

    def after_step(self) -> None:
        """Do what follows each gradient step."""
