"""Trajectories dreamt by the world model under the current policy."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from drama.dynamics import where_state
from drama.types import Batch, Rollout
from drama.world_model import WorldModel


class Policy(Protocol):
    """What imagination and acting need of a behaviour."""

    def act(
        self, features: Tensor, generator: torch.Generator | None, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Choose actions ``(B,)`` and their log-probabilities for features ``(B, F)``."""
        ...


def policy_input(stoch: Tensor, deter: Tensor) -> Tensor:
    """``concat(latent_t, d_{t-1})``: what the policy sees, real or dreamt."""
    return torch.cat([stoch, deter], dim=-1)


@torch.no_grad()
def imagine(
    world_model: WorldModel,
    policy: Policy,
    context: Batch,
    horizon: int,
    generator: torch.Generator | None,
    *,
    start_at_episode_starts: bool = True,
) -> Rollout:
    """Read ``context`` in parallel, then act for ``horizon`` steps on predicted latents.

    The first imagined state follows the last context row ``t``: latent ``z ~ p(. | d_t)``
    beside ``d_t``. Where row ``t`` itself is the first of an episode and
    ``start_at_episode_starts`` is set, imagination begins at that row instead, with its
    posterior latent, ``d = 0`` and a fresh state: exactly what the agent meets when it acts on
    a new episode's first frame.

    Rollouts do not stop at an imagined end; ``termination`` says where it would have been.
    No gradient flows: the actor's is a score-function gradient, computed by the behaviour.

    Args:
        world_model: Expected in evaluation mode.
        policy: Chooses actions.
        context: ``(B, C)`` windows whose last row still has a future.
        horizon: Number ``H`` of imagined actions.
        generator: Source of randomness.
        start_at_episode_starts: See above.
    """
    seen = world_model.observe(context, generator)
    deter, state = seen.deter[:, -1].float(), seen.state
    stoch = world_model.sample(world_model.prior(deter), generator)  # (B, Z)
    if start_at_episode_starts:
        fresh = context.is_first[:, -1]  # (B,)
        stoch = torch.where(fresh.unsqueeze(-1), seen.stoch[:, -1], stoch)
        deter = deter.masked_fill(fresh.unsqueeze(-1), 0.0)
        initial = world_model.dynamics.init_state(fresh.shape[0])
        state = where_state(fresh, initial, state)

    features, actions, log_probs, deters = [policy_input(stoch, deter)], [], [], []
    for _ in range(horizon):
        action, log_prob = policy.act(features[-1], generator)
        deter, state = world_model.step(stoch, action, state)
        deter = deter.float()
        stoch = world_model.sample(world_model.prior(deter), generator)
        actions.append(action)
        log_probs.append(log_prob)
        deters.append(deter)
        features.append(policy_input(stoch, deter))

    after = torch.stack(deters, dim=1)  # (B, H, D): d_t, after action t
    return Rollout(
        features=torch.stack(features, dim=1),
        action=torch.stack(actions, dim=1),
        log_prob=torch.stack(log_probs, dim=1),
        reward=world_model.reward(after),
        termination=world_model.termination(after),
    )
