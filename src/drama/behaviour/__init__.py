"""What is learnt in the dream: imagination, returns, two behaviours, and acting with them."""

from drama.behaviour.acting import Player
from drama.behaviour.actor_critic import ActorCritic
from drama.behaviour.base import Behaviour
from drama.behaviour.imagination import ImagineStep, imagine, imagine_step
from drama.behaviour.lookahead import policy_features
from drama.behaviour.ppo import PPO, MinibatchPPO
from drama.behaviour.registry import make_behaviour
from drama.behaviour.returns import ReturnScale, continuation_weights, lambda_return

__all__ = [
    "PPO",
    "ActorCritic",
    "Behaviour",
    "ImagineStep",
    "MinibatchPPO",
    "Player",
    "ReturnScale",
    "continuation_weights",
    "imagine",
    "imagine_step",
    "lambda_return",
    "make_behaviour",
    "policy_features",
]
