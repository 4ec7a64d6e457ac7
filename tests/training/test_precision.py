"""bfloat16 matrix work against float32, over updates on real frames."""

from __future__ import annotations

from typing import Any

import torch
from tests.training.runs import tiny
from tests.training.test_static_updates import PURPOSES

from drama import Agent
from drama.training.trainer import Trainer

UPDATES = 50
PONG: dict[str, Any] = {
    "replay.capacity": 500,
    "world_model.filters": (8, 16, 16, 16),
    "world_model.kernel": 5,
    "world_model.latent_variables": 16,
    "world_model.latent_classes": 16,
    "world_model.batch_length": 16,
    "world_model.dynamics.width": 128,
    "world_model.dynamics.headdim": 64,
    "training.warmup_steps": 400,
}


def learnt(precision: str) -> dict[str, torch.Tensor]:
    """Make 50 updates of each kind on 300 frames of Pong; return every number of the log."""
    config = tiny({**PONG, "training.precision": precision})
    agent = Agent("ALE/Pong-v5", config=config, seed=0)
    made = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    for _ in range(300):
        made.collect()
    rows: dict[str, list[torch.Tensor]] = {}
    for _ in range(UPDATES):
        for purpose in PURPOSES:
            for name, value in made.learner.update(purpose).items():
                rows.setdefault(f"{purpose}/{name}", []).append(value)
    return {name: torch.stack(values) for name, values in rows.items()}


def test_bfloat16_learns_like_float32_over_fifty_updates() -> None:
    exact, rounded = learnt("float32"), learnt("bfloat16")
    assert exact.keys() == rounded.keys()
    # Compare after training, where the losses have changed much.
    loss = exact["world_model/loss"]
    assert loss[-1] < 0.5 * loss[0]
    assert not torch.equal(loss, rounded["world_model/loss"])
    torch.testing.assert_close(rounded["world_model/loss"], loss, rtol=5e-3, atol=0.0)
    for name, values in exact.items():
        # Once rounding changes a sampled latent the two diverge, the KL most of all.
        found, expected = rounded[name][-25:].mean(), values[-25:].mean()
        torch.testing.assert_close(found, expected, rtol=0.15, atol=2e-3, msg=name)
