"""Behaviours that are not trivial, imagination and players with single settings changed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from drama.behaviour import ActorCritic, Behaviour, Imagination, LatentState, Player
from drama.behaviour.imagined import Successors
from drama.config import BehaviourConfig
from drama.types import Batch, Rollout


def randomise_heads(model: Behaviour) -> None:
    """Replace the zeros of the output layers: no uniform policy, no value of 0."""
    for head in (model.actor, model.critic):
        head.out.reset_parameters()
    if isinstance(model, ActorCritic):
        model.slow_critic.load_state_dict(model.critic.state_dict())


def imagine(
    world: Any, policy: Any, context: Batch, horizon: int, generator: Any, **settings: Any
) -> Rollout:
    """Return a rollout; keywords are settings of the behaviour."""
    config = BehaviourConfig(horizon=horizon, **settings)
    return Imagination(world, policy, config).rollout(context, generator)


def player(
    world: Any,
    policy: Any,
    latent: Any = "prior",
    context: Any = "previous",
    lookahead: int = 0,
) -> Player:
    """Return a player with these settings."""
    config = BehaviourConfig(policy_latent=latent, policy_context=context, lookahead=lookahead)
    return Player(world, policy, config)


def one_step_q(
    world: Any,
    value: Any,
    stoch: Tensor,
    dynamics: Any,
    random: Any,
    context: Any = "previous",
    samples: int = 1,
) -> Successors:
    """Return the successors of latents ``(B, Z)``, valued by the function ``value``."""
    policy: Any = SimpleNamespace(one_step_return=value)
    imagination = Imagination(world, policy, BehaviourConfig(policy_context=context))
    state = LatentState(stoch, torch.zeros(len(stoch), 0), dynamics)
    return imagination.one_step_q(state, random, samples)
