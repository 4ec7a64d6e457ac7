"""Stable-Baselines3's tools with an agent, and callbacks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EveryNTimesteps,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.agent.helpers import WALK, without_logs
from tests.training.runs import contents, differences, everything, tiny

import drama
from drama import Agent
from drama.errors import ConfigError

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
    assert not differences(*without_logs(*ends))


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
