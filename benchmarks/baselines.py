"""Model-free baselines on the same environments: ``python -m benchmarks.baselines --suite small``.

Trains the agents of ``benchmarks.baseline_agents`` (Stable-Baselines3's DQN and PPO) on the same
adapted environments for the same number of environment steps, evaluates them on seeds unused in
training, and writes ``docs/assets/results/<env>-<agent>-<steps>.json``: learning curves, evaluation
episodes, settings with sources, versions, wall and CPU time. With ``--suite`` games, steps and
seeds are those of a suite, otherwise those given. Finished runs under ``--runs`` are not repeated.

``greedy`` evaluates the most probable action, ``sampled`` a sampled one (PPO from the policy, DQN
with its last epsilon). A run ends with the first whole rollout at or after the number of steps,
which is its own ``environment_steps``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

import drama
from benchmarks import measure
from benchmarks.baseline_agents import Baseline, baselines, names_of
from drama.suite import load_spec

RESULTS = measure.DOCS / "assets" / "results"
EPISODES = {"MinAtar/Freeway-v1": 20, "ALE/": 20}
"""Evaluation episodes by the beginning of a game's id, else 100; Freeway's take 2501 steps each."""
EVALUATION_SEED = 10_000
"""As :class:`drama.config.EvaluationConfig`: distinct from training seeds."""


class Episodes(BaseCallback):
    """Records step, return and length of every training episode."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                found = info["episode"]
                row = {"step": self.num_timesteps, "return": float(found["r"])}
                self.rows.append({**row, "length": int(found["l"])})
        return True


def evaluate(
    model: BaseAlgorithm, spec: Baseline, env_id: str, episodes: int, *, greedy: bool
) -> list[float]:
    """Return the returns of ``episodes`` consecutive episodes."""
    env = spec.environments(env_id, EVALUATION_SEED, 1, learning=False)
    if (learnt := model.get_vec_normalize_env()) is not None:
        env = VecNormalize(env, training=False, norm_reward=False)
        env.obs_rms = learnt.obs_rms
    returns: list[float] = []
    obs, total = env.reset(), 0.0
    while len(returns) < episodes:
        action, _ = model.predict(obs, deterministic=greedy)
        obs, reward, over, _ = env.step(action)
        total += float(reward[0])
        if over[0]:
            returns.append(total)
            total = 0.0
    env.close()
    return returns


def train(env_id: str, name: str, steps: int, seed: int, episodes: int) -> dict[str, Any]:
    """Train and evaluate one seed."""
    spec = baselines(env_id, steps)[name]
    envs: VecEnv = spec.environments(env_id, None, spec.num_envs, learning=True)
    if spec.normalise:
        envs = VecNormalize(envs, gamma=spec.settings["gamma"])
    settings = dict(spec.settings)
    for key in spec.anneal:
        settings[key] = LinearSchedule(settings[key], 0.0, 1.0)
    model = spec.algorithm(
        "CnnPolicy" if len(envs.observation_space.shape or ()) == 3 else "MlpPolicy",
        envs,
        seed=1000 * seed,  # of the first environment; the others' follow it
        device="cpu",
        policy_kwargs=spec.policy_options(),
        **settings,
    )
    curve = Episodes()
    began, used = time.perf_counter(), time.process_time()
    model.learn(steps, callback=curve)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    greedy = evaluate(model, spec, env_id, episodes, greedy=True)
    sampled = evaluate(model, spec, env_id, episodes, greedy=False)
    return {
        "seed": seed,
        "environment_steps": model.num_timesteps,
        "wall_seconds": round(seconds, 1),
        "cpu_seconds": round(used, 3),
        "greedy": {"mean": float(np.mean(greedy)), "returns": greedy},
        "sampled": {"mean": float(np.mean(sampled)), "returns": sampled},
        "episodes": curve.rows,
    }


def run(
    env_id: str, name: str, steps: int, seeds: Sequence[int], episodes: int, place: Path
) -> dict[str, Any]:
    """Train the unfinished seeds and collect all results."""
    rows = []
    for seed in seeds:
        path = place / f"{slug(env_id)}-{name}-{steps}-seed-{seed}.json"
        if not path.is_file():
            place.mkdir(parents=True, exist_ok=True)
            row = train(env_id, name, steps, seed, episodes)
            path.write_text(json.dumps(row) + "\n", encoding="utf-8")
        row = json.loads(path.read_text(encoding="utf-8"))
        columns = ("step", "return", "length")
        row["episodes"] = {key: [each[key] for each in row["episodes"]] for key in columns}
        rows.append(row)
        print(
            f"{env_id} {name} seed {seed}: greedy {rows[-1]['greedy']['mean']:.2f}, "
            f"sampled {rows[-1]['sampled']['mean']:.2f}, {rows[-1]['wall_seconds']:.0f} s",
            flush=True,
        )
    spec = baselines(env_id, steps)[name]
    described = asdict(spec) | {"algorithm": spec.algorithm.__name__}
    described["network"] = spec.network.__name__
    described["policy"] = {k: v.__doc__ if callable(v) else v for k, v in spec.policy.items()}
    env = drama.make_env(env_id)
    result = {
        "env": env_id,
        "agent": name,
        "steps": steps,
        "command": (
            f"python -m benchmarks.baselines --envs {env_id} --agents {name} --steps {steps} "
            f"--seeds {' '.join(map(str, seeds))}"
        ),
        "settings": described,
        "network": inspect.getdoc(spec.network),
        "protocol": drama.envs.describe(env),
        "evaluation": {"episodes": episodes, "seed": EVALUATION_SEED},
        "versions": {"stable_baselines3": sb3.__version__, "torch": torch.__version__},
        "machine": measure.machine(torch.get_num_threads()),
        "runs": rows,
    }
    env.close()
    return result


def text(result: dict[str, Any]) -> str:
    """Return ``result`` as readable JSON, one run per line."""
    lines = ",\n".join("    " + json.dumps(row) for row in result["runs"])
    return (
        json.dumps({**result, "runs": []}, indent=2).replace(
            '"runs": []', f'"runs": [\n{lines}\n  ]'
        )
        + "\n"
    )


def slug(env_id: str) -> str:
    """Return ``env_id`` as part of a file name."""
    return env_id.replace("/", "-")


def write(result: dict[str, Any], place: Path) -> Path:
    """Write the results of an agent on a game; the file is named for game, agent and steps."""
    place.mkdir(parents=True, exist_ok=True)
    path = place / f"{slug(result['env'])}-{result['agent']}-{result['steps']}.json"
    path.write_text(text(result), encoding="utf-8")
    return path


def episodes_of(env_id: str) -> int:
    """Return the number of evaluation episodes of a game."""
    return next((n for start, n in EPISODES.items() if env_id.startswith(start)), 100)


class Task(NamedTuple):
    """Runs of one agent on one game."""

    env: str
    agent: str
    steps: int
    seeds: tuple[int, ...]


def suite_tasks(source: str) -> list[Task]:
    """Return the baselines of a suite: its games, at its steps, with its seeds."""
    spec = load_spec(source)
    found = []
    for env_id in spec.games:
        steps = spec.config(spec.variants[0], env_id, spec.seeds[0]).steps
        found += [Task(env_id, name, steps, spec.seeds) for name in names_of(env_id)]
    return found


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.baselines")
    parser.add_argument("--suite", help="a built-in suite or a .toml file, instead of:")
    parser.add_argument("--envs", nargs="+", default=["MinAtar/Breakout-v1", "MinAtar/Freeway-v1"])
    parser.add_argument("--agents", nargs="+", help="default: those of the game")
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, help="episodes per evaluation")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the networks are too small to share out
    if options.suite is not None:
        tasks = suite_tasks(options.suite)
    else:
        seeds = tuple(options.seeds)
        tasks = [
            Task(env_id, name, options.steps, seeds)
            for env_id in options.envs
            for name in options.agents or names_of(env_id)
        ]
    for env_id, name, steps, seeds in tasks:
        episodes = options.episodes or episodes_of(env_id)
        write(run(env_id, name, steps, seeds, episodes, options.runs), options.out)


if __name__ == "__main__":
    main()
