"""Acting on the real environment with a carried state: constant cost per step."""

from __future__ import annotations

from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

from drama.behaviour.base import Behaviour
from drama.behaviour.imagination import Imagination, Policy
from drama.behaviour.imagined import LatentState
from drama.config import BehaviourConfig, Latents
from drama.dynamics import where_state
from drama.errors import ConfigError
from drama.ops.categorical import Randomness
from drama.types import ObsTensor, PolicyState
from drama.world_model import WorldModel

Actions = Literal["sampled", "argmax"]


class ActingNumbers(NamedTuple):
    """Sources of randomness of one step; exported models take uniform numbers for each."""

    posterior: Randomness
    """Numbers ``(B, variables, 1)`` for the latent of the current frame."""
    prior: Randomness
    """Numbers ``(B, variables, 1)`` for the predicted latent."""
    lookahead: Randomness
    """Numbers ``(samples * B, variables, 1)`` for the latents after each action."""
    action: Randomness
    """Numbers ``(B, 1)`` for the action."""


class Player:
    """Acts on observations with a world model and a policy.

    The policy reads the same features as in imagination. With ``policy_latent="prior"`` their
    latent is sampled from the prior ``p(. | d_{t-1})``, as in imagination: the current frame only
    enters through the state carried to the next step. With ``"posterior"`` it is sampled from the
    posterior of the current frame. An episode's first frame has no past: both take the posterior,
    with ``d = 0``.

    With ``lookahead`` the policy is improved by one-step Q-values, see
    :meth:`Imagination.one_step_q`. It helps in some games and hurts in others: docs/results.md.

    Args:
        world_model: Put into evaluation mode when acting.
        policy: Chooses actions.
        config: Settings of the policy's input and of the lookahead.

    Raises:
        ConfigError: ``lookahead`` with a policy that has no critic.
    """

    def __init__(self, world_model: WorldModel, policy: Policy, config: BehaviourConfig) -> None:
        if config.lookahead and not hasattr(policy, "one_step_return"):
            raise ConfigError(
                "behaviour.lookahead needs a policy with a critic, such as "
                f"drama.behaviour.Behaviour; {type(policy).__name__} has no one_step_return"
            )
        self.world_model = world_model
        self.policy = policy
        self.config = config
        self.actions = world_model.actions
        self.imagination = Imagination(world_model, policy, config)

    def init_state(self, batch_size: int) -> PolicyState:
        """Return the state before the first frame of ``batch_size`` episodes."""
        deter = next(self.world_model.parameters()).new_zeros(
            batch_size, self.world_model.config.dynamics.width
        )
        return PolicyState(self.world_model.dynamics.init_state(batch_size), deter)

    @torch.no_grad()
    def act(
        self,
        obs: ObsTensor,
        state: PolicyState,
        is_first: Tensor,
        generator: torch.Generator | ActingNumbers | None = None,
        *,
        latents: Latents = "sampled",
        actions: Actions = "sampled",
    ) -> tuple[Tensor, PolicyState]:
        """Choose actions for ``B`` environments and read them into the state.

        Args:
            obs: Current observations, each leaf ``(B, ...)``.
            state: State returned by the last call.
            is_first: ``(B,)`` bool: first frames, for which ``state`` is ignored.
            generator: Source of randomness for latents and actions, or one for each.
            latents: ``sampled``, as in imagination, or the ``mode`` of each variable.
            actions: ``sampled`` from the policy, or its ``argmax``. With the mode of the latents
                only the samples of the lookahead are random then.

        Returns:
            Actions ``(B,)`` int64, and the state for the next call.
        """
        world_model = self.world_model
        if world_model.training:
            world_model.eval()  # batch statistics of one frame would be meaningless
        state = where_state(is_first, self.init_state(len(is_first)), state)
        random = generator
        if not isinstance(random, ActingNumbers):
            random = ActingNumbers(random, random, random, random)
        posterior = self._latent(world_model.posterior(obs), random.posterior, latents)
        latent = posterior
        if self.config.policy_latent == "prior":
            predicted = self._latent(world_model.prior(state.deter), random.prior, latents)
            latent = torch.where(is_first.unsqueeze(-1), posterior, predicted)
        features = self.imagination.features(LatentState(latent, state.deter, state.dynamics))
        q_values = None
        if self.config.lookahead:
            before = LatentState(posterior, state.deter, state.dynamics)
            samples = self.config.lookahead
            q_values = self.imagination.one_step_q(before, random.lookahead, samples).q_values
        action = self._action(features, q_values, random.action, actions)
        deter, dynamics = world_model.step(posterior, action, state.dynamics)
        return action, PolicyState(dynamics, deter.float())

    def _action(
        self, features: Tensor, q_values: Tensor | None, random: Randomness, actions: Actions
    ) -> Tensor:
        greedy = actions == "argmax"
        if q_values is None:
            return self.policy.act(features, random, greedy)[0]
        return cast("Behaviour", self.policy).act(features, random, greedy, q_values)[0]

    def _latent(self, log_probs: Tensor, random: Randomness, latents: Latents) -> Tensor:
        if latents == "sampled":
            return self.world_model.sample(log_probs, random)
        mode = log_probs.argmax(dim=-1)
        return torch.nn.functional.one_hot(mode, log_probs.shape[-1]).flatten(-2).float()
