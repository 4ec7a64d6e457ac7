"""The random actions with which a run begins."""

from __future__ import annotations

import numpy as np
import pytest
from tests.training.runs import tiny

from drama import Agent
from drama.training.trainer import Trainer


def actions(hold: float, steps: int, seed: int = 0) -> list[int]:
    """What the warm-up does in an environment of three actions."""
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


def test_actions_are_drawn_anew_at_each_step() -> None:
    # And nothing else is: a run of the paper's settings has the numbers it always had.
    rng = np.random.default_rng(3)
    assert actions(1.0, 50, seed=3) == [int(rng.integers(3)) for _ in range(50)]


@pytest.mark.parametrize("hold", [2.5, 8.0])
def test_held_actions_last_as_long_as_was_asked_for(hold: float) -> None:
    taken = np.array(actions(hold, 4000))
    # One draw in three repeats the action, so an action changes at 2/3 of the draws.
    changes = int((np.diff(taken) != 0).sum())
    expected = 4000 / hold * 2 / 3
    assert abs(changes - expected) < 4 * expected**0.5
    assert np.bincount(taken, minlength=3).min() > 900
