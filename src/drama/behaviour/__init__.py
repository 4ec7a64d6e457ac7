"""What is learnt in the dream: imagination, returns, actor-critic, and acting with them."""

from drama.behaviour.acting import Player
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.imagination import imagine, policy_input
from drama.behaviour.returns import ReturnScale, lambda_return, survival

__all__ = [
    "ActorCritic",
    "Player",
    "ReturnScale",
    "imagine",
    "lambda_return",
    "policy_input",
    "survival",
]
