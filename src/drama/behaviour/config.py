"""Settings of the policy and its training in imagination."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from drama.registry import BEHAVIOURS
from drama.training.config import OptimConfig
from drama.validation import Section, fraction, learning, positive, require
from drama.world_model.config import TwoHotDecode, check_bins

PolicyLatent = Literal["prior", "posterior"]
PolicyContext = Literal["previous", "current"]
ActorGradient = Literal["sampled", "all-actions"]
Latents = Literal["sampled", "mode"]


@dataclass(frozen=True)
class PPOConfig(Section):
    """Settings of PPO alone; discount, lambda and entropy bonus are the behaviour's."""

    clip: float = learning(0.2)
    """Clipping range of the probability ratio around 1, in (0, 1)."""
    epochs: int = learning(4, most=10_000)
    """Passes over each rollout."""
    minibatches: int = learning(4, most=2**24)
    """Gradient steps per epoch, on shuffled single actions; 1 with recompute_advantages."""
    recompute_advantages: bool = learning(False)
    """Recompute returns and advantages each epoch, with a slow critic (as in the public code)."""

    def _check(self) -> None:
        section = "behaviour.ppo"
        require(0 < self.clip < 1, f"{section}.clip must lie in (0, 1), got {self.clip}")
        positive(section, epochs=self.epochs, minibatches=self.minibatches)
        require(
            self.minibatches == 1 or not self.recompute_advantages,
            f"{section}: recompute_advantages needs minibatches 1, got {self.minibatches}; "
            "turn it off for more",
        )


@dataclass(frozen=True)
class BehaviourConfig(Section):
    """The policy and its training in imagination."""

    algorithm: str = learning("actor-critic")
    """``actor-critic`` (after DreamerV3, the paper's), ``ppo``, or another registered behaviour."""
    layers: int = learning(2, most=64)
    """Hidden layers of actor and critic (2 in the paper, 3 in the public code)."""
    actor_units: int = learning(256, most=2**16)
    """Width of the actor's layers."""
    critic_units: int = learning(512, most=2**16)
    """Width of the critic's layers."""
    policy_latent: PolicyLatent = learning("prior")
    """Latent for actions in the real environment: ``prior`` sample (paper) or ``posterior``."""
    policy_context: PolicyContext = learning("previous")
    """Policy input beside the latent: ``previous``, ``d_{t-1}`` (paper), or ``current``.

    ``current`` is the sequence-model output for the current latent with a null action; it costs a
    second step of the sequence model.
    """
    lookahead: int = learning(0)
    """Samples per action for one-step lookahead when acting, up to 1024; 0 = off (paper).

    It helps on MinAtar and hurts on Boxing, Pong and Sparse (docs/results.md).
    """
    batch_size: int = learning(1024, most=2**24)
    """Imagined trajectories per update."""
    context: int = learning(8, most=2**20)
    """Replayed steps read before imagination begins."""
    horizon: int = learning(16, most=2**20)
    """Imagined steps per trajectory."""
    gamma: float = learning(0.985)
    """Discount per agent step, in [0, 1]."""
    lambda_: float = learning(0.95)
    """Mixing weight of the lambda-return, in [0, 1]."""
    entropy: float = learning(3e-4)
    """Weight of the entropy bonus."""
    return_decay: float = learning(0.99)
    """Decay of the running return percentiles that scale advantages, in [0, 1]."""
    min_return_scale: float = learning(1.0)
    """Smallest divisor of the advantages; paper: 1.

    With returns far below it, the entropy bonus outweighs the advantages.
    """
    actor_gradient: ActorGradient = learning("sampled")
    """Actor loss over ``sampled`` actions (paper) or ``all-actions`` with one-step Q-values.

    ``all-actions`` has less variance and steps the world model once per action.
    """
    slow_decay: float = learning(0.98)
    """Decay of the slow critic's moving average, in [0, 1]."""
    bins: int = learning(255, most=2**16)
    """Two-hot bins of the critic over symlog space (odd)."""
    bin_limit: float = learning(20.0)
    """The bins span [-bin_limit, bin_limit] in symlog space."""
    twohot_decode: TwoHotDecode = learning("symexp-mean")
    """Expected return: symexp of the mean bin (public code) or mean of symexp (DreamerV3)."""
    standardise_input: bool = learning(False)
    """Standardise the input of actor and critic by running moments, clip ±10 (public code)."""
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(grad_clip=100.0))
    """Optimiser of actor and critic together."""
    ppo: PPOConfig = field(
        default_factory=lambda: PPOConfig(epochs=3, minibatches=1, recompute_advantages=True)
    )
    """Settings of ``ppo`` alone; the default is the public code's form."""

    def _check(self) -> None:
        section = "behaviour"
        BEHAVIOURS.check(self.algorithm, "behaviour.algorithm")
        positive(
            section,
            layers=self.layers,
            actor_units=self.actor_units,
            critic_units=self.critic_units,
            batch_size=self.batch_size,
            context=self.context,
            horizon=self.horizon,
            bin_limit=self.bin_limit,
            min_return_scale=self.min_return_scale,
        )
        fraction(
            section,
            gamma=self.gamma,
            lambda_=self.lambda_,
            return_decay=self.return_decay,
            slow_decay=self.slow_decay,
        )
        require(
            0 <= self.lookahead <= 1024,
            f"{section}.lookahead must lie in [0, 1024], got {self.lookahead}",
        )
        require(
            self.algorithm == "actor-critic" or self.actor_gradient == "sampled",
            f"{section}.actor_gradient {self.actor_gradient!r} is for actor-critic, not for "
            f"{self.algorithm}, which learns from the actions that were sampled",
        )
        require(
            self.algorithm != "ppo" or self.ppo.minibatches <= self.batch_size * self.horizon,
            f"{section}.ppo.minibatches must not exceed the imagined actions, batch_size * horizon "
            f"= {self.batch_size * self.horizon}, got {self.ppo.minibatches}",
        )
        check_bins(section, self.bins, self.bin_limit, self.twohot_decode)
