"""What is learnt in the dream: imagination, returns, two behaviours, and acting with them."""

from drama.behaviour.acting import Player
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.imagination import DreamStep, dream_step, imagine
from drama.behaviour.outlook import policy_input
from drama.behaviour.ppo import PPO, MinibatchPPO
from drama.behaviour.registry import make_behaviour
from drama.behaviour.returns import ReturnScale, lambda_return, survival

__all__ = [
    "PPO",
    "ActorCritic",
    "Behaviour",
    "DreamStep",
    "MinibatchPPO",
    "Player",
    "ReturnScale",
    "dream_step",
    "imagine",
    "lambda_return",
    "make_behaviour",
    "policy_input",
    "survival",
]
