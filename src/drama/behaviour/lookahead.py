"""What every action promises, taken or not: the world model asked about each, one step ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from drama.config import PolicyContext
from drama.dynamics import map_state
from drama.world_model import WorldModel
from drama.world_model.latent import Randomness, uniform_numbers

OneStepReturn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From features, reward and termination; see `Behaviour.one_step_return`."""


ROWS_AT_ONCE = 1024
"""Futures drawn together, times rows and actions: few rows are all overhead, many all memory."""


class Successors(NamedTuple):
    """What follows each of ``A`` actions on ``B`` rows, those of one row side by side."""

    observed: Tensor
    """What the policy sees next, in the last of the futures drawn: ``(B A, Z + D)``."""
    deter: Tensor
    """``d_t`` after the action, float32: ``(B A, D)``."""
    state: Any
    """State of the sequence model after it."""
    q_values: Tensor
    """What the action promises, a mean over the futures drawn: ``(B, A)``."""


def policy_features(stoch: Tensor, memory: Tensor) -> Tensor:
    """``concat(latent_t, d_{t-1})``, or what the latent calls to mind: what the policy sees."""
    return torch.cat([stoch, memory], dim=-1)


def features_of(
    world_model: WorldModel, stoch: Tensor, deter: Tensor, state: Any, memory: PolicyContext
) -> Tensor:
    """What the policy sees of a latent ``(B, Z)``, where ``deter`` and ``state`` are before it."""
    if memory == "current":
        deter = world_model.null_action_output(stoch, state).float()
    return policy_features(stoch, deter)


def one_step_q(
    world_model: WorldModel,
    stoch: Tensor,
    state: Any,
    random: Randomness,
    memory: PolicyContext,
    one_step_return: OneStepReturn,
    futures: int = 1,
) -> Successors:
    """Take every action and value what comes of it.

    The actions of a row meet with the same luck: the latents that follow them are drawn with the
    same uniform numbers. So what differs between them is what they do, where the model takes it to
    matter, and a single future tells a difference that independent draws would bury in noise.

    Args:
        world_model: In evaluation mode.
        stoch: Latents acted on, ``(B, Z)``.
        state: Of the sequence model before the action; it is left as it is.
        random: Source of randomness; the numbers themselves are enough for one future only.
        memory: What the policy sees beside the latent.
        one_step_return: Values what follows.
        futures: Latents drawn after each action.
    """
    batch, count = len(stoch), world_model.num_actions

    def repeated(x: Tensor) -> Tensor:
        return x.repeat_interleave(count, dim=0)

    action = torch.arange(count, device=stoch.device).repeat(batch)
    before = map_state(repeated, state)
    deter, after = world_model.step(repeated(stoch), action, before, inplace=True)
    deter = deter.float()
    prior, variables = world_model.prior(deter), world_model.config.latent_variables
    reward, termination = world_model.reward(deter), world_model.termination(deter)
    worth = torch.zeros_like(reward)
    at_once = min(futures, max(1, ROWS_AT_ONCE // (batch * count)))
    for begin in range(0, futures, at_once):
        share = min(at_once, futures - begin)

        def several(x: Tensor, share: int = share) -> Tensor:
            return x if share == 1 else x.repeat(share, *[1] * (x.dim() - 1))

        numbers = random
        if not isinstance(numbers, Tensor):
            numbers = uniform_numbers((share * batch, variables), deter, numbers)
        following = world_model.sample(several(prior), repeated(numbers))
        # The state is large, and only the current memory looks at it.
        reached = map_state(several, after) if memory == "current" else after
        observed = features_of(world_model, following, several(deter), reached, memory)
        found = one_step_return(observed, several(reward), several(termination))
        worth = worth + found.view(share, batch * count).sum(dim=0)
    observed = observed[-batch * count :]
    return Successors(observed, deter, after, worth.view(batch, count) / futures)
