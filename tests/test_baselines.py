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

from benchmarks import baseline_agents, baselines  # noqa: E402
from gymnasium import spaces  # noqa: E402

from drama.suite import load_spec  # noqa: E402


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
    found = json.loads((tmp_path / "out" / "drama-Catch-v0-dqn-short-300.json").read_text())
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
    ppo = json.loads((tmp_path / "out" / "drama-Catch-v0-ppo-300.json").read_text())
    assert ppo["runs"][0]["environment_steps"] == 1024  # 8 environments of 128 steps

    (kept,) = (tmp_path / "runs").glob("*dqn-short*")
    row = json.loads(kept.read_text())
    row["greedy"]["mean"] = 0.125
    kept.write_text(json.dumps(row))
    baselines.main(command(tmp_path, ["dqn-short"]))
    again = json.loads((tmp_path / "out" / "drama-Catch-v0-dqn-short-300.json").read_text())
    assert again["runs"][0]["greedy"]["mean"] == 0.125


@pytest.mark.parametrize(("steps", "final"), [(50_000, 0.55), (100_000, 0.1), (400_000, 0.1)])
def test_short_run_uses_part_of_the_published_exploration_schedule(steps, final):
    settings = baseline_agents.pictures(steps)["dqn"].settings
    assert settings["exploration_final_eps"] == pytest.approx(final)
    # Steps over which epsilon falls: never beyond the run, never beyond 100 000.
    assert settings["exploration_fraction"] * steps == min(steps, 100_000)


def test_network_has_the_size_of_the_paper():
    space = spaces.Box(0.0, 1.0, (4, 10, 10), np.float32)
    network = baseline_agents.SmallCNN(space)
    # 16 filters of 3 x 3 x 4 and a bias; 8 x 8 x 16 inputs to 128 units and a bias.
    assert sum(p.numel() for p in network.parameters()) == 16 * 37 + 128 * 1025


def test_atari_agents_use_four_frames_and_reward_signs(monkeypatch):
    spec = baseline_agents.pictures(1)["ppo-atari"]
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


def test_vectors_have_the_tuned_settings_of_their_game(tmp_path):
    out = tmp_path / "out"
    baselines.main(
        [
            *("--envs", "CartPole-v1", "--steps", "300", "--seeds", "0", "--episodes", "2"),
            *("--runs", str(tmp_path / "runs"), "--out", str(out)),
        ]
    )
    found = {agent: json.loads((out / f"CartPole-v1-{agent}-300.json").read_text())
             for agent in ("dqn-zoo", "ppo-zoo")}  # fmt: skip
    # dqn.yml and ppo.yml of RL Baselines3 Zoo.
    assert found["dqn-zoo"]["settings"]["settings"]["target_update_interval"] == 10
    assert found["dqn-zoo"]["settings"]["policy"] == {"net_arch": [256, 256]}
    assert found["ppo-zoo"]["settings"]["settings"]["gae_lambda"] == 0.8
    # One rollout of 8 environments has 32 steps of each.
    assert found["ppo-zoo"]["runs"][0]["environment_steps"] == 512
    assert all(result["runs"][0]["cpu_seconds"] > 0 for result in found.values())


def test_observations_are_normalised_as_in_training(monkeypatch):
    """Acrobot learns from normalised observations and rewards; returns stay those of the game."""
    seen = []
    original = baselines.VecNormalize.normalize_obs

    def normalised(self, obs):
        seen.append((self.training, self.norm_reward, self.obs_rms))
        return original(self, obs)

    monkeypatch.setattr(baselines.VecNormalize, "normalize_obs", normalised)
    spec = baseline_agents.baselines("Acrobot-v1", 64)["ppo-zoo"]
    assert (spec.normalise, spec.num_envs) == (True, 16)
    monkeypatch.setitem(spec.settings, "n_steps", 4)
    row = baselines.train("Acrobot-v1", "ppo-zoo", 64, seed=0, episodes=1)
    learning = {id(stats) for training, _, stats in seen if training}
    evaluated = {id(stats) for training, _, stats in seen if not training}
    assert learning == evaluated
    assert len(learning) == 1
    assert not any(reward for training, reward, _ in seen if not training)
    assert -500.0 <= row["greedy"]["mean"] <= -60.0


def test_suite_baselines_have_its_games_steps_and_seeds():
    spec = load_spec("small")
    tasks = baselines.suite_tasks("small")
    assert {task.env for task in tasks} == {g for g in spec.games if "Recall" not in g}
    assert all(task.steps == spec.steps_of(task.env) for task in tasks)
    assert {task.seeds for task in tasks} == {spec.seeds}
    agents = {task.agent for task in tasks if task.env == "Acrobot-v1"}
    assert agents == {"dqn-zoo", "ppo-zoo"}
    assert {t.agent for t in tasks if t.env == "MinAtar/Asterix-v1"} == {"dqn-short", "ppo"}
    assert {t.agent for t in baselines.suite_tasks("atari-laptop")} == {"ppo-atari"}
    for task in tasks:
        assert task.agent in baseline_agents.baselines(task.env, task.steps)
