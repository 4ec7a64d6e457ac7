"""An intrinsic reward: actor and critic are trained on it, nothing else sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import tiny
from torch import Tensor

from drama import Agent, DreamEnv
from drama.behaviour import ActorCritic, Imagination
from drama.registry import BEHAVIOURS
from drama.types import Batch
from drama.world_model import WorldModel


class Curious(ActorCritic):
    """Pays 1000 more for each step after which the first feature of ``d_t`` is positive."""

    def intrinsic_reward(self, world_model: WorldModel, deter: Tensor, features: Tensor) -> Tensor:
        assert deter.shape[:-1] == features.shape[:-1]
        return 1000.0 * (deter[..., 0] > 0).float()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> Agent:
    monkeypatch.setitem(BEHAVIOURS.registered, "curious", Curious)
    return Agent("drama/Catch-v0", tiny({"behaviour.algorithm": "curious"}))


@pytest.mark.parametrize("gradient", ["sampled", "all-actions"])
def test_rollouts_and_q_values_have_it(
    tiny_world: Callable[..., WorldModel],
    tiny_policy: Callable[..., ActorCritic],
    frames: Callable[..., Batch],
    gradient: Any,
) -> None:
    world, policy = tiny_world(), tiny_policy(actor_gradient=gradient)

    def bonus(model: WorldModel, deter: Tensor, features: Tensor) -> Tensor:
        assert model is world
        return deter[..., 1] + features[..., 0]

    plain, rewarded = (
        Imagination(world, policy, policy.config, intrinsic).rollout(
            frames(), torch.Generator().manual_seed(0)
        )
        for intrinsic in (None, bonus)
    )
    assert torch.equal(plain.features, rewarded.features)
    assert torch.equal(plain.action, rewarded.action)
    deter = rewarded.features[:, 1:, -16:]  # d_t: the context "previous"
    added = bonus(world, deter, rewarded.features[:, 1:])
    assert added.abs().min() > 0
    torch.testing.assert_close(rewarded.reward, plain.reward + added)
    if gradient == "all-actions":
        assert rewarded.q_values is not None
        assert plain.q_values is not None
        taken = (rewarded.q_values - plain.q_values).gather(-1, plain.action.unsqueeze(-1))
        torch.testing.assert_close(taken.squeeze(-1), added, atol=1e-4, rtol=1e-4)


def test_training_sees_it_and_acting_does_not(agent: Agent, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    agent.learn(
        40,
        run_dir=tmp_path / "run",
        listeners=[lambda event, payload: rows.append(payload) if event == "metrics" else None],
    )
    assert max(row.get("behaviour/reward", 0.0) for row in rows) > 100
    # Rewards of Catch are -1, 0 and 1.
    assert abs(agent.evaluate(4).mean) <= 1
    env = DreamEnv(agent)
    env.reset(seed=0)
    deters = []
    for t in range(10):
        _, reward, *_ = env.step(t % 3)
        assert abs(reward) < 100
        assert env._state is not None
        deters.append(env._state.deter)
    deter = torch.cat(deters)
    assert agent.behaviour.intrinsic_reward(agent.world_model, deter, deter).max() == 1000
    assert agent.player.imagination.intrinsic_reward is None
    Agent.load(tmp_path / "run").learn(5)
