"""Acting on the real environment with a carried state: constant cost per step."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor

from drama.behaviour.base import Behaviour
from drama.behaviour.imagination import Policy
from drama.behaviour.lookahead import one_step_q, policy_features
from drama.config import Latents, PolicyContext, PolicyLatent
from drama.dynamics import where_state
from drama.errors import ConfigError
from drama.types import PolicyState
from drama.world_model import WorldModel

Actions = Literal["sampled", "argmax"]


class Player:
    """Joins a world model and a policy into something that plays.

    Before each action the policy sees ``concat(latent_t, d_{t-1})``, or with ``policy_context=
    "current"`` what the latent calls to mind in the place of ``d_{t-1}``. With
    ``policy_latent="prior"`` the latent is predicted from ``d_{t-1}``, as in imagination: the
    current frame only enters through the state carried to the next step. With ``"posterior"``
    it is read from the current frame. On an episode's first frame nothing has been read yet,
    so both take the posterior, beside ``d = 0``.

    With ``lookahead`` the world model is asked what each action promises, see
    :func:`~drama.behaviour.lookahead.one_step_q`, and the policy is moved towards what promises
    more. Whether the agent plays better for it depends on the game: see docs/results.md.

    Raises:
        ConfigError: ``lookahead`` with a policy that cannot value what follows an action.
    """

    def __init__(
        self,
        world_model: WorldModel,
        policy: Policy,
        policy_latent: PolicyLatent,
        policy_context: PolicyContext = "previous",
        lookahead: int = 0,
    ) -> None:
        if lookahead and not hasattr(policy, "one_step_return"):
            raise ConfigError(
                "behaviour.lookahead needs a policy that values what follows an action, "
                f"as drama.behaviour.Behaviour does; {type(policy).__name__} has no one_step_return"
            )
        self.world_model = world_model
        self.policy = policy
        self.policy_latent = policy_latent
        self.policy_context = policy_context
        self.lookahead = lookahead

    def init_state(self, batch_size: int) -> PolicyState:
        """Return the state before the first frame of ``batch_size`` episodes."""
        deter = next(self.world_model.parameters()).new_zeros(
            batch_size, self.world_model.config.dynamics.width
        )
        return PolicyState(self.world_model.dynamics.init_state(batch_size), deter)

    @torch.no_grad()
    def act(
        self,
        obs: Tensor,
        state: PolicyState,
        is_first: Tensor,
        generator: torch.Generator | None = None,
        *,
        latents: Latents = "sampled",
        actions: Actions = "sampled",
    ) -> tuple[Tensor, PolicyState]:
        """Choose actions for ``B`` environments and read them into the state.

        Args:
            obs: Current observations, ``(B, H, W, C)`` uint8 or ``(B, N)`` float32.
            state: State from the last call.
            is_first: ``(B,)`` bool; these rows start afresh whatever ``state`` holds.
            generator: Source of randomness for latents and actions.
            latents: ``sampled``, as in imagination, or the ``mode`` of each variable.
            actions: ``sampled`` from the policy, or its ``argmax``. With the mode of the latents
                nothing is random then but the futures of ``lookahead``.

        Returns:
            Actions ``(B,)`` int64, and the state for the next call.
        """
        world_model = self.world_model
        if world_model.training:
            world_model.eval()  # batch statistics of one frame would be meaningless
        state = where_state(is_first, self.init_state(obs.shape[0]), state)
        posterior = self._latent(world_model.posterior(obs), generator, latents)
        latent = posterior
        if self.policy_latent == "prior":
            predicted = self._latent(world_model.prior(state.deter), generator, latents)
            latent = torch.where(is_first.unsqueeze(-1), posterior, predicted)
        greedy = actions == "argmax"
        memory = state.deter
        if self.policy_context == "current":
            memory = world_model.null_action_output(latent, state.dynamics).float()
        features = policy_features(latent, memory)
        if self.lookahead:
            behaviour = cast("Behaviour", self.policy)
            ahead = one_step_q(
                world_model,
                posterior,
                state.dynamics,
                generator,
                self.policy_context,
                behaviour.one_step_return,
                self.lookahead,
            )
            action, _ = behaviour.act(features, generator, greedy, ahead.q_values)
        else:
            action, _ = self.policy.act(features, generator, greedy)
        deter, dynamics = world_model.step(posterior, action, state.dynamics)
        return action, PolicyState(dynamics, deter.float())

    def _latent(
        self, log_probs: Tensor, generator: torch.Generator | None, latents: Latents
    ) -> Tensor:
        if latents == "sampled":
            return self.world_model.sample(log_probs, generator)
        mode = log_probs.argmax(dim=-1)
        return torch.nn.functional.one_hot(mode, log_probs.shape[-1]).flatten(-2).float()
