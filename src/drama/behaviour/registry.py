"""The behaviours by the names that the configuration knows."""

from __future__ import annotations

from drama.actions import ActionSpace
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.ppo import PPO, MinibatchPPO
from drama.config import AlgorithmName, BehaviourConfig

BEHAVIOURS: dict[AlgorithmName, type[Behaviour]] = {"actor-critic": ActorCritic, "ppo": PPO}
"""Every behaviour by its name."""


def make_behaviour(config: BehaviourConfig, features: int, actions: ActionSpace) -> Behaviour:
    """Build the behaviour that ``config.algorithm`` names.

    Args:
        config: Which one, sizes and coefficients.
        features: Size of the policy's input ``concat(latent_t, d_{t-1})``.
        actions: The action space.
    """
    kind = BEHAVIOURS[config.algorithm]
    if kind is PPO and not config.ppo.recompute_advantages:
        kind = MinibatchPPO
    return kind(config, features, actions)
