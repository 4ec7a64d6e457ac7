"""Open-loop prediction from a context under recorded actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from drama.behaviour import ActorCritic, Imagination
from drama.config import BehaviourConfig
from drama.types import Batch
from drama.world_model import WorldModel


@pytest.mark.parametrize("context", [1, 2])
def test_open_loop_predicts_from_recorded_actions(
    scripted_world: Any, scripted_policy: Any, context: int
) -> None:
    obs = torch.tensor([[[3.0], [4.0]], [[1.0], [6.0]]])
    action = torch.tensor([[1, 0, 2, 1], [0, 2, 1, 0]])
    policy = scripted_policy([[0], [0]])
    imagination = Imagination(scripted_world, policy, BehaviourConfig())
    found = imagination.open_loop(obs[:, :context], action, None)
    # Row 0 reads 3 and 4. After z = 4, a = 0 the latent stays 4, then a = 2 moves it to 6.
    # Row 1 reads 1 and 6. After z = 6, a = 2 it is 1, then 2. From the first frame alone it stays
    # 1 after a = 0, is 3 after a = 2 and 4 after a = 1.
    latents = [[4, 6], [1, 2]] if context == 2 else [[4, 4, 6], [1, 3, 4]]
    # Transition t pays 10 z_t + a_t, and a = 2 ends the episode.
    rewards = [[42, 61], [11, 20]] if context == 2 else [[40, 42, 61], [12, 31, 40]]
    ends = [[1, 0], [0, 0]] if context == 2 else [[0, 1, 0], [1, 0, 0]]
    assert found.obs.squeeze(-1).tolist() == latents
    assert found.reward.tolist() == rewards
    assert found.termination.tolist() == ends
    assert not policy.seen


@pytest.mark.parametrize("dynamics", ["mamba2", "mamba1", "gru", "transformer"])
def test_open_loop_of_a_real_model(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    dynamics: str,
) -> None:
    world, batch = tiny_world(dynamics), frames(3, 5)
    imagination = Imagination(world, tiny_policy(), BehaviourConfig())
    found = imagination.open_loop(batch.obs[:, :4], batch.action, torch.Generator().manual_seed(0))
    assert found.obs.shape == (3, 1, 8, 8, 3)
    assert found.obs.dtype == torch.uint8
    # One step after the context is the prior of a window read in parallel.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        seen = world.observe(Batch(*(c if c is None else c[:, :4] for c in batch)), generator)
        stoch = world.sample(world.prior(seen.deter[:, -1]), generator)
        deter, _ = world.step(stoch, batch.action[:, 4], seen.state)
    assert (found.obs[:, 0].int() - world.decode(stoch).int()).abs().max() <= 1
    torch.testing.assert_close(found.reward[:, 0], world.reward(deter))
    torch.testing.assert_close(found.termination[:, 0], world.termination(deter))
