"""Running moments in whole runs: moved by training alone, saved, and restored by a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import assert_same_run, tiny
from torch import Tensor

from drama import Agent

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "policy input": (
        env_id(Walk),
        {"behaviour.standardise_input": True, "behaviour.lookahead": 2},
    ),
    "vectors": (env_id(Walk), {"world_model.standardise_obs": True}),
    "images": (
        "drama/Catch-v0",
        {"world_model.standardise_obs": True, "world_model.image_loss": "cross-entropy"},
    ),
}


def moments(agent: Agent) -> dict[str, Tensor]:
    parts = {**agent.world_model.state_dict(), **agent.behaviour.state_dict()}
    found = {k: t.clone() for k, t in parts.items() if "moments." in k or "standardise." in k}
    assert found
    return found


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[k]) for k, t in a.items())


@pytest.mark.parametrize("case", CASES)
def test_evaluation_keeps_the_moments_and_a_resumed_run_is_the_same(
    case: str, tmp_path: Path
) -> None:
    env, changes = CASES[case]
    config = tiny(changes)
    whole = Agent(env, config)
    whole.learn(60, run_dir=tmp_path / "whole")
    assert all(bool(t) for k, t in moments(whole).items() if k.endswith("started"))
    part = Agent(env, config)
    part.learn(40, run_dir=tmp_path / "part")
    before = moments(part)
    part.evaluate(2)
    assert equal(moments(part), before)
    loaded = Agent.load(tmp_path / "part")
    assert equal(moments(loaded), before)
    loaded.learn(20)
    assert not equal(moments(loaded), before)
    assert_same_run(tmp_path / "whole", tmp_path / "part")
