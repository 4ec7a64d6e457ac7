"""Imagination, returns, actor-critic and PPO, and acting with them."""

from drama.behaviour.acting import Player
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.imagination import Imagination, LatentState, policy_features
from drama.behaviour.ppo import PPO, MinibatchPPO
from drama.behaviour.registry import make_behaviour
from drama.behaviour.returns import ReturnScale, continuation_weights, lambda_return

__all__ = [
    "PPO",
    "ActorCritic",
    "Behaviour",
    "Imagination",
    "LatentState",
    "MinibatchPPO",
    "Player",
    "ReturnScale",
    "continuation_weights",
    "lambda_return",
    "make_behaviour",
    "policy_features",
]
