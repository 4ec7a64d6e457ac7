"""The Python API of users, including Stable-Baselines3's tools."""

from __future__ import annotations

import copy
import inspect
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from mypy import api as mypy_api
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EveryNTimesteps,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import (
    contents,
    differences,
    everything,
    global_random_state,
    snapshot,
    tiny,
)

import drama
from drama import Agent, presets
from drama.actions import ActionSpace
from drama.config import Config
from drama.envs import adapt
from drama.envs.adapt import adapter_of, as_batch
from drama.errors import CheckpointError, ConfigError, EnvError, RunDirError, UnknownEnvError
from drama.training.collector import Collector
from drama.world_model import WorldModel

WALK = env_id(Walk)


def walk() -> Walk:
    return Walk()


@pytest.fixture(scope="module")
def catch() -> Agent:
    """An agent after a few updates; do not modify."""
    return Agent("drama/Catch-v0", tiny()).learn(34)


@pytest.fixture(scope="module")
def cart() -> Agent:
    return Agent("CartPole-v1", tiny()).learn(34)


# -- Stable-Baselines3's evaluate_policy, unchanged --------------------------------------------


def test_sb3_evaluates_on_an_adapted_environment(catch: Agent) -> None:
    mean, std = evaluate_policy(catch, drama.make_env("drama/Catch-v0", 1), 4, warn=False)
    assert -1 <= mean <= 1
    assert std >= 0


def test_sb3_evaluates_on_a_raw_environment(cart: Agent) -> None:
    returns, lengths = evaluate_policy(
        cart, gym.make("CartPole-v1"), 3, warn=False, return_episode_rewards=True
    )
    assert returns == lengths  # CartPole rewards each step with 1
    assert all(length >= 8 for length in lengths)


def test_sb3_evaluates_on_three_environments_side_by_side(cart: Agent, catch: Agent) -> None:
    for agent, name in ((cart, "CartPole-v1"), (catch, "drama/Catch-v0")):
        envs = DummyVecEnv([lambda name=name: gym.make(name) for _ in range(3)])
        returns, lengths = evaluate_policy(agent, envs, 5, warn=False, return_episode_rewards=True)
        assert len(returns) == len(lengths) == 5


def test_sb3_and_drama_agree_on_a_greedy_score(catch: Agent) -> None:
    env = drama.make_env("drama/Catch-v0", 123)
    sb3, _ = evaluate_policy(catch, env, 6, warn=False, return_episode_rewards=True)
    own = catch.evaluate(6, num_envs=1, seed=123, latents="mode")  # as predict does
    # SB3's DummyVecEnv resets once more after the last episode; the first six are the same.
    assert sb3 == [e.ret for e in own.episodes]


# -- callbacks ---------------------------------------------------------------------------------


class Counting(BaseCallback):
    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        self.events: list[str] = []
        self.steps: list[tuple[int, int]] = []
        self.stop_at = stop_at

    def _init_callback(self) -> None:
        self.events.append("init")
        assert isinstance(self.model, Agent)
        assert self.training_env is self.model.get_env()

    def _on_training_start(self) -> None:
        self.events.append("start")

    def _on_training_end(self) -> None:
        self.events.append("end")

    def _on_step(self) -> bool:
        self.steps.append((self.n_calls, self.num_timesteps))
        return self.num_timesteps != self.stop_at


def test_sb3_callback_is_called_during_learn() -> None:
    agent, callback = Agent(WALK, tiny()), Counting()
    agent.learn(5, callback)
    assert callback.events == ["init", "start", "end"]
    assert callback.steps == [(i, i) for i in range(1, 6)]
    agent.learn(2, callback)
    assert callback.num_timesteps == 7
    assert callback.events == ["init", "start", "end"] * 2


def test_an_sb3_callback_ends_training() -> None:
    callback = Counting(stop_at=3)
    assert Agent(WALK, tiny()).learn(50, callback).num_timesteps == 3
    assert callback.events[-1] == "end"


def test_saving_and_nested_sb3_callbacks_work(tmp_path: Path) -> None:
    saving = CheckpointCallback(save_freq=30, save_path=str(tmp_path), name_prefix="agent")
    inner = Counting()
    Agent(WALK, tiny()).learn(40, CallbackList([saving, EveryNTimesteps(10, inner)]))
    assert [n for _, n in inner.steps] == [10, 20, 30, 40]
    (saved,) = tmp_path.iterdir()
    # Saved in the middle of learn(), it continues like an agent that was never saved.
    twin, agent = Agent.load(saved), Agent(WALK, tiny()).learn(30)
    assert twin.num_timesteps == 30
    ends = [everything(a.learn(10), tmp_path / n) for a, n in ((twin, "a"), (agent, "b"))]
    assert not differences(*_without_logs(*ends))


def _without_logs(*ends: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in end.items() if k not in ("metrics", "episodes")} for end in ends]


def test_functions_and_lists_of_callbacks_work() -> None:
    seen: list[Any] = []

    def count(held: dict[str, Any], other: dict[str, Any]) -> None:
        assert isinstance(held, dict)
        assert isinstance(other, dict)
        seen.append(held["self"].num_timesteps)

    object_ = Counting()
    agent = Agent(WALK, tiny()).learn(4, [count, object_, [count, lambda a, b: True]])
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4]
    assert [n for n, _ in object_.steps] == [1, 2, 3, 4]
    assert agent.num_timesteps == 4


@pytest.mark.parametrize("no", [False, np.bool_(False)])
def test_any_callback_can_end_training_and_all_receive_the_last_step(no: Any) -> None:
    steps: list[int] = []

    def stop(held: dict[str, Any], _: dict[str, Any]) -> Any:
        return no if held["self"].num_timesteps == 3 else None

    agent = Agent(WALK, tiny())
    agent.learn(50, [stop, lambda held, _: steps.append(held["self"].num_timesteps)])
    assert agent.num_timesteps == 3
    assert steps == [1, 2, 3]
    assert agent.learn(2).num_timesteps == 5  # and it can continue


def test_a_numpy_bool_of_an_sb3_callback_ends_training() -> None:
    class Threshold(BaseCallback):
        def _on_step(self) -> bool:
            return np.float64(self.num_timesteps) < 4  # type: ignore[return-value]

    assert Agent(WALK, tiny()).learn(50, Threshold()).num_timesteps == 4


def test_invalid_callback_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"callback.*int"):
        Agent(WALK, tiny()).learn(5, [3], run_dir=tmp_path / "run")  # type: ignore[list-item]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("steps", [0, -1])
def test_zero_steps_are_refused(steps: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        Agent(WALK, tiny()).learn(steps, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_unavailable_logger_is_refused_before_anything_is_created(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="needs Weights & Biases: pip install"):
        Agent(WALK, tiny({"training.wandb": True})).learn(5, run_dir=run)
    assert not run.exists()
    Agent(WALK, tiny()).learn(5, run_dir=run)  # its name is still free
    before = contents(run)
    config = tiny({"training.wandb": True, "env.id": WALK})
    with pytest.raises(ConfigError, match="needs Weights & Biases"):
        Agent.load(run, config=config).learn(5)
    assert contents(run) == before
    # Without a run directory no logger is needed.
    assert Agent(WALK, tiny({"training.wandb": True})).learn(5).num_timesteps == 5


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


# -- where the environment comes from ----------------------------------------------------------


def test_id_object_and_factory_train_identically(tmp_path: Path) -> None:
    ends = []
    for name, source in (("id", WALK), ("object", Walk()), ("factory", walk)):
        agent = Agent(source, tiny(), seed=2).learn(34)
        ends.append(everything(agent, tmp_path / name))
        ends[-1]["state"].pop("env")  # its id: the class, for an object
    for other in ends[1:]:
        assert set(differences(ends[0], other)) <= {"config"}


def test_environments_of_every_source_can_be_evaluated() -> None:
    for source in (WALK, walk, gym.make(WALK), gym.make("CartPole-v1")):
        assert len(Agent(source, tiny()).evaluate(2).episodes) == 2


@pytest.mark.parametrize("env", ["drama/Catch-v0", "CartPole-v1"])
def test_environment_from_make_env_can_be_trained_and_evaluated(env: str) -> None:
    agent = Agent(drama.make_env(env, 3), tiny()).learn(26)
    assert len(agent.evaluate(2).episodes) == 2


def test_object_that_cannot_be_rebuilt_gives_a_clear_error() -> None:
    with pytest.raises(EnvError, match="function that returns a new environment"):
        Agent(Walk(), tiny()).evaluate(2)


class NoEnv:
    """Has the attributes of an environment, but is none."""

    observation_space = Walk.observation_space
    action_space = Walk.action_space
    step = Walk.step

    def __repr__(self) -> str:
        return "<NoEnv>"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (42, r"must be an id, a gymnasium\.Env or a function that returns one, got 42$"),
        (NoEnv(), r"must be an id, .* got <NoEnv>; .* old Gym API"),
        (lambda: 42, r"<lambda> was given as a function .* returned 42, which is no"),
        (lambda: None, r"returned None, which is no gymnasium\.Env"),
        (NoEnv, r"NoEnv was given as a function .* returned <NoEnv>.* wrap it with shimmy"),
    ],
)
def test_invalid_environment_is_refused(source: Any, words: str) -> None:
    with pytest.raises(EnvError, match=words):
        Agent(source, tiny())


def test_vector_environments_are_refused() -> None:
    several = gym.make_vec("CartPole-v1", num_envs=2)
    with pytest.raises(EnvError, match=r"CartPoleVectorEnv is several environments .* from one"):
        Agent(several, tiny())  # type: ignore[arg-type]
    stable = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(EnvError, match=r"a DummyVecEnv is several environments .* from one"):
        Agent(stable, tiny())  # type: ignore[arg-type]
    with pytest.raises(
        EnvError, match=r"returned CartPoleVectorEnv.*gymnasium\.Env; it is several"
    ):
        Agent(lambda: several, tiny())  # type: ignore[arg-type, return-value]
    several.close()


def test_preset_can_be_given_by_name() -> None:
    assert Agent("drama/Catch-v0", "quick", device="cpu").config.preset == "quick"
    with pytest.raises(ConfigError, match="unknown preset 'quik'; did you mean quick"):
        Agent("drama/Catch-v0", "quik")
    with pytest.raises(
        ConfigError, match=r"config must be a drama\.Config or the name of a preset"
    ):
        Agent("drama/Catch-v0", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("env", "name", "why"),
    [
        ("CartPole-v1", "quick", "vector observations"),
        ("drama/Catch-v0", "quick", "small pictures (32x32)"),
        ("ALE/Pong-v5", "laptop", "64x64 pictures on CPU"),
    ],
)
def test_default_preset_fits_the_environment_and_is_reported(
    env: str, name: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="drama")
    agent = Agent(env, seed=3, device="cpu")
    expected = presets.preset(name).override({"env.id": env, "seed": 3, "device": "cpu"})
    assert agent.config == expected
    assert agent.preset_reason == why
    assert [r.message for r in caplog.records] == [f"preset {name}, chosen for {why}"]
    assert f"Agent('{env}', preset {name}, " in repr(agent)


def test_repr_describes_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="drama")
    agent = Agent("CartPole-v1", tiny())
    assert repr(agent) == "Agent('CartPole-v1', preset quick*, 0.0 M world-model parameters, cpu)"
    assert agent.preset_reason is None
    assert not caplog.records


def test_unknown_environment_suggests_the_nearest() -> None:
    with pytest.raises(UnknownEnvError, match="'drama/Catch-v0'"):
        Agent("drama/Cacth-v0", tiny())


@pytest.mark.parametrize("local", [False, True])
def test_agent_from_a_local_factory_needs_it_again_at_load(local: bool, tmp_path: Path) -> None:
    agent = Agent((lambda: walk()) if local else walk, tiny()).learn(30)
    agent.save(tmp_path / "a")
    if local:
        with pytest.raises(EnvError):
            Agent.load(tmp_path / "a")
    twin = Agent.load(tmp_path / "a", env=(lambda: walk()) if local else None)
    ends = [everything(a.learn(9), tmp_path / n) for a, n in ((twin, "b"), (agent, "c"))]
    assert not differences(*_without_logs(*ends))


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
    assert not differences(*_without_logs(*ends))
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
    assert not differences(*_without_logs(*ends))


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
    assert not differences(*_without_logs(*ends))


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
        model = WorldModel(agent.config.world_model, (3,), ActionSpace(2))
    expected = model.state_dict()
    found = agent.world_model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# -- predict -----------------------------------------------------------------------------------


def frames(*lead: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*lead, 32, 32, 3), dtype=np.uint8)


def test_predict_accepts_one_observation_or_a_batch(catch: Agent) -> None:
    obs = frames(3)
    actions, state = catch.predict(obs, deterministic=True)
    assert actions.shape == (3,)
    assert actions.dtype.kind == "i"
    for i in range(3):
        action, single = catch.predict(obs[i], deterministic=True)
        assert np.ndim(action) == 0
        assert action == actions[i]
        assert catch.action_space.contains(action)
        torch.testing.assert_close(single.deter[0], state.deter[i])


def test_deterministic_predict_uses_no_random_numbers(catch: Agent) -> None:
    obs = frames(5)
    before = catch._generator.get_state()
    first, state = catch.predict(obs, deterministic=True)
    second, again = catch.predict(obs, deterministic=True)
    assert np.array_equal(first, second)
    assert torch.equal(state.deter, again.deter)
    assert torch.equal(before, catch._generator.get_state())


def test_sampled_actions_differ_and_depend_on_the_seed() -> None:
    obs = frames(64)
    draws = [Agent("drama/Catch-v0", tiny(), seed=s).predict(obs)[0] for s in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert set(draws[0]) == {0, 1, 2}  # a new policy is uniform


def test_state_carries_the_past_and_episode_start_resets_it(catch: Agent) -> None:
    past, now = frames(2, 3)
    _, carried = catch.predict(past, deterministic=True)
    kept = copy.deepcopy(carried)
    _, on = catch.predict(now, carried, np.array([False] * 3), deterministic=True)
    _, fresh = catch.predict(now, deterministic=True)
    _, mixed = catch.predict(now, carried, np.array([True, False, True]), deterministic=True)
    assert not torch.allclose(on.deter, fresh.deter)
    torch.testing.assert_close(mixed.deter[[0, 2]], fresh.deter[[0, 2]])
    torch.testing.assert_close(mixed.deter[1], on.deter[1])
    # The passed state can be used again.
    assert torch.equal(carried.deter, kept.deter)
    _, default = catch.predict(now, carried, deterministic=True)
    assert torch.equal(default.deter, on.deter)


def test_raw_and_adapted_observations_are_accepted() -> None:
    class Grey(Walk):
        """Float images and actions that start at 5: both have to be adapted."""

        observation_space = gym.spaces.Box(0.0, 1.0, (16, 16), np.float32)
        action_space = gym.spaces.Discrete(3, start=5)

        def _obs(self) -> Any:
            return self.np_random.random((16, 16), dtype=np.float32)

    agent = Agent(Grey, tiny({"env.image_size": 16})).learn(26)
    raw = np.random.default_rng(0).random((4, 16, 16), dtype=np.float32)
    actions, state = agent.predict(raw, deterministic=True)
    assert set(actions) <= {5, 6, 7}
    adapted, _ = agent.get_env().reset()
    assert adapted.dtype == np.uint8
    action, _ = agent.predict(adapted, deterministic=True)
    assert action in (0, 1, 2)
    single, _ = agent.predict(raw[0], deterministic=True)
    assert single == actions[0]
    assert state.deter.shape[0] == 4
    returns, _ = evaluate_policy(agent, Grey(), 2, warn=False, return_episode_rewards=True)
    assert len(returns) == 2


class Dim(Walk):
    """Images with the agent's shape and type, but a maximum of 10; actions start at 1."""

    observation_space = gym.spaces.Box(0, 10, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2, start=1)

    def _obs(self) -> Any:
        return np.full((16, 16, 3), 10, np.uint8)


def test_ambiguous_observations_are_read_as_adapted() -> None:
    agent = Agent(Dim, tiny({"env.image_size": 16}))
    dim, _ = Dim().reset()
    bright, _ = agent.get_env().reset()
    assert (dim.max(), bright.max()) == (10, 255)
    for obs in (dim, bright):
        read, single, raw = as_batch(obs, agent.observation_space, adapter_of(agent.env))
        assert np.array_equal(read[0], obs)
        assert (single, raw) == (True, False)
    assert set(agent.predict(np.stack([dim] * 40))[0]) == {0, 1}
    # As documented: the adapted environment accepts these actions.
    env = adapt(Dim(), image_size=16)
    returns, _ = evaluate_policy(agent, env, 2, warn=False, return_episode_rewards=True)
    assert len(returns) == 2


@pytest.mark.parametrize(
    "shape", [(), (3,), (32, 32), (32, 32, 4), (16, 16, 3), (2, 3, 32, 32, 3), (3, 32, 32)]
)
def test_observations_of_another_shape_are_refused(shape: tuple[int, ...], catch: Agent) -> None:
    with pytest.raises(EnvError, match="fit"):
        catch.predict(np.zeros(shape, np.uint8))


def test_observations_of_another_kind_are_refused(cart: Agent) -> None:
    with pytest.raises(EnvError):
        cart.predict(np.zeros(5, np.float32))
    with pytest.raises(EnvError):
        cart.predict(np.array(["a", "b", "c", "d"]))


@pytest.mark.parametrize(
    ("observation", "what"),
    [
        (None, "fit"),
        ({}, "fit"),
        ("abcd", "fit"),
        ([[0.0], [0.0, 1.0]], "must be an array, got list"),
        ((np.zeros(4, np.float32), {}), r"got tuple; reset\(\) returns \(obs, info\)"),
        (np.array([0, 0, np.nan, 0], np.float32), "contains NaN or Inf"),
        (np.array([0, 0, np.inf, 0]), "contains NaN or Inf"),
    ],
)
def test_invalid_observations_are_refused(observation: Any, what: str, cart: Agent) -> None:
    with pytest.raises(EnvError, match=what) as caught:
        cart.predict(observation)
    assert "\n" not in str(caught.value)


def test_invalid_states_are_refused(cart: Agent) -> None:
    obs = np.zeros(4, np.float32)
    with pytest.raises(EnvError, match=r"state must be what the last call returned, .* got tuple"):
        cart.predict(obs, (1, 2))
    with pytest.raises(EnvError, match=r"episode_start must be bool \(1,\), got 'a'"):
        cart.predict(obs, cart.predict(obs)[1], "a")


def test_episode_starts_of_another_batch_size_are_refused(catch: Agent) -> None:
    _, state = catch.predict(frames(2))
    with pytest.raises(EnvError):
        catch.predict(frames(2), state, np.ones(3, dtype=bool))
    with pytest.raises(EnvError):
        catch.predict(frames(3), state)
