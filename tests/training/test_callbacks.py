"""Unchanged Stable-Baselines3 callbacks, and the interface that callbacks see."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common import callbacks as sb3
from stable_baselines3.common.vec_env import DummyVecEnv
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import differences, everything, tiny

import drama
from drama import Agent
from drama.errors import ConfigError, RunDirError

WALK = env_id(Walk)


class Noting(sb3.BaseCallback):
    """Records every call, and the locals of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.seen: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        self.calls.append("start")

    def _on_rollout_start(self) -> None:
        self.calls.append("rollout")

    def _on_step(self) -> bool:
        self.calls.append("step")
        self.seen.append(dict(self.locals))
        return True

    def _on_rollout_end(self) -> None:
        self.calls.append("end of rollout")

    def _on_training_end(self) -> None:
        self.calls.append("end")


def evaluating(path: Path, **options: Any) -> sb3.EvalCallback:
    return sb3.EvalCallback(
        drama.make_env(WALK, 1),
        n_eval_episodes=1,
        eval_freq=10,
        log_path=str(path / "log"),
        best_model_save_path=str(path / "best"),
        warn=False,
        verbose=0,
        **options,
    )


MADE: dict[str, Callable[[Path], sb3.BaseCallback]] = {
    "EventCallback": lambda path: sb3.EventCallback(Noting()),
    "CallbackList": lambda path: sb3.CallbackList([Noting(), Noting()]),
    "CheckpointCallback": lambda path: sb3.CheckpointCallback(
        10, str(path), save_replay_buffer=True, save_vecnormalize=True
    ),
    "ConvertCallback": lambda path: sb3.ConvertCallback(lambda held, other: "dones" in held),
    "EvalCallback": lambda path: evaluating(path, callback_after_eval=Noting()),
    "StopTrainingOnRewardThreshold": lambda path: evaluating(
        path, callback_on_new_best=sb3.StopTrainingOnRewardThreshold(-100.0)
    ),
    "EveryNTimesteps": lambda path: sb3.EveryNTimesteps(7, Noting()),
    "LogEveryNTimesteps": lambda path: sb3.LogEveryNTimesteps(7),
    "StopTrainingOnMaxEpisodes": lambda path: sb3.StopTrainingOnMaxEpisodes(2, verbose=1),
    "StopTrainingOnNoModelImprovement": lambda path: evaluating(
        path, callback_after_eval=sb3.StopTrainingOnNoModelImprovement(1)
    ),
    "ProgressBarCallback": lambda path: sb3.ProgressBarCallback(),
}
ENDS = {
    "StopTrainingOnRewardThreshold": 10,  # the first evaluation
    "StopTrainingOnMaxEpisodes": 14,  # two walks of seven steps
}
"""Steps after which training ends, if not at the requested 30."""


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, kind in inspect.getmembers(sb3, inspect.isclass)
        if issubclass(kind, sb3.BaseCallback) and kind is not sb3.BaseCallback
    ],
)
def test_every_callback_of_sb3_works_unchanged(name: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        # tqdm warns that its rich bar is experimental; Stable-Baselines3 hides that at its import.
        warnings.filterwarnings("ignore", message=r".*rich is experimental")
        agent = Agent(WALK, tiny()).learn(30, MADE[name](tmp_path), run_dir=tmp_path / "run")
    if name != "StopTrainingOnNoModelImprovement":
        assert agent.num_timesteps == ENDS.get(name, 30)


def test_eval_callback_overwrites_the_best_agent(tmp_path: Path) -> None:
    class Better(sb3.EvalCallback):
        def _on_step(self) -> bool:
            self.best_mean_reward = -np.inf
            return super()._on_step()

    callback = Better(DummyVecEnv([Walk]), eval_freq=10, n_eval_episodes=1, warn=False, verbose=0)
    callback.best_model_save_path = str(tmp_path)
    agent = Agent(WALK, tiny()).learn(25, callback)
    assert agent.num_timesteps == 25
    assert [p.name for p in tmp_path.iterdir()] == ["best_model"]
    assert Agent.load(tmp_path / "best_model").num_timesteps == 20


def test_save_replaces_saved_agents_only(tmp_path: Path) -> None:
    Agent(WALK, tiny()).learn(5, run_dir=tmp_path / "walk_5_steps.zip")
    saving = sb3.CheckpointCallback(5, str(tmp_path), "walk")
    with pytest.raises(RunDirError, match="exists already"):
        Agent(WALK, tiny()).learn(5, saving)


def test_callbacks_do_not_change_training(tmp_path: Path) -> None:
    ends = []
    for name, callback in (("a", None), ("b", [evaluating(tmp_path), Noting(), lambda a, b: None])):
        ends.append(everything(Agent(WALK, tiny()).learn(40, callback), tmp_path / name))
    kept = [{k: v for k, v in e.items() if k != "drawn by predict"} for e in ends]
    assert not differences(*kept)


def test_calls_come_in_the_order_of_sb3() -> None:
    callback = Noting()
    Agent(WALK, tiny()).learn(2, callback)
    one = ["rollout", "step", "end of rollout"]
    assert callback.calls == ["start", *one, *one, "end"]


def test_locals_hold_the_last_step() -> None:
    callback, held = Noting(), []
    agent = Agent(WALK, tiny()).learn(9, [callback, lambda a, b: held.append(dict(a))])
    assert len(callback.seen) == len(held) == 9
    for step in callback.seen:
        assert step["self"].num_timesteps == agent.num_timesteps
        assert step["total_timesteps"] == 9
        assert step["actions"].shape == step["rewards"].shape == step["dones"].shape == (1,)
        assert step["new_obs"].shape == (1, *agent.observation_space.shape)
    assert [bool(step["dones"][0]) for step in held] == [False] * 6 + [True] + [False] * 2
    (info,) = callback.seen[6]["infos"]
    np.testing.assert_array_equal(info["terminal_observation"], callback.seen[6]["new_obs"][0])
    assert info["episode"]["l"] == 7
    assert info["TimeLimit.truncated"] in (True, False)
    assert "episode" not in callback.seen[7]["infos"][0]
    agent.learn(3, callback)
    assert callback.seen[-1]["total_timesteps"] == 12


def test_model_has_the_attribute_names_of_sb3() -> None:
    class Looking(sb3.BaseCallback):
        def _on_step(self) -> bool:
            model: Any = self.model
            assert isinstance(model, Agent)
            assert isinstance(self.training_env, DummyVecEnv)
            assert self.training_env.num_envs == model.n_envs == 1
            assert self.training_env.envs[0] is agent.env
            assert model.get_vec_normalize_env() is None
            assert model.num_timesteps == agent.num_timesteps
            action, _ = model.predict(np.zeros(3, np.float32), deterministic=True)
            assert action in (0, 1)
            assert [e["l"] for e in model.ep_info_buffer] == [7] * (self.n_calls // 7)
            model.noted = self.n_calls
            return True

    agent = Agent(WALK, tiny())
    agent.learn(9, Looking())
    assert agent.noted == 9  # type: ignore[attr-defined]
    assert isinstance(agent.get_env(), gym.Env)  # drama's env stays a Gymnasium environment


def test_values_recorded_by_callbacks_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Recording(sb3.BaseCallback):
        def _on_step(self) -> bool:
            self.logger.record("mine/steps", self.num_timesteps)
            return True

    config = tiny({"training.tensorboard": True})
    Agent(WALK, config).learn(15, Recording(), run_dir=tmp_path / "run")
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    # With each row of metrics, and at the end.
    assert [(e.step, e.value) for e in board.Scalars("mine/steps")] == [(10, 9.0), (15, 15.0)]


def test_logs_are_written_when_a_callback_asks(tmp_path: Path) -> None:
    from tests.training.runs import json_rows

    Agent(WALK, tiny()).learn(20, sb3.LogEveryNTimesteps(5), run_dir=tmp_path / "run")
    assert [row["step"] for row in json_rows(tmp_path / "run" / "metrics.jsonl")] == [5, 10, 15, 20]


def needs_evaluation() -> list[Any]:
    stop, patience = sb3.StopTrainingOnRewardThreshold, sb3.StopTrainingOnNoModelImprovement
    return [
        stop(1.0),
        sb3.CallbackList([patience(3)]),
        [Noting(), sb3.EveryNTimesteps(5, stop(1.0))],
        sb3.EvalCallback(Walk(), callback_after_eval=sb3.EveryNTimesteps(5, patience(3))),
    ]


@pytest.mark.parametrize(
    ("callback", "words"),
    [
        *((callback, "give it to one as callback_on_new_best") for callback in needs_evaluation()),
        (Noting, "got the class Noting: call it"),
        (lambda held: None, r"takes \(locals, globals\)"),
        (print, None),
    ],
)
def test_unsupported_callbacks_are_refused_at_once(
    callback: Any, words: str | None, tmp_path: Path
) -> None:
    if words is None:  # it accepts anything
        Agent(WALK, tiny()).learn(1, callback)
        return
    with pytest.raises(ConfigError, match=words):
        Agent(WALK, tiny()).learn(5, callback, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unsupported_callbacks_are_allowed_within_eval_callback() -> None:
    nested = sb3.CallbackList([sb3.StopTrainingOnNoModelImprovement(3)])
    callback = sb3.EvalCallback(Walk(), callback_after_eval=nested, eval_freq=1000)
    assert Agent(WALK, tiny()).learn(2, callback).num_timesteps == 2
