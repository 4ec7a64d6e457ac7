"""Behaviours by their names in the configuration."""

from __future__ import annotations

from drama.actions import ActionSpace
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.ppo import PPO, MinibatchPPO
from drama.config import AlgorithmName, BehaviourConfig

BEHAVIOURS: dict[AlgorithmName, type[Behaviour]] = {"actor-critic": ActorCritic, "ppo": PPO}
"""Behaviours by name; ``ppo`` without ``recompute_advantages`` is `MinibatchPPO`."""


def make_behaviour(config: BehaviourConfig, features: int, actions: ActionSpace) -> Behaviour:
    """Build the behaviour that ``config.algorithm`` names.

    Args:
        config: Algorithm, sizes and coefficients.
        features: Size F of the policy features ``concat(z_t, d_{t-1})``.
        actions: The action space.
    """
    kind = BEHAVIOURS[config.algorithm]
    if kind is PPO and not config.ppo.recompute_advantages:
        kind = MinibatchPPO
    return kind(config, features, actions)
