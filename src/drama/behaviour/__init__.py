"""Policy learning in imagination: rollouts, returns, algorithms and acting."""

from typing import TYPE_CHECKING

from drama.lazy import lazy

if TYPE_CHECKING:
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

if not TYPE_CHECKING:
    # On first use: the settings of this package need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.behaviour.acting": ("Player",),
            "drama.behaviour.actor_critic": ("ActorCritic",),
            "drama.behaviour.base": ("Behaviour",),
            "drama.behaviour.imagination": ("DreamStep", "dream_step", "imagine"),
            "drama.behaviour.outlook": ("policy_input",),
            "drama.behaviour.ppo": ("PPO", "MinibatchPPO"),
            "drama.behaviour.registry": ("make_behaviour",),
            "drama.behaviour.returns": ("ReturnScale", "lambda_return", "survival"),
        },
    )
