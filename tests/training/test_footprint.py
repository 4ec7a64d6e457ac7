"""What an update of the paper's model asks of a machine, counted rather than timed.

Bounds lie a few percent above what was counted when they were written down. One that is passed
asks a question: does the change deserve its price?
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.training.tape import Watch

from drama import Agent, place, presets
from drama.replay import Purpose
from drama.training.trainer import Trainer

FRAMES = 2 * 64


@pytest.fixture(scope="module")
def made() -> Trainer:
    """A trainer of size XS on Pong with small batches: counts do not depend on them."""
    xs = presets.xs()
    config = dataclasses.replace(
        xs,
        device="cpu",
        replay=dataclasses.replace(xs.replay, capacity=200),
        world_model=dataclasses.replace(xs.world_model, batch_size=2, batch_length=64),
        behaviour=dataclasses.replace(xs.behaviour, batch_size=32),
        training=dataclasses.replace(xs.training, warmup_steps=150, precision="bfloat16"),
    )
    agent = Agent("ALE/Pong-v5", config=config)
    trainer = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    for _ in range(120):
        trainer.collect()
    return trainer


def counted(made: Trainer, purpose: Purpose) -> tuple[int, int]:
    """Operations of one update that compute or copy, and bytes kept for its backward pass."""
    kept: dict[int, int] = {}
    models = (made.world_model, made.behaviour)
    weights = {p.untyped_storage().data_ptr() for model in models for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    made._learn[purpose]()  # what happens once only
    with Watch() as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made._learn[purpose]()
    return watch.launches, sum(kept.values())


@pytest.mark.parametrize(
    ("purpose", "on_cpu", "launches"),
    [
        ("world_model", True, 1170),
        ("world_model", False, 1030),
        ("behaviour", True, 4050),
        ("behaviour", False, 3900),
    ],
)
def test_operations_per_update(
    made: Trainer, purpose: Purpose, on_cpu: bool, launches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on_cpu:
        monkeypatch.setattr(place, "_HOSTS", ())
    found, _ = counted(made, purpose)
    assert 0.8 * launches < found <= launches


def test_an_imagined_step(made: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is repeated horizon times, so it counts most."""
    from drama.behaviour import imagine
    from drama.training.device import autocast

    monkeypatch.setattr(place, "_HOSTS", ())
    context = made.replay.windows(torch.arange(20, 52), 8)
    launches = []
    for horizon in (4, 5):
        with Watch() as watch, autocast(made.device, made.dtype):
            imagine(made.world_model, made.behaviour, context, horizon, None)
        launches.append(watch.launches)
    assert 140 < launches[1] - launches[0] <= 185


def test_bytes_kept_for_the_backward_pass(made: Trainer) -> None:
    _, kept = counted(made, "world_model")
    assert 1.4e6 < kept / FRAMES <= 1.68e6
