"""Environments and configurations that an agent accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.agent.helpers import WALK, walk, without_logs
from tests.training.faulty_envs import Walk
from tests.training.runs import differences, everything, tiny

import drama
from drama import Agent, presets
from drama.errors import ConfigError, EnvError, UnknownEnvError


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
    assert not differences(*without_logs(*ends))
