"""The modules that are exported: one acting step, the encoder, and one step of a dream.

All are for one environment, batch size 1, and take uniform random numbers as inputs, so that their
results are functions of the inputs. A state is flat: its tensors in the order of `state_names`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from drama.behaviour import Behaviour, LatentState, Player
from drama.behaviour.acting import ActingNumbers, Actions
from drama.behaviour.imagination import LOOKAHEAD_BATCH
from drama.config import Latents
from drama.dynamics import map_state, where_state
from drama.errors import ConfigError
from drama.ops.categorical import Randomness
from drama.types import PolicyState


def state_leaves(state: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a nested state with their names, such as ``dynamics.layers.0.ssm``."""
    if isinstance(state, Tensor):
        yield prefix, state
        return
    fields = getattr(state, "_fields", range(len(state)))
    for name, part in zip(fields, state, strict=True):
        yield from state_leaves(part, f"{prefix}.{name}")


def flat_state(state: Any) -> tuple[Tensor, ...]:
    """Return the tensors of a state in order."""
    return tuple(tensor for _, tensor in state_leaves(state, ""))


def unflatten(like: Any, tensors: Sequence[Tensor]) -> Any:
    """Return a state of the structure of ``like``; inverse of :func:`flat_state`."""
    rest = iter(tensors)
    return map_state(lambda _: next(rest), like)


class ActingStep(nn.Module):
    """One step of `drama.behaviour.Player`: ``(obs, is_first, state) -> (action, state)``.

    Args:
        player: The agent's.

    Raises:
        ConfigError: Its lookahead samples more latents than are computed at once.
    """

    def __init__(self, player: Player) -> None:
        super().__init__()
        most = LOOKAHEAD_BATCH // player.actions.count
        if player.config.lookahead > most:
            raise ConfigError(
                f"behaviour.lookahead must be at most {most} to export a policy of "
                f"{player.actions.count} actions, got {player.config.lookahead}"
            )
        self.world_model = player.world_model  # registers the weights
        self.policy = cast("nn.Module", player.policy)
        self.player = _GivenNumbers(player.world_model, player.policy, player.config)

    @property
    def state(self) -> PolicyState:
        """State before the first frame."""
        return self.player.init_state(1)

    @property
    def numbers(self) -> int:
        """Uniform numbers that a step takes: for two latents, the lookahead and an action."""
        variables: int = self.world_model.latent_variables
        return (2 + self.player.config.lookahead) * variables + 1

    def forward(
        self, obs: Tensor, is_first: Tensor, uniform: Tensor, greedy: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Choose an action and read it into the state.

        Args:
            obs: Adapted observation, ``(1, ...)``.
            is_first: Whether an episode starts, bool ``(1,)``.
            uniform: Random numbers in [0, 1), float32 ``(numbers,)``.
            greedy: Most probable latents and action, bool ``(1,)``.
            *state: Tensors of the state.

        Returns:
            The action, ``(1,)``, and the tensors of the next state.
        """
        variables, samples = self.world_model.latent_variables, self.player.config.lookahead
        latents = uniform[:-1].view(2 + samples, variables, 1)
        numbers = ActingNumbers(latents[:1], latents[1:2], latents[2:], uniform[-1:].view(1, 1))
        self.player.greedy = greedy
        before = unflatten(self.state, state)
        chosen, after = self.player.act(obs, before, is_first, numbers)
        return chosen, *flat_state(after)


class _GivenNumbers(Player):
    """Acts on given uniform numbers; a tensor decides between sampled and most probable."""

    greedy: Tensor

    def _latent(self, log_probs: Tensor, random: Randomness, latents: Latents) -> Tensor:
        sampled = super()._latent(log_probs, random, "sampled")
        return torch.where(self.greedy, super()._latent(log_probs, random, "mode"), sampled)

    def _action(
        self, features: Tensor, q_values: Tensor | None, random: Randomness, actions: Actions
    ) -> Tensor:
        sampled = super()._action(features, q_values, random, "sampled")
        best = super()._action(features, q_values, random, "argmax")
        return torch.where(self.greedy, best, sampled)


class Encode(nn.Module):
    """Encoder: a sample of the posterior latent of an observation.

    Args:
        player: The agent's.
    """

    def __init__(self, player: Player) -> None:
        super().__init__()
        self.world_model = player.world_model

    def forward(self, obs: Tensor, uniform: Tensor) -> Tensor:
        """Map ``obs`` ``(1, ...)`` and numbers ``(1, variables, 1)`` to the latent ``(1, Z)``."""
        return self.world_model.sample(self.world_model.posterior(obs), uniform)


class DreamStep(nn.Module):
    """One step of a dream, with the policy's view of the state that follows.

    The latent of the state that follows is sampled from the prior, or given: that of a real
    observation in a context, or of a start.

    Args:
        player: The agent's.
    """

    def __init__(self, player: Player) -> None:
        super().__init__()
        self.world_model = player.world_model
        self.policy = cast("Behaviour", player.policy)
        self.imagination = player.imagination

    @property
    def state(self) -> LatentState:
        """State of zeros."""
        policy_state = self.initial(self.world_model)
        stoch = policy_state.deter.new_zeros(1, self.world_model.stoch_size)
        return LatentState(stoch, policy_state.deter, policy_state.dynamics)

    @staticmethod
    def initial(world_model: Any) -> PolicyState:
        """State before the first frame."""
        deter = next(world_model.parameters()).new_zeros(1, world_model.config.dynamics.width)
        return PolicyState(world_model.dynamics.init_state(1), deter)

    def forward(
        self,
        action: Tensor,
        uniform: Tensor,
        temperature: Tensor,
        observed: Tensor,
        observe: Tensor,
        is_first: Tensor,
        *state: Tensor,
    ) -> tuple[Tensor, ...]:
        """Step the dream.

        Args:
            action: ``(1,)`` int64.
            uniform: Random numbers in [0, 1), ``(1, variables, 1)``.
            temperature: Divides the prior's log-probabilities, ``(1,)``; 1 is the model's own.
            observed: Latent of a real observation, ``(1, Z)``.
            observe: Whether ``observed`` is the next latent, bool ``(1,)``.
            is_first: Whether ``observed`` starts an episode, bool ``(1,)``: ``state`` and
                ``action`` are ignored.
            *state: Tensors of a ``LatentState``.

        Returns:
            Observation, reward, termination probability, policy ``(1, A)`` and value ``(1,)``, then
            the tensors of the next state.
        """
        world_model = self.world_model
        before = unflatten(self.state, state)
        deter, dynamics = world_model.step(before.stoch, action, before.dynamics)
        deter = deter.float()
        reward, termination = self.imagination.outcome(deter)
        log_probs = world_model.prior(deter)
        # Relative to the mode, which a low temperature would underflow.
        log_probs = (log_probs - log_probs.amax(dim=-1, keepdim=True)) / temperature
        stoch = world_model.sample(log_probs, uniform)
        stoch = torch.where((observe | is_first).unsqueeze(-1), observed, stoch)
        deter = torch.where(is_first.unsqueeze(-1), 0.0, deter)
        dynamics = where_state(is_first, self.initial(world_model).dynamics, dynamics)
        reward, termination = (torch.where(is_first, 0.0, x) for x in (reward, termination))
        after = LatentState(stoch, deter, dynamics)
        features = self.imagination.features(after)
        policy = self.policy.policy(features).log_probs.exp()
        value = self.policy.value(features)
        obs = world_model.decode(stoch)
        assert isinstance(obs, torch.Tensor)  # see check_exportable
        return obs, reward, termination, policy, value, *flat_state(after)
