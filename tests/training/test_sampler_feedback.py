"""A prioritised sampler defined in this file, as another package would add it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import assert_same_run, differences, everything, tiny
from tests.training.tape import Watch
from torch import Tensor

from drama import Agent
from drama.config import ReplayConfig
from drama.files import tensor_like
from drama.ops import dispatch
from drama.registry import SAMPLERS
from drama.replay import Purpose, ReplayBuffer, Sampler
from drama.training.trainer import Trainer


class Prioritised(Sampler):
    """Prioritised replay (Schaul et al., 2016) of the world model's windows.

    The probability of a window is proportional to the square root of its last loss; windows that
    have not been trained on have the largest loss so far.
    """

    wants_losses = True

    def __init__(self, config: ReplayConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.losses = torch.zeros(config.capacity, device=device)

    def scores(self, purpose: Purpose, v: Tensor, b: Tensor) -> Tensor:
        if purpose == "behaviour":
            return torch.zeros_like(v)
        losses = self.losses[: len(v)].to(v.dtype)
        losses = torch.where(v == 0, self.losses.max().clamp_min(1.0), losses)
        return 0.5 * losses.clamp_min(1e-6).log()

    def update(self, slots: Tensor, losses: Tensor) -> None:
        self.losses[slots] = losses

    def state(self) -> dict[str, Tensor]:
        return {"losses": self.losses}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        self.losses.copy_(tensor_like(tensors, "losses", self.losses))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(SAMPLERS.registered, "tested", Prioritised)
    return


def made(**changes: Any) -> Trainer:
    config = tiny({"replay.sampler": "tested", **changes})
    agent = Agent("drama/Catch-v0", config)
    trainer = Trainer(config, agent.env, agent.world_model, agent.behaviour)
    while trainer.step < 24:
        trainer.collect()
    return trainer


def losses(replay: ReplayBuffer) -> Tensor:
    assert isinstance(replay.sampler, Prioritised)
    return replay.sampler.losses


def test_sampler_receives_the_losses_of_its_windows() -> None:
    trainer = made()
    trainer.update("behaviour")
    assert not losses(trainer.replay).any()
    trainer.update("world_model")
    found, seen = losses(trainer.replay), trainer.replay.trained > 0
    assert (found[seen] > 0).all()
    assert not found[~seen].any()
    # Windows of equal length: the loss of the batch is their mean, except for masks.
    loss = trainer.meter.means()["world_model/loss"]
    assert found[seen].mean().item() == pytest.approx(loss, rel=0.1)


def test_windows_of_large_loss_are_sampled_more_often() -> None:
    replay = made().replay
    replay.trained += 1
    losses(replay).fill_(0.01)
    losses(replay)[10] = 100.0
    for seed in range(200):
        replay.sample("world_model", 1, 4, torch.Generator().manual_seed(seed))
    assert replay.trained[10] > 150


def test_a_run_with_feedback_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = tiny({"replay.sampler": "tested"})
    Agent("drama/Catch-v0", config).learn(60, run_dir=tmp_path / "whole")
    Agent("drama/Catch-v0", config).learn(40, run_dir=tmp_path / "parts")
    Agent.load(tmp_path / "parts").learn(20)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", files=False)


def test_feedback_changes_the_sampled_windows(tmp_path: Path) -> None:
    class Forgetful(Prioritised):
        def update(self, slots: Tensor, losses: Tensor) -> None:
            pass

    config = tiny({"replay.sampler": "tested"})
    one = everything(Agent("drama/Catch-v0", config).learn(60), tmp_path / "one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMPLERS.registered, "tested", Forgetful)
        other = everything(Agent("drama/Catch-v0", config).learn(60), tmp_path / "other")
    assert "loop/trained" in differences(one, other)


def test_an_update_with_feedback_does_not_synchronise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_HOSTS", ())
    trainer = made()
    with Watch() as watch:
        trainer.update("world_model")
    assert not watch.looks
