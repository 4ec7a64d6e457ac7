"""Random actions of the warm-up."""

from __future__ import annotations

import numpy as np
import pytest
from tests.training.runs import tiny

from drama import Agent
from drama.training.trainer import Trainer


def actions(hold: float, steps: int, seed: int = 0) -> list[int]:
    """Warm-up actions in an environment of three actions."""
    config = tiny(
        {
            "training.random_action_repeat": hold,
            "training.warmup_steps": steps + 1,
            "replay.capacity": steps,
        }
    )
    agent = Agent("drama/Catch-v0", config=config)
    trainer = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    trainer.random.warmup = np.random.default_rng(seed)
    for _ in range(steps):
        trainer.collect()
    return trainer.stream.actions


def test_actions_are_sampled_at_each_step() -> None:
    # Only once per step, so runs with the paper's settings keep their random numbers.
    rng = np.random.default_rng(3)
    assert actions(1.0, 50, seed=3) == [int(rng.integers(3)) for _ in range(50)]


@pytest.mark.parametrize("hold", [2.5, 8.0])
def test_repeated_actions_have_the_configured_mean_length(hold: float) -> None:
    taken = np.array(actions(hold, 4000))
    # One sample in three repeats the action, so it changes at 2/3 of the samples.
    changes = int((np.diff(taken) != 0).sum())
    expected = 4000 / hold * 2 / 3
    assert abs(changes - expected) < 4 * expected**0.5
    assert np.bincount(taken, minlength=3).min() > 900
