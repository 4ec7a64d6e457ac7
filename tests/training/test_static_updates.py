"""Updates as an accelerator makes them: they look at no number, and can be recorded and repeated.

The code paths of an accelerator run here on the CPU (see `drama.place`), so that their numbers
can be compared with those of the CPU's own paths.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.training.runs import tiny
from tests.training.tape import Tape, Watch

from drama import place
from drama.agent import Agent
from drama.behaviour import imagine
from drama.replay import Purpose
from drama.training import snapshot
from drama.training.trainer import Trainer
from drama.types import Transition

ROWS = 40


PURPOSES: tuple[Purpose, ...] = ("world_model", "behaviour")
BACKBONES = ["mamba2", "mamba1", "transformer", "gru"]
ALGORITHMS = ["actor-critic", "ppo"]


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_HOSTS", ())


def trainer(**changes: Any) -> Trainer:
    """Return a trainer whose replay holds some episodes."""
    agent = Agent("drama/Catch-v0", config=tiny(changes))
    made = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    rng = np.random.default_rng(0)
    shape = made.replay.rows["obs"].shape[1:]
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
    return made._learn[purpose]()


def state(made: Trainer) -> dict[str, torch.Tensor]:
    """Every tensor that an update may change."""
    groups, _ = snapshot.take(made)
    tensors = {f"{g}/{k}": t.clone() for g, group in groups.items() for k, t in group.items()}
    for name, optimiser in made.optimisers.items():
        tensors[f"{name} updates"] = torch.tensor(optimiser.updates)
    return tensors


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("sampler", ["dfs", "dfs-learnt"])
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


def test_the_watch_sees_a_look() -> None:
    """On the CPU's own path an update does look: the test above can fail."""
    with Watch() as watch:
        learn(trainer(), "world_model")
    assert "aten::_local_scalar_dense" in watch.looks


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("backbone", "algorithm"),
    [("mamba2", "actor-critic"), ("mamba1", "actor-critic"), ("mamba2", "ppo")],
)
def test_recorded_updates_are_those_made_anew(
    backbone: str, algorithm: str, precision: str
) -> None:
    """Nothing that should change from one update to the next stayed behind in Python.

    Warm-up of the step size, counters of the replay, random draws, running statistics, the slow
    critic: with all of them the sixth update of a recording is the sixth update.
    """
    changes = {
        "world_model.dynamics.name": backbone,
        "behaviour.algorithm": algorithm,
        "training.precision": precision,
    }
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


@pytest.mark.parametrize("backbone", BACKBONES)
def test_both_paths_give_the_same_numbers(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The accelerator's way through the model against the CPU's: loss, gradients and dreams."""
    changes = {"world_model.dynamics.name": backbone, "world_model.dynamics.width": 256}
    made = trainer(**changes)
    windows = made.replay.windows(torch.tensor([30, 20, 39, 12]), 12)
    context = made.replay.windows(torch.arange(8, 40), 4)

    start = {k: t.clone() for k, t in made.world_model.state_dict().items()}

    def numbers() -> dict[str, torch.Tensor]:
        made.world_model.load_state_dict(start)  # the running statistics of BatchNorm move
        generator = torch.Generator().manual_seed(0)
        made.world_model.train()
        loss, metrics = made.world_model.loss(windows, generator)
        made.world_model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        made.world_model.eval()
        grads = {k: p.grad for k, p in made.world_model.named_parameters() if p.grad is not None}
        dream = imagine(made.world_model, made.behaviour, context, 3, generator)
        return {**metrics, **grads, **dream._asdict()}

    on_cpu = numbers()
    with monkeypatch.context() as patch:
        patch.setattr(place, "_HOSTS", ())
        elsewhere = numbers()
    for name, value in on_cpu.items():
        torch.testing.assert_close(elsewhere[name], value, rtol=2e-4, atol=2e-5, msg=name)


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
            "sample",
            lambda *args, made=made, held=held: (
                held.append(made.replay.total),
                type(made.replay).sample(made.replay, *args),
            )[1],
        )
        made.run(60)
        assert made.updates == {"world_model": 18, "behaviour": 18}
        drawn[overlap] = held
    rows = np.array([drawn[True], drawn[False]])
    assert (rows[1] - rows[0] >= 1).all()  # two where an episode ended: its final observation
    assert (rows[1] - rows[0] <= 2).all()


def test_a_random_state_of_another_device_begins_anew() -> None:
    notes: list[str] = []
    first, other = trainer(), trainer()
    other.listeners = (lambda event, payload: notes.append(payload) if event == "note" else None,)
    groups, state_ = snapshot.take(first)
    loop = {**groups["loop"], "generator.replay": torch.zeros(16, dtype=torch.uint8)}
    snapshot.restore(other, state_, loop, groups["optimiser"])
    assert len(notes) == 1
    assert "random state of replay" in notes[0]
    acting, replay = other.generators["acting"], other.generators["replay"]
    assert torch.equal(acting.get_state(), first.generators["acting"].get_state())
    once = replay.get_state()
    snapshot.restore(other, state_, loop, groups["optimiser"])
    assert torch.equal(replay.get_state(), once)  # anew, yet the same at each attempt
    assert not torch.equal(once, first.generators["replay"].get_state())
