"""A world whose every step is written down, beside tiny real models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from tests.behaviour.build import randomise_heads
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import ActorCritic
from drama.config import BehaviourConfig, WorldModelConfig
from drama.dynamics import DynamicsConfig
from drama.types import Batch
from drama.world_model import WorldModel

CLASSES = 7
"""Classes of the scripted world's single latent variable."""


class Count(NamedTuple):
    """State of the scripted world: how many steps it has read, ``(B, 1)``."""

    steps: Tensor


class ScriptedWorld:
    """After latent z and action a: ``d = (z, a, steps read)``, then latent ``(z + a) mod 7``.

    Transition t pays ``10 z_t + a_t`` and ends the episode where ``a_t = 2``. It is deterministic,
    so that what is read a step early or late shows as a wrong number.
    """

    training = False
    actions = ActionSpace(3)
    config = SimpleNamespace(dynamics=SimpleNamespace(width=3))
    stoch_size, latent_variables = CLASSES, 1

    def __init__(self) -> None:
        self.dynamics = SimpleNamespace(
            init_state=lambda batch_size: Count(torch.zeros(batch_size, 1))
        )

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1)

    def posterior(self, obs: Tensor) -> Tensor:
        """The frame's single entry names the class."""
        return self._sure(obs[..., 0].long())

    def prior(self, deter: Tensor) -> Tensor:
        return self._sure((deter[..., 0] + deter[..., 1]).long() % CLASSES)

    def sample(self, log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
        return log_probs.exp().flatten(-2)

    def decode(self, stoch: Tensor) -> Tensor:
        return stoch.argmax(-1, keepdim=True).float()

    def step(
        self, stoch: Tensor, action: Tensor, state: Count, *, inplace: bool = False
    ) -> tuple[Tensor, Count]:
        steps = state.steps + 1
        return torch.stack([stoch.argmax(-1).float(), action.float(), steps[:, 0]], -1), Count(
            steps
        )

    def posterior_of(self, batch: Batch) -> Tensor:
        return self.posterior(batch.obs)

    def observe(self, batch: Batch, generator: torch.Generator | None, posterior: Tensor) -> Any:
        stoch, state, deters = (
            posterior.exp().flatten(-2),
            Count(torch.zeros(len(batch.obs), 1)),
            [],
        )
        for t in range(batch.obs.shape[1]):
            deter, state = self.step(stoch[:, t], batch.action[:, t], state)
            deters.append(deter)
        return SimpleNamespace(
            posterior=posterior, stoch=stoch, deter=torch.stack(deters, 1), state=state
        )

    def reward(self, deter: Tensor) -> Tensor:
        return 10 * deter[..., 0] + deter[..., 1]

    def termination(self, deter: Tensor) -> Tensor:
        return (deter[..., 1] == 2).float()

    @staticmethod
    def _sure(index: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(index, CLASSES).float().log().unsqueeze(-2)


class ScriptedPolicy:
    """Takes the actions it was given, one column per call, and keeps what it saw."""

    def __init__(self, actions: list[list[int]]) -> None:
        self.columns = list(torch.tensor(actions).unbind(1))
        self.seen: list[Tensor] = []

    def act(
        self, features: Tensor, generator: torch.Generator | None, greedy: bool = False
    ) -> tuple[Tensor, Tensor]:
        action = self.columns[len(self.seen)]
        self.seen.append(features)
        return action, torch.full(action.shape, -float(len(self.seen)))


@pytest.fixture
def scripted_world() -> ScriptedWorld:
    """The world above."""
    return ScriptedWorld()


@pytest.fixture
def scripted_policy() -> type[ScriptedPolicy]:
    """The policy above, to be built with its actions."""
    return ScriptedPolicy


@pytest.fixture(scope="session")
def tiny_world() -> Callable[..., WorldModel]:
    """Build a tiny real world model in evaluation mode."""

    def build(dynamics: str = "mamba2", **changes: Any) -> WorldModel:
        torch.manual_seed(0)
        config = WorldModelConfig(
            filters=(4, 6),
            kernel=3,
            stem_stride=2,
            latent_variables=3,
            latent_classes=4,
            head_units=8,
            bins=21,
            bin_limit=5.0,
            dynamics=DynamicsConfig(
                name=dynamics, width=16, layers=2, d_state=4, headdim=8, num_heads=2, context=4
            ),
            **changes,
        )
        model = WorldModel(config, (8, 8, 3), ActionSpace(3))
        model.reward_head.out.reset_parameters()  # else it predicts 0
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        # Sharper latents and priors, so that frames and actions make a difference.
        model.encoder.out.weight.data *= 30
        model.prior_head.weight.data *= 5
        return model.eval()

    return build


@pytest.fixture(scope="session")
def tiny_policy() -> Callable[..., ActorCritic]:
    """Build a tiny actor-critic for the tiny world (features: 12 + 16).

    Its policy is not uniform, nor its value 0, unless ``zero_heads`` is true.
    """

    def build(
        features: int = 28, num_actions: int = 3, zero_heads: bool = False, **changes: Any
    ) -> ActorCritic:
        torch.manual_seed(1)
        sizes: dict[str, Any] = {
            "actor_units": 8,
            "critic_units": 8,
            "bins": 21,
            "bin_limit": 5.0,
        }
        config = BehaviourConfig(**{**sizes, **changes})
        policy = ActorCritic(config, features, ActionSpace(num_actions)).eval()
        if not zero_heads:
            randomise_heads(policy)
        policy.actor.out.weight.data *= 3
        return policy

    return build


@pytest.fixture(scope="session")
def frames() -> Callable[..., Batch]:
    """Build random windows of 8x8 frames without seams."""

    def build(batch: int = 3, length: int = 5, seed: int = 0, **columns: Tensor) -> Batch:
        g = torch.Generator().manual_seed(seed)
        size = (batch, length)
        none = torch.zeros(size, dtype=torch.bool)
        # Frames of one colour each: blocks of noise would look alike to the convolutions.
        colour = torch.randint(0, 256, (*size, 1, 1, 3), generator=g, dtype=torch.uint8)
        made = Batch(
            obs=colour.expand(*size, 8, 8, 3).contiguous(),
            is_first=none,
            action=torch.randint(0, 3, size, generator=g),
            reward=torch.zeros(size),
            terminated=none,
            truncated=none,
            is_last=none,
        )
        return made._replace(**columns)

    return build
