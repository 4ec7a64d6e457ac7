"""Learning in parts, saving, loading."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mypy import api as mypy_api
from tests.agent.helpers import WALK, walk, without_logs
from tests.training.runs import differences, everything, global_random_state, snapshot, tiny

from drama import Agent
from drama.actions import ActionSpace
from drama.config import Config
from drama.errors import CheckpointError, ConfigError, RunDirError
from drama.observations import ObsSpace
from drama.training.collector import Collector
from drama.world_model import WorldModel

# -- load ----------------------------------------------------------------------------------------


def test_load_on_an_agent_is_refused_with_the_right_call(tmp_path: Path) -> None:
    path = tmp_path / "saved"
    agent = Agent(WALK, tiny())
    agent.save(path)
    before = agent.world_model.state_dict()
    with pytest.raises(ConfigError) as caught:
        agent.load(str(path), device="cpu")
    assert str(caught.value) == (
        "load() makes a new Agent and would leave this one as it is; "
        f"write: agent = Agent.load({str(path)!r}, device='cpu')"
    )
    assert all(torch.equal(before[k], t) for k, t in agent.world_model.state_dict().items())
    assert callable(agent.load)  # tools that look at every attribute are not stopped
    assert isinstance(copy.copy(agent), Agent)


def test_load_on_a_subclass_returns_the_subclass(tmp_path: Path) -> None:
    class Mine(Agent):
        pass

    Agent(WALK, tiny()).save(tmp_path / "saved")
    assert type(Mine.load(tmp_path / "saved", env=WALK)) is Mine
    assert type(Agent.load(tmp_path / "saved", WALK, device="cpu")) is Agent
    assert Agent.load.__doc__ is not None
    assert Agent.load.__name__ == "load"
    assert "path" in inspect.signature(Agent.load).parameters


@pytest.mark.slow
def test_load_is_typed_by_the_class_it_is_called_on(tmp_path: Path) -> None:
    program = tmp_path / "typed.py"
    program.write_text(
        "from drama import Agent\n"
        "class Mine(Agent): ...\n"
        "reveal_type(Agent.load('x', device='cpu'))\n"
        "reveal_type(Mine.load('x'))\n"
        "Agent.load('x', devise='cpu')\n"
    )
    said, _, code = mypy_api.run(["--strict", "--no-incremental", str(program)])
    assert code == 1
    assert re.findall(r'Revealed type is "([^"]+)"', said) == ["drama.agent.Agent", "typed.Mine"]
    assert 'Unexpected keyword argument "devise"' in said


# -- learning in parts, saving, loading --------------------------------------------------------


@pytest.mark.parametrize("progress_bar", [False, True])
def test_a_warning_reaches_the_user_with_or_without_a_progress_bar(
    progress_bar: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    agent = Agent(walk, tiny())

    def warn(event: str, payload: Any) -> None:
        if event == "step" and payload == 3:
            trainer = agent._run.trainer
            assert trainer is not None
            trainer.events.warn("the pictures are almost black")

    agent.learn(5, listeners=[warn], progress_bar=progress_bar)
    logged = [r.message for r in caplog.records if r.levelname == "WARNING"]
    printed = capfd.readouterr().err
    expected = "the pictures are almost black"
    assert expected in (printed if progress_bar else logged)


def test_learn_in_two_calls_equals_one_call(tmp_path: Path) -> None:
    twice = Agent("drama/Catch-v0", tiny())
    assert twice.num_timesteps == 0
    assert twice.learn(27, run_dir=tmp_path / "twice") is twice
    assert twice.num_timesteps == 27
    twice.learn(13)
    once = Agent("drama/Catch-v0", tiny()).learn(40, run_dir=tmp_path / "once")
    assert once.num_timesteps == twice.num_timesteps == 40
    assert not differences(snapshot(tmp_path / "twice"), snapshot(tmp_path / "once"))
    in_memory = Agent("drama/Catch-v0", tiny()).learn(27).learn(13)
    for name, tensor in in_memory.world_model.state_dict().items():
        assert torch.equal(tensor, once.world_model.state_dict()[name])


def test_exception_in_a_callback_loses_no_training(tmp_path: Path) -> None:
    def tired(held: dict[str, Any], _: dict[str, Any]) -> None:
        if held["self"].num_timesteps == 33:
            raise TimeoutError("enough for today")

    agent = Agent(WALK, tiny())
    with pytest.raises(TimeoutError):
        agent.learn(40, tired, run_dir=tmp_path / "run")
    assert agent.num_timesteps == 33
    agent.learn(7)  # the lock is free, the logs are open again
    Agent(WALK, tiny()).learn(40, run_dir=tmp_path / "whole")
    assert not differences(snapshot(tmp_path / "run"), snapshot(tmp_path / "whole"))


def test_loaded_agent_predicts_and_trains_bit_for_bit(catch: Agent, tmp_path: Path) -> None:
    agent = Agent("drama/Catch-v0", tiny()).learn(35)
    agent.save(tmp_path / "saved")
    before = everything(agent, tmp_path / "before")
    twin = Agent.load(tmp_path / "saved")
    assert twin.num_timesteps == agent.num_timesteps == 35
    assert twin.config == agent.config
    obs = np.random.default_rng(0).integers(0, 256, (6, 4, 32, 32, 3), dtype=np.uint8)
    states: list[Any] = [None, None]
    for step in obs:
        actions = []
        for i, a in enumerate((agent, twin)):
            action, states[i] = a.predict(step, states[i], deterministic=True)
            actions.append(action)
        assert np.array_equal(*actions)
        assert torch.equal(states[0].deter, states[1].deter)
    agent.learn(15)
    twin.learn(15)
    ends = [everything(a, tmp_path / n) for a, n in ((agent, "a"), (twin, "b"))]
    assert not differences(*without_logs(*ends))
    assert differences(before, ends[0])


def test_saving_does_not_change_training(tmp_path: Path) -> None:
    agent = Agent(WALK, tiny()).learn(31, run_dir=tmp_path / "run")
    agent.save(tmp_path / "copy")
    agent.learn(9)
    Agent(WALK, tiny()).learn(40, run_dir=tmp_path / "plain")
    assert not differences(snapshot(tmp_path / "run"), snapshot(tmp_path / "plain"))
    assert Agent.load(tmp_path / "copy").num_timesteps == 31


def test_loaded_agent_can_be_saved_again_without_loss(tmp_path: Path) -> None:
    agent = Agent(WALK, tiny()).learn(31)
    agent.save(tmp_path / "one")
    Agent.load(tmp_path / "one").save(tmp_path / "two")
    twin = Agent.load(tmp_path / "two")
    assert twin.num_timesteps == 31
    ends = [everything(a.learn(9), tmp_path / n) for a, n in ((agent, "a"), (twin, "b"))]
    assert not differences(*without_logs(*ends))


@pytest.mark.parametrize("replay", [True, False])
def test_loaded_agent_saved_again_keeps_its_given_settings(replay: bool, tmp_path: Path) -> None:
    Agent(WALK, tiny()).learn(26).save(tmp_path / "one", replay=replay)
    config = tiny({"env.id": WALK, "evaluation.episodes": 7, "training.log_every": 3})
    Agent.load(tmp_path / "one", config=config).save(tmp_path / "two", replay=replay)
    assert Agent.load(tmp_path / "two").config == config
    assert Config.from_json((tmp_path / "two" / "config.json").read_text()) == config


def test_agent_saved_without_replay_can_act(tmp_path: Path) -> None:
    agent = Agent(WALK, tiny()).learn(31)
    agent.save(tmp_path / "small", replay=False)
    assert not (tmp_path / "small" / "replay").exists()
    twin = Agent.load(tmp_path / "small")
    assert twin.num_timesteps == 31
    assert twin.evaluate(3).to_dict() == agent.evaluate(3).to_dict()
    twin.save(tmp_path / "again", replay=False)
    assert Agent.load(tmp_path / "again").num_timesteps == 31


def test_agent_saved_without_replay_keeps_its_step_count_and_can_learn(tmp_path: Path) -> None:
    Agent(WALK, tiny()).learn(31).save(tmp_path / "small", replay=False)
    agent = Agent.load(tmp_path / "small").learn(40)
    assert agent.num_timesteps == 71
    assert Agent.load(tmp_path / "small").num_timesteps in (31, 71)


@pytest.mark.parametrize("replay", [True, False])
def test_steps_before_a_save_without_replay_stay_counted(replay: bool, tmp_path: Path) -> None:
    Agent(WALK, tiny()).learn(31).save(tmp_path / "small", replay=False)
    agent = Agent.load(tmp_path / "small").learn(30, run_dir=tmp_path / "run")
    assert agent.num_timesteps == 61
    agent.save(tmp_path / "saved", replay=replay)
    for path in (tmp_path / "run", tmp_path / "saved"):
        loaded = Agent.load(path)
        assert loaded.num_timesteps == 61
        assert loaded.evaluate(1).protocol["train_steps"] == 61
    # Again: saved by the loaded agent, then trained further.
    loaded.save(tmp_path / "again", replay=replay)
    again = Agent.load(tmp_path / "again")
    assert again.num_timesteps == 61
    assert again.learn(9).num_timesteps == 70
    again.save(tmp_path / "last")
    assert Agent.load(tmp_path / "last").num_timesteps == 70
    assert Agent.load(tmp_path / "run").learn(5).num_timesteps == 66


def test_checkpoint_without_earlier_steps_counts_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Collector.state

    def older(collector: Collector) -> Any:
        saved = original(collector)
        del saved["state"]["steps_before"]
        return saved

    monkeypatch.setattr(Collector, "state", older)
    Agent(WALK, tiny()).learn(26, run_dir=tmp_path / "run")
    agent = Agent.load(tmp_path / "run")
    assert agent.num_timesteps == 26
    assert agent.learn(4).num_timesteps == 30


def test_untrained_agent_can_be_saved(tmp_path: Path) -> None:
    agent = Agent(WALK, tiny(), seed=9)
    agent.save(tmp_path / "new")
    twin = Agent.load(tmp_path / "new")
    ends = [everything(a.learn(30), tmp_path / n) for a, n in ((agent, "a"), (twin, "b"))]
    assert not differences(*without_logs(*ends))


def test_non_empty_directory_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(RunDirError, match="exists already"):
        Agent(WALK, tiny()).save(tmp_path)
    with pytest.raises(CheckpointError):
        Agent.load(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_seed_and_device_override_the_configuration() -> None:
    agent = Agent(WALK, tiny(), seed=11, device="cpu")
    assert agent.config.seed == 11
    assert agent.device == torch.device("cpu")
    other = Agent(WALK, tiny({"seed": 11}))
    pairs = zip(agent.world_model.parameters(), other.world_model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(ConfigError, match="cuda or mps"):
        Agent(WALK, tiny(), device="abacus")


def test_global_random_states_are_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Including that of a GPU, where no weight is sampled and the state would not be restored."""

    def touched(*_: object) -> None:
        raise AssertionError("the GPU's random state was set")

    for kind in (torch.cuda, torch.mps):
        for name in ("manual_seed", "manual_seed_all"):
            if hasattr(kind, name):
                monkeypatch.setattr(kind, name, touched)
    before = global_random_state()
    agent = Agent(WALK, tiny({"seed": 3}))
    assert global_random_state() == before
    # The weights are those that torch.manual_seed gives.
    monkeypatch.undo()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = WorldModel(agent.config.world_model, ObsSpace.vector(3), ActionSpace(2))
    expected = model.state_dict()
    found = agent.world_model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
