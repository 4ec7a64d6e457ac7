"""Scheduled updates, and warnings about runs with few or none."""

from __future__ import annotations

from typing import Any

import pytest
from tests.training.faulty_envs import Walk
from tests.training.runs import tiny

from drama import Agent, presets
from drama.training.schedule import shortfall, updates_due


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0), (1000, 0), (1004, 0), (1005, 1), (1250, 50), (5000, 800)]
)
def test_updates_of_quick_match_hand_computed_values(step: int, expected: int) -> None:
    due = updates_due(presets.quick().training, step)
    assert due == {"world_model": expected, "behaviour": expected}


@pytest.mark.parametrize(
    ("changes", "until", "said"),
    [
        (
            {},
            900,
            "nothing will be learnt: the warm-up of random actions takes 1,000 steps "
            "(training.warmup_steps), training ends at step 900",
        ),
        (
            {},
            1003,
            "nothing will be learnt: after the warm-up of 1,000 steps "
            "training.world_model_ratio 0.2 makes no update by step 1,003",
        ),
        (
            {"training.world_model_ratio": 0, "training.behaviour_ratio": 0},
            5000,
            "nothing will be learnt: training.world_model_ratio and training.behaviour_ratio are 0",
        ),
        (
            {"training.behaviour_ratio": 0},
            5000,
            "the policy will not be trained: training.behaviour_ratio is 0",
        ),
        (
            {"training.world_model_ratio": 0},
            5000,
            "the world model will not be trained: training.world_model_ratio is 0",
        ),
        (
            {},
            1100,
            "little will be learnt: by step 1,100 there are only 20 updates of the world model "
            "(its learning rate rises over 50) and 20 updates of the policy "
            "(its learning rate rises over 250)",
        ),
        ({}, 2250, None),
        ({}, 5000, None),
    ],
)
def test_run_with_few_or_no_updates_warns(
    changes: dict[str, Any], until: int, said: str | None
) -> None:
    assert shortfall(presets.quick().override(changes), until) == said


@pytest.mark.parametrize("name", presets.PRESETS)
def test_every_preset_makes_enough_updates(name: str) -> None:
    config = presets.preset(name)
    assert shortfall(config, config.steps) is None


def warnings_of(agent: Agent, *steps: int) -> list[str]:
    found: list[str] = []
    for count in steps:
        agent.learn(count, listeners=[lambda e, p: found.append(p) if e == "warning" else None])
    return found


def test_learn_warns_once_before_and_after_training() -> None:
    reason = "the warm-up of random actions takes 24 steps (training.warmup_steps), training ends"
    agent = Agent(Walk, tiny())
    assert warnings_of(agent, 10, 10, 30) == [
        f"nothing will be learnt: {reason} at step 10",
        f"nothing was learnt: {reason} at step 10",
    ]


def test_run_with_enough_updates_does_not_warn() -> None:
    assert warnings_of(Agent(Walk, tiny()), 40) == []


def test_policy_without_updates_warns() -> None:
    agent = Agent(Walk, tiny({"training.behaviour_ratio": 0}))
    assert warnings_of(agent, 40) == [
        "the policy will not be trained: training.behaviour_ratio is 0",
        "the policy was not trained: training.behaviour_ratio is 0",
    ]
