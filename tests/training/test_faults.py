"""Training that fails: by an environment error or by NaN."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch
from tests.training.faulty_envs import (
    Crash,
    CrashingReset,
    NanFirstObs,
    NanReward,
    Unseeded,
    Walk,
    WildObs,
    env_id,
)
from tests.training.runs import differences, snapshot, tiny

from drama import Agent
from drama.errors import EnvFaultError, NonFiniteError
from drama.training.checkpoint import CheckpointDir

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(
    ("kind", "error", "words", "good_steps"),
    [
        (NanReward, EnvFaultError, "reward is nan", 46),
        (WildObs, EnvFaultError, "reaches from 100 to 100", 46),
        (Crash, ZeroDivisionError, "physics", 46),
        (CrashingReset, ZeroDivisionError, "level", 42),
    ],
)
def test_environment_error_loses_no_training(
    kind: type[Walk],
    error: type[Exception],
    words: str,
    good_steps: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(error, match=words):
        Agent(env_id(kind), tiny()).learn(60, run_dir=tmp_path / "run")
    spec = gym.spec(env_id(kind).partition(":")[2])
    monkeypatch.setattr(spec, "entry_point", Walk)  # the environment is repaired
    Agent(env_id(kind), tiny()).learn(good_steps, run_dir=tmp_path / "sound")
    assert CheckpointDir(tmp_path / "run").last().step == good_steps
    changed = differences(snapshot(tmp_path / "run"), snapshot(tmp_path / "sound"))
    # The failing action was sampled; otherwise equal to a run that ended before it.
    assert set(changed) <= {"config", "loop/generator.acting"}
    agent = Agent.load(tmp_path / "run")
    assert agent.learn(60 - good_steps).num_timesteps == 60
    assert CheckpointDir(tmp_path / "run").last().step == 60


def test_environment_error_at_the_start_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EnvFaultError, match="NaN"):
        Agent(env_id(NanFirstObs), tiny()).learn(60, run_dir=tmp_path / "run")
    monkeypatch.setattr(gym.spec(env_id(NanFirstObs).partition(":")[2]), "entry_point", Walk)
    assert Agent.load(tmp_path / "run").learn(30).num_timesteps == 30


def test_nondeterministic_environment_truncates_one_episode_at_resume(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Agent(env_id(Unseeded), tiny()).learn(31, run_dir=run)  # 4 episodes of 7, and 3 steps
    notes: list[str] = []

    def listen(event: str, payload: Any) -> None:
        if event == "note":
            notes.append(payload)

    agent = Agent.load(run)
    agent.learn(9, listeners=[listen])
    assert sum("does not repeat itself" in note for note in notes) == 1
    found = snapshot(run)
    cut = 4 * 8 + 3 - 1  # the newest transition before the cut: an episode of 7 steps takes 8 rows
    assert found["replay/is_first"][cut + 2]  # after the observation that it was cut at
    assert not found["replay/truncated"][:cut].any()
    assert found["replay/truncated"][cut]
    assert found["replay/is_last"].nonzero().flatten().tolist() == [7, 15, 23, 31, cut + 1, cut + 9]
    assert found["state"]["episodes"] == 5  # the truncated one is not a whole episode


def poison(name: str, at: int) -> Any:
    """A callback that sets one parameter entry to NaN."""

    def callback(held: dict[str, Any], _: dict[str, Any]) -> None:
        agent = held["self"]
        if agent.num_timesteps == at:
            part, _, rest = name.partition(".")
            with torch.no_grad():
                dict(getattr(agent, part).named_parameters())[rest].view(-1)[0] = torch.nan

    return callback


def _weights() -> list[str]:
    agent = Agent(env_id(Walk), tiny())
    names = [f"world_model.{n}" for n, _ in agent.world_model.named_parameters()]
    actor = [f"behaviour.{n}" for n, p in agent.behaviour.named_parameters() if p.requires_grad]
    return [names[0], names[len(names) // 2], names[-1], actor[0], actor[-1]]


# After step 39 no update checks the weights before the checkpoint of step 40.
@pytest.mark.parametrize(("which", "at"), [*((i, 39) for i in range(5)), (0, 33), (4, 38)])
def test_nan_weight_ends_the_run_and_keeps_the_last_finite_checkpoint(
    which: int, at: int, tmp_path: Path
) -> None:
    name, run = _weights()[which], tmp_path / "run"
    agent = Agent(env_id(Walk), tiny({"training.world_model_ratio": 0.2}))
    with pytest.raises(NonFiniteError) as caught:
        agent.learn(80, poison(name, at), run_dir=run)
    message = str(caught.value)
    assert "\n" not in message
    assert "world_model" in message or "behaviour" in message
    kept = CheckpointDir(run).last()
    assert str(kept.path) in message
    for path in CheckpointDir(run).all():
        loaded = Agent.load(path)
        for part in (loaded.world_model, loaded.behaviour):
            assert all(torch.isfinite(t).all() for t in part.state_dict().values())
    assert Agent.load(run).learn(5).num_timesteps == kept.step + 5


@pytest.mark.parametrize("part", ["world_model", "behaviour"])
def test_nan_loss_makes_no_optimiser_step(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(env_id(Walk), tiny()).learn(30, run_dir=tmp_path / "run")
    module = getattr(agent, part)
    original = module.loss
    before = {k: t.clone() for k, t in module.named_parameters()}

    def loss(*args: Any, **options: Any) -> Any:
        value, metrics = original(*args, **options)
        return value * torch.nan, {name: m * torch.nan for name, m in metrics.items()}

    monkeypatch.setattr(module, "loss", loss)
    with pytest.raises(NonFiniteError, match=rf"{part}/\w+ is NaN or Inf at environment step 32"):
        agent.learn(10)
    monkeypatch.undo()
    if part == "behaviour":  # behaviour is updated second: the world model has made a step by then
        assert all(torch.equal(t, before[k]) for k, t in agent.behaviour.named_parameters())
    else:
        assert all(torch.equal(t, before[k]) for k, t in agent.world_model.named_parameters())
    assert CheckpointDir(tmp_path / "run").last().step == 30
    assert not any(m.training for m in [*agent.world_model.modules(), *agent.behaviour.modules()])


@pytest.mark.parametrize("overlap", [False, True])
def test_failed_update_replaces_no_checkpoint(overlap: bool, tmp_path: Path) -> None:
    """The weights are finite; only the failed update marks the run as invalid."""
    run = tmp_path / "run"
    config = tiny({"training.overlap": overlap, "training.keep_checkpoints": 1})
    agent = Agent(env_id(Walk), config).learn(45, run_dir=run)
    assert CheckpointDir(run).last().step == 45
    with torch.no_grad():
        agent.world_model.reward_head.out.weight.fill_(1e38)
    with pytest.raises(NonFiniteError, match=r"the last good checkpoint is \S+000000045"):
        agent.learn(15)
    assert [path.name for path in CheckpointDir(run).all()] == ["000000045"]
    assert not agent.world_model.training


@pytest.mark.parametrize("overlap", [False, True])
def test_update_that_raises_replaces_no_checkpoint(
    overlap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(env_id(Walk), tiny({"training.overlap": overlap})).learn(45, run_dir=tmp_path)

    def loss(*_: Any, **__: Any) -> Any:
        raise ValueError("a head of one's own")

    monkeypatch.setattr(agent.world_model, "loss", loss)
    with pytest.raises(ValueError, match="of one's own"):
        agent.learn(10)
    assert CheckpointDir(tmp_path).last().step == 45


def test_infinite_gradient_is_named(tmp_path: Path) -> None:
    agent = Agent(env_id(Walk), tiny()).learn(30, run_dir=tmp_path / "run")
    names = [n for n, p in agent.world_model.named_parameters() if p.requires_grad]
    name = names[len(names) // 2]
    parameter = dict(agent.world_model.named_parameters())[name]
    handle = parameter.register_hook(lambda grad: grad * torch.inf)
    with pytest.raises(NonFiniteError, match="gradient of world_model"):
        agent.learn(10)
    handle.remove()


def test_run_ended_by_nan_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    run, name = tmp_path / "run", _weights()[0]
    with pytest.raises(NonFiniteError):
        Agent(env_id(Walk), tiny()).learn(60, poison(name, 51), run_dir=run)
    shutil.copytree(run, tmp_path / "copy")
    Agent.load(run).learn(20)
    Agent(env_id(Walk), tiny()).learn(60, run_dir=tmp_path / "sound")
    changed = differences(snapshot(run), snapshot(tmp_path / "sound"))
    assert not changed
