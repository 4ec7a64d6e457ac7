"""The model-free agents that Drama is compared with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import baselines  # noqa: E402


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def command(tmp_path, agents):
    return [
        *("--envs", "drama/Catch-v0", "--agents", *agents, "--steps", "300", "--seeds", "3"),
        *("--episodes", "4", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")),
    ]


def test_runs_are_recorded_completely_and_not_repeated(tmp_path):
    baselines.main(command(tmp_path, ["ppo", "dqn-short"]))
    found = json.loads((tmp_path / "out" / "drama-Catch-v0-dqn-short.json").read_text())
    (run,) = found["runs"]
    assert run["environment_steps"] == 300
    # Catch lasts seven steps with a final reward of 1 or -1.
    assert run["episodes"]["step"] == list(range(7, 301, 7))
    assert set(run["episodes"]["return"]) <= {-1.0, 1.0}
    assert set(run["episodes"]["length"]) == {7}
    assert len(run["greedy"]["returns"]) == 4
    assert run["greedy"]["mean"] == np.mean(run["greedy"]["returns"])
    assert found["protocol"]["id"] == "drama/Catch-v0"
    assert found["command"].endswith(
        "--envs drama/Catch-v0 --agents dqn-short --steps 300 --seeds 3"
    )
    assert found["settings"]["settings"]["batch_size"] == 32
    ppo = json.loads((tmp_path / "out" / "drama-Catch-v0-ppo.json").read_text())
    assert ppo["runs"][0]["environment_steps"] == 1024  # 8 environments of 128 steps

    (kept,) = (tmp_path / "runs").glob("*dqn-short*")
    row = json.loads(kept.read_text())
    row["greedy"]["mean"] = 0.125
    kept.write_text(json.dumps(row))
    baselines.main(command(tmp_path, ["dqn-short"]))
    again = json.loads((tmp_path / "out" / "drama-Catch-v0-dqn-short.json").read_text())
    assert again["runs"][0]["greedy"]["mean"] == 0.125


@pytest.mark.parametrize(("steps", "final"), [(50_000, 0.55), (100_000, 0.1), (400_000, 0.1)])
def test_short_run_uses_part_of_the_published_exploration_schedule(steps, final):
    settings = baselines.baselines(steps)["dqn"].settings
    assert settings["exploration_final_eps"] == pytest.approx(final)
    # Steps over which epsilon falls: never beyond the run, never beyond 100 000.
    assert settings["exploration_fraction"] * steps == min(steps, 100_000)


def test_network_has_the_size_of_the_paper():
    space = baselines.gym.spaces.Box(0.0, 1.0, (4, 10, 10), np.float32)
    network = baselines.SmallCNN(space)
    # 16 filters of 3 x 3 x 4 and a bias; 8 x 8 x 16 inputs to 128 units and a bias.
    assert sum(p.numel() for p in network.parameters()) == 16 * 37 + 128 * 1025


def test_atari_agents_use_four_frames_and_reward_signs(monkeypatch):
    spec = baselines.baselines(1)["ppo-atari"]
    envs = spec.environments("ALE/Breakout-v5", 0, 2, learning=True)
    assert envs.reset().shape == (2, 64, 64, 12)
    rewards = []
    for _ in range(400):
        actions = np.array([envs.action_space.sample() for _ in range(2)])
        rewards += list(envs.step(actions)[1])
    assert set(np.abs(rewards)) <= {0.0, 1.0}
    envs.close()
    # An evaluation takes half a minute, and is the same for all.
    monkeypatch.setattr(baselines, "evaluate", lambda *_, **__: [1.0])
    row = baselines.train("ALE/Boxing-v5", "ppo-atari", 64, seed=0, episodes=1)
    assert row["environment_steps"] == 1024
