"""A world model small enough to check by hand, and windows to feed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from drama.actions import ActionSpace
from drama.config import WorldModelConfig
from drama.dynamics import DynamicsConfig
from drama.observations import ObsSpace
from drama.types import Batch
from drama.world_model import WorldModel

SIZES: dict[str, Any] = {
    "filters": (4, 6),
    "kernel": 3,
    "stem_stride": 2,
    "vector_units": 8,
    "latent_variables": 3,
    "latent_classes": 4,
    "head_units": 8,
    "bins": 21,
    "bin_limit": 5.0,
}


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., WorldModelConfig]:
    """Build a tiny configuration; keywords override its fields."""

    def build(dynamics: str = "mamba2", **changes: Any) -> WorldModelConfig:
        sizes = DynamicsConfig(
            name=dynamics, width=16, layers=1, d_state=4, headdim=8, chunk_size=4, num_heads=2
        )
        return WorldModelConfig(**{**SIZES, "dynamics": sizes, **changes})

    return build


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., WorldModelConfig]) -> Callable[..., WorldModel]:
    """Build a tiny world model in evaluation mode, its BatchNorm statistics not trivial.

    Its reward head predicts 0 at first unless ``zero_heads`` is false.
    """

    def build(
        obs_shape: tuple[int, ...] = (8, 8, 3),
        num_actions: int = 3,
        zero_heads: bool = True,
        **changes: Any,
    ) -> WorldModel:
        image = len(obs_shape) == 3
        observations = (ObsSpace.image if image else ObsSpace.vector)(*obs_shape)
        torch.manual_seed(0)
        model = WorldModel(tiny_config(**changes), observations, ActionSpace(num_actions))
        if not zero_heads:  # one that predicts rewards
            model.reward_head.out.reset_parameters()
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """Build random windows without seams; keywords replace whole columns."""

    def build(
        batch: int = 2,
        length: int = 6,
        obs_shape: tuple[int, ...] = (8, 8, 3),
        num_actions: int = 3,
        seed: int = 0,
        **columns: torch.Tensor,
    ) -> Batch:
        g = torch.Generator().manual_seed(seed)
        size = (batch, length)
        if len(obs_shape) == 3:
            obs = torch.randint(0, 256, (*size, *obs_shape), generator=g, dtype=torch.uint8)
        else:
            obs = torch.randn((*size, *obs_shape), generator=g)
        none = torch.zeros(size, dtype=torch.bool)
        made = Batch(
            obs=obs,
            is_first=none,
            action=torch.randint(0, num_actions, size, generator=g),
            reward=torch.randn(size, generator=g),
            terminated=none,
            truncated=none,
            is_last=none,
        )
        return made._replace(**columns)

    return build
