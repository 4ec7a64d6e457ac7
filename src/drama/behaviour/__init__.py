"""Policy learning in imagination: rollouts, returns, algorithms and acting."""

from typing import TYPE_CHECKING

from drama.attributes import lazy

if TYPE_CHECKING:
    from drama.behaviour.acting import Player
    from drama.behaviour.actor_critic import ActorCritic
    from drama.behaviour.base import Behaviour
    from drama.behaviour.imagination import Imagination, policy_features
    from drama.behaviour.imagined import LatentState
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

if not TYPE_CHECKING:
    # On first use: the settings of this package need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.behaviour.acting": ("Player",),
            "drama.behaviour.actor_critic": ("ActorCritic",),
            "drama.behaviour.base": ("Behaviour",),
            "drama.behaviour.imagination": ("Imagination", "policy_features"),
            "drama.behaviour.imagined": ("LatentState",),
            "drama.behaviour.ppo": ("PPO", "MinibatchPPO"),
            "drama.behaviour.registry": ("make_behaviour",),
            "drama.behaviour.returns": ("ReturnScale", "continuation_weights", "lambda_return"),
        },
    )
