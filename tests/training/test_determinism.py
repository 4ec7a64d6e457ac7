"""A seed determines the run; global random states are neither used nor changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import (
    assert_same_run,
    differences,
    episodes,
    global_random_state,
    metrics,
    snapshot,
    tiny,
)

from drama import Agent


@pytest.mark.parametrize("env", ["drama/Catch-v0", "CartPole-v1"])
def test_run_depends_on_the_seed_only(env: str, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(hash(name) % 1000)  # the caller's seed has no effect
        Agent(env, tiny(), seed=seed).learn(40, run_dir=tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert episodes(tmp_path / "a") == episodes(tmp_path / "b")
    assert metrics(tmp_path / "a") != metrics(tmp_path / "c")
    changed = set(differences(snapshot(tmp_path / "a"), snapshot(tmp_path / "c")))
    assert {"replay/obs", "replay/action", "loop/generator.acting"} <= changed


def test_metrics_hold_losses_of_world_model_and_behaviour(tmp_path: Path) -> None:
    Agent(env_id(Walk), tiny()).learn(40, run_dir=tmp_path / "run")
    first, *_, last = metrics(tmp_path / "run")
    assert first == {"step": 10, "episodes": 1, "updates": 0}
    assert last["step"] == 40
    assert last["updates"] == 8
    assert last["episodes"] == 5  # 40 steps hold 5 whole episodes of 7
    assert {"world_model/loss", "behaviour/actor", "behaviour/grad_norm"} <= last.keys()
    assert all(np.isfinite(value) for value in last.values())


def test_logged_episodes_match_the_played_ones(tmp_path: Path) -> None:
    Agent(env_id(Walk), tiny()).learn(40, run_dir=tmp_path / "run")
    found = snapshot(tmp_path / "run")
    rewards = found["replay/reward"].split(8)  # 7 steps and the final observation
    assert episodes(tmp_path / "run") == [
        {"step": 7 * (i + 1), "return": float(rewards[i].sum()), "length": 7} for i in range(5)
    ]


def test_global_random_state_is_unchanged(tmp_path: Path) -> None:
    torch.manual_seed(987)  # a state that no agent produces
    before = global_random_state()
    agent = Agent(env_id(Walk), tiny())
    assert global_random_state() == before
    agent.learn(40, run_dir=tmp_path / "run")
    assert global_random_state() == before
    agent.evaluate(2)
    agent.predict(np.zeros(3, np.float32))
    assert global_random_state() == before
    Agent.load(tmp_path / "run").learn(4)
    assert global_random_state() == before


def test_more_logging_does_not_change_the_run(tmp_path: Path) -> None:
    for name, changes in (("plain", {}), ("board", {"training.tensorboard": True})):
        Agent(env_id(Walk), tiny(changes)).learn(40, run_dir=tmp_path / name)
    assert list((tmp_path / "board" / "tensorboard").iterdir())
    changed = differences(snapshot(tmp_path / "plain"), snapshot(tmp_path / "board"))
    assert changed == ["config"]
    Agent(env_id(Walk), tiny({"training.checkpoint_every": 7})).learn(40, run_dir=tmp_path / "more")
    changed = differences(snapshot(tmp_path / "plain"), snapshot(tmp_path / "more"))
    assert changed == ["config"]


def test_another_number_of_threads_is_reported(tmp_path: Path) -> None:
    notes: list[str] = []

    def listen(event: str, payload: object) -> None:
        if event == "note":
            notes.append(str(payload))

    config = tiny({"training.threads": 0})  # as many as the process has
    Agent(env_id(Walk), config).learn(26, run_dir=tmp_path / "run")
    agent = Agent.load(tmp_path / "run")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        agent.learn(4, listeners=[listen])
    finally:
        torch.set_num_threads(threads)
    assert any(f"saved with {threads} threads, now {threads + 1}" in note for note in notes)
