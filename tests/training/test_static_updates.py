"""Updates on an accelerator: without synchronisation, so they can be recorded and replayed.

The accelerator's code paths run here on the CPU (see `drama.ops.dispatch`), so that their results
can be compared with those of the CPU paths.
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
from drama.training.collector import Choice
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
    """Return a trainer with some episodes in its replay."""
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
def test_update_does_not_synchronise(backbone: str, algorithm: str, sampler: str) -> None:
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
        assert watch.launches > 100  # the backward pass is watched too


@pytest.mark.usefixtures("accelerator")
def test_update_with_shifted_and_weighted_frames_does_not_synchronise() -> None:
    made = trainer(**{"replay.random_shift": (1, 1), "world_model.motion_weight": 10.0})
    with Watch() as watch:
        learn(made, "world_model")
    assert not watch.looks


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_update_with_q_values_of_all_actions_does_not_synchronise(backbone: str) -> None:
    made = trainer(
        **{"world_model.dynamics.name": backbone, "behaviour.actor_gradient": "all-actions"}
    )
    with Watch() as watch:
        learn(made, "behaviour")
    assert not watch.looks


@pytest.mark.usefixtures("accelerator")
def test_update_with_running_input_moments_does_not_synchronise() -> None:
    made = trainer(**RECOMPUTED)
    with Watch() as watch:
        learn(made, "behaviour")
    assert not watch.looks


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("latent", ["prior", "posterior"])
def test_acting_and_storing_do_not_synchronise(backbone: str, latent: str) -> None:
    made = trainer(**{"world_model.dynamics.name": backbone, "behaviour.policy_latent": latent})
    made.collector.begin()
    with Watch() as watch:
        action, state = made.collector.act()
    assert not watch.looks
    assert watch.launches > 30
    choice = Choice(made.collector.player.actions.to_host(action)[0], state)
    end = made.collector.take(choice)
    with Watch() as watch:
        made.collector.store(end)
    assert not watch.looks
    assert watch.launches > 5


def test_watch_detects_synchronisation() -> None:
    """The CPU path synchronises, so the test above can fail."""
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
def test_replayed_updates_equal_eager_updates(parts: dict[str, Any], precision: str) -> None:
    """No value that changes between updates is left in Python.

    Step-size warm-up, replay counters, random numbers, running statistics, slow critic: with all of
    them the sixth replay equals the sixth eager update.
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


def test_value_left_in_python_is_detected(
    accelerator: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a step size computed on the host the comparison fails."""
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
    """Loss, gradients and a rollout, from the same weights, transitions and random numbers."""
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
    model.load_state_dict(start)  # the running statistics of BatchNorm change
    columns = {name: column for name, column in rollout._asdict().items() if column is not None}
    return {**metrics, **grads, **columns}


def compared(backbone: str) -> Trainer:
    """A trainer with a loss that depends on every part of the model."""
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
    """Names of values that differ by more than rounding, relative to their norm."""
    assert found.keys() == expected.keys()
    assert len(expected) > 40
    return [
        name
        for name, value in expected.items()
        if (found[name].double() - value.double()).norm() > 5e-5 * value.double().norm()
    ]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_accelerator_and_cpu_paths_agree(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, gradients and rollouts of the accelerator path against the CPU path."""
    made = compared(backbone)
    on_cpu = numbers(made)
    with monkeypatch.context() as patch:
        patch.setattr(dispatch, "_HOSTS", ())
        elsewhere = numbers(made)
    assert not differing(elsewhere, on_cpu)


@pytest.mark.parametrize("scale", [1.0, 1.01])
@pytest.mark.parametrize("backbone", ["mamba2", "mamba1"])
def test_fast_model_equals_the_plain_one(
    backbone: str, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reference: step-by-step recurrence, norms and errors by formula, NCHW images.

    With step sizes of the reference 1 % larger the results must differ, so the test can fail.
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
        assert len(gradients & set(differ)) >= 8  # the states that the scan returns
        assert "reconstruction" not in differ  # independent of the recurrence


def test_overlapped_updates_sample_from_all_but_the_newest_transition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The number of updates per step is the same; they run before the step's transition arrives."""
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
    assert (rows[1] - rows[0] >= 1).all()  # two at the end of an episode: its final observation
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
