"""Updates as an accelerator makes them: they look at no number, and can be recorded and repeated.

The code paths of an accelerator run here on the CPU (see `drama.ops.dispatch`), so that their
numbers can be compared with those of the CPU's own paths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.training.runs import tiny
from tests.training.tape import Tape, Watch

from drama.agent import Agent
from drama.ops import dispatch
from drama.replay import Purpose
from drama.ssm import reference
from drama.training.trainer import Trainer
from drama.types import Transition

ROWS = 40


PURPOSES: tuple[Purpose, ...] = ("world_model", "behaviour")
BACKBONES = ["mamba2", "mamba1", "transformer", "gru"]
ALGORITHMS = ["actor-critic", "ppo"]
RECOMPUTED: dict[str, Any] = {
    "behaviour.algorithm": "ppo",
    "behaviour.ppo.minibatches": 1,
    "behaviour.ppo.recompute_advantages": True,
    "behaviour.standardise_input": True,
    "behaviour.twohot_decode": "mean-symexp",
    "world_model.twohot_decode": "mean-symexp",
}


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_HOSTS", ())


def trainer(**changes: Any) -> Trainer:
    """Return a trainer whose replay holds some episodes."""
    agent = Agent("drama/Catch-v0", config=tiny(changes))
    made = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    rng = np.random.default_rng(0)
    shape = made.replay.columns["obs"].shape[1:]
    for g in range(ROWS):
        made.replay.append(
            Transition(
                obs=rng.integers(0, 256, tuple(shape), dtype=np.uint8),
                is_first=g % 9 == 0,
                action=int(rng.integers(3)),
                reward=float(rng.normal()),
                terminated=g % 9 == 7,
                truncated=False,
                is_last=g % 9 == 8,
            )
        )
    return made


def learn(made: Trainer, purpose: Purpose) -> dict[str, torch.Tensor]:
    return made.learner.update(purpose)


def state(made: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor that an update may change."""
    tensors = {
        f"{file}/{name}": tensor.clone()
        for part in made.parts.values()
        for file, content in part.state().items()
        for name, tensor in content.items()
        if file != "state"
    }
    for name, optimiser in made.learner.optimisers.items():
        tensors[f"{name} updates"] = torch.tensor(optimiser.updates)
    return tensors


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("sampler", ["dfs", "dfs-trained"])
def test_an_update_looks_at_no_number(backbone: str, algorithm: str, sampler: str) -> None:
    made = trainer(
        **{
            "world_model.dynamics.name": backbone,
            "behaviour.algorithm": algorithm,
            "replay.sampler": sampler,
        }
    )
    for purpose in PURPOSES:
        with Watch() as watch:
            learn(made, purpose)
        assert not watch.looks
        assert watch.launches > 100  # it saw the backward pass too


@pytest.mark.usefixtures("accelerator")
def test_nor_does_one_of_frames_moved_and_weighted() -> None:
    made = trainer(**{"replay.random_shift": (1, 1), "world_model.motion_weight": 10.0})
    with Watch() as watch:
        learn(made, "world_model")
    assert not watch.looks


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_nor_does_one_that_asks_about_every_action(backbone: str) -> None:
    made = trainer(
        **{"world_model.dynamics.name": backbone, "behaviour.actor_gradient": "all-actions"}
    )
    with Watch() as watch:
        learn(made, "behaviour")
    assert not watch.looks


@pytest.mark.usefixtures("accelerator")
def test_nor_does_one_with_running_moments_of_the_input() -> None:
    made = trainer(**RECOMPUTED)
    with Watch() as watch:
        learn(made, "behaviour")
    assert not watch.looks


def test_the_watch_sees_a_look() -> None:
    """On the CPU's own path an update does look: the test above can fail."""
    with Watch() as watch:
        learn(trainer(), "world_model")
    assert "aten::_local_scalar_dense" in watch.looks


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"world_model.dynamics.name": "mamba1"},
        {"behaviour.algorithm": "ppo"},
        RECOMPUTED,
    ],
    ids=["mamba2", "mamba1", "ppo", "recomputed"],
)
def test_recorded_updates_are_those_made_anew(parts: dict[str, Any], precision: str) -> None:
    """Nothing that should change from one update to the next stayed behind in Python.

    Warm-up of the step size, counters of the replay, random draws, running statistics, the slow
    critic: with all of them the sixth update of a recording is the sixth update.
    """
    changes = {**parts, "training.precision": precision}
    anew, recorded = trainer(**changes), trainer(**changes)
    for _ in range(6):
        expected = {purpose: learn(anew, purpose) for purpose in PURPOSES}
    tapes = {}
    for purpose in PURPOSES:
        tapes[purpose], returned = Tape.record(lambda purpose=purpose: learn(recorded, purpose))
        found = {**locals().get("found", {}), purpose: returned}
    for _ in range(5):
        for purpose in PURPOSES:
            tapes[purpose].replay()
    for purpose in PURPOSES:
        for name, value in expected[purpose].items():
            assert torch.equal(found[purpose][name], value), (purpose, name)
    first, second = state(anew), state(recorded)
    assert first.keys() == second.keys()
    assert not [name for name, t in first.items() if not torch.equal(t, second[name])]


def test_a_number_left_in_python_is_found(
    accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: with a step size that the host computes it does."""
    counts = iter(range(100))
    monkeypatch.setattr(
        "drama.training.optim.Optimiser.learning_rate",
        lambda self: torch.tensor(1e-3) * float(next(counts)),
    )
    anew = trainer()
    for _ in range(3):
        learn(anew, "world_model")
    counts = iter(range(100))
    recorded = trainer()
    tape, _ = Tape.record(lambda: learn(recorded, "world_model"))
    tape.replay()
    tape.replay()
    first, second = state(anew), state(recorded)
    assert [name for name, t in first.items() if not torch.equal(t, second[name])]


def numbers(made: Trainer) -> dict[str, torch.Tensor]:
    """Loss, gradients and a dream, from the same weights, rows and random numbers each time."""
    windows = made.replay.windows(torch.tensor([30, 20, 39, 12]), 12)
    context = made.replay.windows(torch.arange(8, 40), 4)
    model = made.learner.world_model
    start = {k: t.clone() for k, t in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    model.train()
    loss, metrics = model.loss(windows, generator)
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    model.eval()
    grads = {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}
    rollout = made.learner.imagination.rollout(context, generator)
    model.load_state_dict(start)  # the running statistics of BatchNorm move
    columns = {name: column for name, column in rollout._asdict().items() if column is not None}
    return {**metrics, **grads, **columns}


def compared(backbone: str) -> Trainer:
    """A trainer in whose loss every part of the model has its share."""
    made = trainer(
        **{
            "world_model.dynamics.name": backbone,
            "world_model.dynamics.width": 256,
            "world_model.free_bits": 0.0,
        }
    )
    weight = made.learner.world_model.reward_head.out.weight  # zeros, which stop the gradient
    weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    return made


def differing(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """Names of those that are more than rounding apart, measured by their norm."""
    assert found.keys() == expected.keys()
    assert len(expected) > 40
    return [
        name
        for name, value in expected.items()
        if (found[name].double() - value.double()).norm() > 5e-5 * value.double().norm()
    ]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_both_paths_give_the_same_numbers(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator's way through the model against the CPU's: loss, gradients and dreams."""
    made = compared(backbone)
    on_cpu = numbers(made)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_HOSTS", ())
        elsewhere = numbers(made)
    assert not differing(elsewhere, on_cpu)


@pytest.mark.parametrize("scale", [1.0, 1.01])
@pytest.mark.parametrize("backbone", ["mamba2", "mamba1"])
def test_the_fast_model_is_the_plain_one(
    backbone: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the recurrence step by step, norms and errors as their formulas, images as NCHW.

    With the plain one's steps a hundredth longer the numbers must differ: the test can fail.
    """
    made = compared(backbone)
    fast = numbers(made)

    def plainly(scan: Any) -> Any:
        return lambda x, dt, *args, backend, **kwargs: scan(x, scale * dt, *args, **kwargs)

    monkeypatch.setattr("drama.ssm.mamba2.ssd", plainly(reference.ssd))
    monkeypatch.setattr("drama.ssm.mamba1.selective_scan", plainly(reference.selective_scan))
    monkeypatch.setattr(dispatch, "_HOSTS", ())
    for part in (made.learner.world_model.encoder, made.learner.world_model.decoder):
        part.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for layer in part.modules():
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
                layer.register_forward_pre_hook(lambda _, given: (given[0].contiguous(),))
    differ = differing(numbers(made), fast)
    gradients = {
        name for name, _ in made.learner.world_model.dynamics.named_parameters(prefix="dynamics")
    }
    if scale == 1.0:
        assert not differ
    else:
        assert len(gradients & set(differ)) >= 8  # those that the scan hands on
        assert "reconstruction" not in differ  # which the recurrence has no part in


def test_overlap_draws_from_all_rows_but_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The updates of a step are the same in number, and made before the step's row arrives."""
    drawn: dict[bool, list[int]] = {}
    for overlap in (False, True):
        config = tiny({"training.overlap": overlap, "env.id": "drama/Catch-v0"})
        agent = Agent(config=config)
        made = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
        held: list[int] = []
        monkeypatch.setattr(
            made.replay,
            "sample_with_ends",
            lambda *args, made=made, held=held: (
                held.append(made.replay.total),
                type(made.replay).sample_with_ends(made.replay, *args),
            )[1],
        )
        made.run(60)
        assert made.learner.updates == {"world_model": 18, "behaviour": 18}
        drawn[overlap] = held
    rows = np.array([drawn[True], drawn[False]])
    assert (rows[1] - rows[0] >= 1).all()  # two where an episode ended: its final observation
    assert (rows[1] - rows[0] <= 2).all()


def test_a_random_state_of_another_device_is_reseeded() -> None:
    notes: list[str] = []
    first, other = trainer(), trainer()
    other.events.listeners = (
        lambda event, payload: notes.append(payload) if event == "note" else None,
    )
    saved = first.random.state()
    saved["loop"]["generator.replay"] = torch.zeros(16, dtype=torch.uint8)
    saved["state"]["step"] = first.step
    other.random.load_state(saved)
    assert len(notes) == 1
    assert "random state of replay" in notes[0]
    assert torch.equal(other.random.acting.get_state(), first.random.acting.get_state())
    once = other.random.replay.get_state()
    other.random.load_state(saved)
    assert torch.equal(other.random.replay.get_state(), once)  # the same at each attempt
    assert not torch.equal(once, first.random.replay.get_state())
