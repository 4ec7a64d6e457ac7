"""PPO in the training loop: updates, checkpoints and refused settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import assert_same_run, differences, metrics, snapshot, tiny

import drama
from drama import Agent
from drama.behaviour import PPO, MinibatchPPO
from drama.config import Config
from drama.errors import CheckpointError, NonFiniteError
from drama.training.checkpoint import CheckpointDir
from drama.training.resume import compare

WALK = env_id(Walk)
RECOMPUTED: dict[str, Any] = {
    "behaviour.ppo.epochs": 3,
    "behaviour.ppo.minibatches": 1,
    "behaviour.ppo.recompute_advantages": True,
}
"""The variant of the published code, the default of the paper's presets."""


def ppo(changes: dict[str, Any] | None = None) -> Config:
    small = {"behaviour.ppo.epochs": 2, "behaviour.ppo.minibatches": 3}
    return tiny({"behaviour.algorithm": "ppo", **small, **(changes or {})})


@pytest.mark.parametrize(("form", "steps"), [({}, 2 * 3), (RECOMPUTED, 3)])
def test_one_rollout_per_update_whatever_the_epochs(
    form: dict[str, Any], steps: int, tmp_path: Path
) -> None:
    Agent(WALK, tiny()).learn(40, run_dir=tmp_path / "actor-critic")
    Agent(WALK, ppo(form)).learn(40, run_dir=tmp_path / "ppo")
    one, other = snapshot(tmp_path / "actor-critic"), snapshot(tmp_path / "ppo")
    updates = [found["state"]["optimisers"]["behaviour"]["updates"] for found in (one, other)]
    assert updates == [8, 8 * steps]
    assert one["loop/dreamt"].sum() == other["loop/dreamt"].sum() == 8 * 8
    assert one["state"]["optimisers"]["world_model"]["updates"] == 8
    assert other["state"]["optimisers"]["world_model"]["updates"] == 8


@pytest.mark.parametrize(
    ("form", "own"),
    [
        ({}, {"explained_variance", "advantage_scale"}),
        (RECOMPUTED, {"slow_critic", "return_scale"}),
    ],
)
def test_ppo_logs_its_metrics(form: dict[str, Any], own: set[str], tmp_path: Path) -> None:
    Agent(WALK, ppo(form)).learn(40, run_dir=tmp_path / "run")
    last = {k.removeprefix("behaviour/"): v for k, v in metrics(tmp_path / "run")[-1].items()}
    assert {"actor", "critic", "return", "value", "grad_norm", "survival"} | own <= last.keys()
    assert last["approx_kl"] > 0
    assert 0 <= last["clip_fraction"] <= 1
    assert last.get("explained_variance", 0) <= 1
    assert 0 < last["entropy"] <= 1.1


@pytest.mark.parametrize("form", [{}, RECOMPUTED, {"behaviour.standardise_input": True}])
def test_run_is_deterministic_and_resume_is_bit_exact(form: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        Agent(WALK, ppo(form)).learn(60, run_dir=tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    Agent(WALK, ppo(form)).learn(40, run_dir=tmp_path / "c")
    Agent.load(tmp_path / "c").learn(20)
    assert_same_run(tmp_path / "a", tmp_path / "c")
    Agent(WALK, ppo({**form, "behaviour.ppo.clip": 0.01})).learn(60, run_dir=tmp_path / "d")
    changed = differences(snapshot(tmp_path / "a"), snapshot(tmp_path / "d"))
    assert "model/behaviour.actor.out.weight" in changed


@pytest.mark.parametrize(("form", "kind"), [({}, MinibatchPPO), (RECOMPUTED, PPO)])
def test_loaded_agent_acts_like_the_saved_one(
    form: dict[str, Any], kind: type, tmp_path: Path
) -> None:
    agent = Agent(WALK, ppo(form)).learn(40)
    agent.save(tmp_path / "saved", replay=False)
    loaded = Agent.load(tmp_path / "saved")
    assert type(loaded.behaviour) is kind
    left, right = agent.behaviour.state_dict(), loaded.behaviour.state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(t, right[name]) for name, t in left.items())
    results = [a.evaluate(4, greedy=False).mean for a in (agent, loaded)]
    assert results[0] == results[1]


@pytest.mark.parametrize(("saved", "asked"), [("ppo", "actor-critic"), ("actor-critic", "ppo")])
def test_checkpoint_of_another_algorithm_is_refused(saved: str, asked: str, tmp_path: Path) -> None:
    Agent(WALK, tiny({"behaviour.algorithm": saved})).save(tmp_path / "saved")
    other = tiny({"behaviour.algorithm": asked})
    with pytest.raises(CheckpointError) as caught:
        Agent.load(tmp_path / "saved", env=WALK, config=other)
    message = str(caught.value)
    assert message.endswith(f"holds a behaviour of {saved}, which cannot become one of {asked}")
    assert "\n" not in message


def test_older_run_without_an_algorithm_is_actor_critic(tmp_path: Path) -> None:
    tree = dataclasses.asdict(tiny())
    for name in ("algorithm", "ppo"):
        del tree["behaviour"][name]
    assert drama.config.from_dict(Config, tree).behaviour.algorithm == "actor-critic"


def test_changed_ppo_settings_do_not_stop_other_algorithms() -> None:
    # As in an older run of xs, before the variant of the published code became the default.
    pairs = [
        [tiny({"behaviour.algorithm": name, **form}) for form in ({}, RECOMPUTED)]
        for name in ("actor-critic", "ppo")
    ]
    assert compare(*pairs[0]) == ([], [])
    assert len(compare(*pairs[1])[1]) == 3


def test_nan_minibatch_makes_no_optimiser_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(WALK, ppo()).learn(30, run_dir=tmp_path / "run")
    original, calls = agent.behaviour.loss, 0
    before: dict[str, torch.Tensor] = {}

    def loss(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        value, found = original(batch)
        if calls == 3:  # in the middle of the first epoch
            before.update({k: t.clone() for k, t in agent.behaviour.named_parameters()})
            return value * torch.nan, found | {"actor": found["actor"] * torch.nan}
        return value, found

    monkeypatch.setattr(agent.behaviour, "loss", loss)
    with pytest.raises(NonFiniteError, match=r"behaviour/actor is NaN or Inf at environment step"):
        agent.learn(10)
    assert calls == 3
    assert all(torch.equal(t, before[k]) for k, t in agent.behaviour.named_parameters())
    assert CheckpointDir(tmp_path / "run").last().step == 30


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_learns_catch(seed: int, tmp_path: Path) -> None:
    quick = drama.presets.quick()
    behaviour = dataclasses.replace(quick.behaviour, algorithm="ppo")
    config = dataclasses.replace(quick, behaviour=behaviour)
    agent = Agent("drama/Catch-v0", config, seed=seed)
    agent.learn(config.steps, run_dir=tmp_path / "run")
    result = agent.evaluate(episodes=100, greedy=True)
    assert result.optimum == 1.0
    assert result.mean >= 0.9 * result.optimum
