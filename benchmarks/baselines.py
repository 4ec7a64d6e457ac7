"""Model-free baselines on the same environments: ``python -m benchmarks.baselines``.

Trains Stable-Baselines3's DQN and PPO on the same adapted environments for the same number of
environment steps, evaluates them on seeds unused in training, and writes
``docs/assets/results/<env>-<agent>.json``: learning curves, evaluation episodes, settings with
sources, versions, wall time. Finished runs under ``--runs`` are not repeated.

On MinAtar all use the small convolutional network of its paper.

``dqn``
    The MinAtar paper's settings, tuned for five million steps.
``dqn-short``
    The same, adapted to tens of thousands of steps: exploration annealed over 10 % of the run, an
    earlier first update, Adam.
``ppo``
    PureJaxRL's settings for MinAtar, with 8 environments instead of 64, so 8 times the updates.
``ppo-atari``
    RL Baselines3 Zoo's settings for Atari, tuned for ten million steps: four stacked frames, the
    network of Nature's DQN, signs of rewards. Environment and frames (64 x 64, colour) are those of
    Drama; step size and clipping are annealed to zero over this run.

``greedy`` evaluates the most probable action, ``sampled`` a sampled one (PPO from the policy, DQN
with its last epsilon). PPO ends with the first whole rollout at or after the number of steps.

One file: each baseline's settings stand next to the code that trains and evaluates it.
"""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torch import Tensor, nn

import drama
from benchmarks import measure

RESULTS = measure.DOCS / "assets" / "results"
EPISODES = {"MinAtar/Freeway-v1": 20, "ALE/Boxing-v5": 20, "ALE/Pong-v5": 20}
"""Evaluation episodes, by default 100; those of Freeway always take 2501 steps."""
EVALUATION_SEED = 10_000
"""As :class:`drama.config.EvaluationConfig`: distinct from training seeds."""

MINATAR = (
    "Young & Tian 2019, arXiv:1903.03176, and its github.com/kenjyoung/MinAtar/examples/dqn.py"
)
PUREJAXRL = "github.com/luchris429/purejaxrl/examples/brax_minatar.ipynb"
ZOO = "github.com/DLR-RM/rl-baselines3-zoo/hyperparams/ppo.yml, atari"


class SmallCNN(BaseFeaturesExtractor):
    """One convolution of 16 filters 3 x 3 and a layer of 128 units, both with ReLU.

    The network of the MinAtar paper up to its output layer.
    """

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        super().__init__(observation_space, features_dim=128)
        channels, height, width = observation_space.shape  # as Stable-Baselines3 transposes it
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * (height - 2) * (width - 2), 128),
            nn.ReLU(),
        )

    def forward(self, observations: Tensor) -> Tensor:
        """Map frames in 0..1, ``(B, C, H, W)``, to features ``(B, 128)``."""
        features: Tensor = self.layers(observations)
        return features


@dataclass(frozen=True)
class Baseline:
    """An algorithm of Stable-Baselines3 and its settings."""

    algorithm: type[BaseAlgorithm]
    source: str
    """Source of the settings, and deviations from it."""
    settings: dict[str, Any]
    policy: dict[str, Any] = field(default_factory=dict)
    num_envs: int = 1
    anneal: tuple[str, ...] = ()
    """Settings annealed linearly to zero."""
    network: type[BaseFeaturesExtractor] = SmallCNN
    stack: int = 1
    """Stacked frames."""
    signs: bool = False
    """Learn from the signs of rewards."""

    def environments(self, env_id: str, seed: int | None, count: int, *, learning: bool) -> VecEnv:
        """Make the wrapped environments of the algorithm."""

        def build() -> gym.Env[Any, Any]:
            env = drama.make_env(env_id, seed, life_loss=learning)
            return gym.wrappers.TransformReward(env, np.sign) if self.signs and learning else env

        envs: VecEnv = DummyVecEnv([build for _ in range(count)])
        return VecFrameStack(envs, self.stack) if self.stack > 1 else envs


def rmsprop(parameters: Any, lr: float, **_: Any) -> torch.optim.Optimizer:
    """RMSprop as in the MinAtar paper: centred, squared gradients decayed by 0.95."""
    return torch.optim.RMSprop(parameters, lr, alpha=0.95, eps=0.01, centered=True, momentum=0.95)


def baselines(steps: int) -> dict[str, Baseline]:
    """Return the baselines by name, for runs of ``steps`` environment steps."""
    dqn: dict[str, Any] = {
        "learning_rate": 2.5e-4,
        "buffer_size": 100_000,
        "learning_starts": 5000,
        "batch_size": 32,
        "gamma": 0.99,
        "train_freq": 1,
        "gradient_steps": 1,
        "target_update_interval": 1000,
        "max_grad_norm": 1e9,  # the paper clips no gradients
    }
    return {
        "dqn": Baseline(
            sb3.DQN,
            f"{MINATAR}: as published, epsilon from 1 to 0.1 over 100 000 steps",
            {
                **dqn,
                "exploration_initial_eps": 1.0,
                # Where the run is shorter than the schedule, it stops on the way.
                "exploration_fraction": min(1.0, 100_000 / steps),
                "exploration_final_eps": 1.0 - 0.9 * min(1.0, steps / 100_000),
            },
            {"optimizer_class": rmsprop},
        ),
        "dqn-short": Baseline(
            sb3.DQN,
            f"{MINATAR}, but: first update after 1000 steps, epsilon from 1 to 0.05 over a tenth "
            "of the run, Adam",
            {
                **dqn,
                "learning_starts": 1000,
                "exploration_initial_eps": 1.0,
                "exploration_fraction": 0.1,
                "exploration_final_eps": 0.05,
            },
        ),
        "ppo": Baseline(
            sb3.PPO,
            f"{PUREJAXRL}, but: 8 environments instead of 64, 4 minibatches of 256 instead of 8 of "
            "1024, the MinAtar paper's network",
            {
                "learning_rate": 5e-3,
                "n_steps": 128,
                "n_epochs": 4,
                "batch_size": 256,
                "gamma": 0.99,
                "gae_lambda": 0.95,
                "clip_range": 0.2,
                "clip_range_vf": 0.2,
                "ent_coef": 0.01,
                "vf_coef": 0.5,
                "max_grad_norm": 0.5,
            },
            {"optimizer_kwargs": {"eps": 1e-5}},
            num_envs=8,
            anneal=("learning_rate",),
        ),
        "ppo-atari": Baseline(
            sb3.PPO,
            f"{ZOO}, but: frames of 64 x 64 in colour",
            {
                "learning_rate": 2.5e-4,
                "n_steps": 128,
                "n_epochs": 4,
                "batch_size": 256,
                "clip_range": 0.1,
                "vf_coef": 0.5,
                "ent_coef": 0.01,
            },
            num_envs=8,
            anneal=("learning_rate", "clip_range"),
            network=NatureCNN,
            stack=4,
            signs=True,
        ),
    }


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
    spec = baselines(steps)[name]
    envs = spec.environments(env_id, None, spec.num_envs, learning=True)
    settings = dict(spec.settings)
    for key in spec.anneal:
        settings[key] = LinearSchedule(settings[key], 0.0, 1.0)
    model = spec.algorithm(
        "CnnPolicy",
        envs,
        seed=1000 * seed,  # of the first environment; the others' follow it
        device="cpu",
        policy_kwargs={
            "features_extractor_class": spec.network,
            "net_arch": [],
            "normalize_images": True,
            **spec.policy,
        },
        **settings,
    )
    curve = Episodes()
    began = time.perf_counter()
    model.learn(steps, callback=curve)
    seconds = time.perf_counter() - began
    greedy = evaluate(model, spec, env_id, episodes, greedy=True)
    sampled = evaluate(model, spec, env_id, episodes, greedy=False)
    return {
        "seed": seed,
        "environment_steps": model.num_timesteps,
        "wall_seconds": round(seconds, 1),
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
    spec = baselines(steps)[name]
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.baselines")
    parser.add_argument("--envs", nargs="+", default=["MinAtar/Breakout-v1", "MinAtar/Freeway-v1"])
    parser.add_argument("--agents", nargs="+", default=["dqn", "dqn-short", "ppo"])
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, help="episodes per evaluation")
    parser.add_argument("--runs", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # the networks are too small to share out
    for env_id in options.envs:
        for name in options.agents:
            episodes = options.episodes or EPISODES.get(env_id, 100)
            result = run(env_id, name, options.steps, options.seeds, episodes, options.runs)
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"{slug(env_id)}-{name}.json"
            path.write_text(text(result), encoding="utf-8")


if __name__ == "__main__":
    main()
