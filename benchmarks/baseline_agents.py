"""Model-free agents of the comparison: algorithms of Stable-Baselines3 and their settings.

Pictures of MinAtar and of the built-in games, all with the small network of the MinAtar paper:

``dqn``
    The MinAtar paper's settings, tuned for five million steps.
``dqn-short``
    The same, adapted to tens of thousands of steps: exploration annealed over 10 % of the run, an
    earlier first update, Adam.
``ppo``
    PureJaxRL's settings for MinAtar, with 8 environments instead of 64, so 8 times the updates.

Atari:

``ppo-atari``
    RL Baselines3 Zoo's settings for Atari, tuned for ten million steps: four stacked frames, the
    network of Nature's DQN, signs of rewards. Environment and frames (64 x 64, colour) are those of
    Drama; step size and clipping are annealed to zero over this run.

Vectors (CartPole-v1, Acrobot-v1):

``dqn-zoo`` and ``ppo-zoo``
    RL Baselines3 Zoo's tuned settings for the game. Exploration and annealing take their share of
    this run, which is shorter than the run that they were tuned for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    FlattenExtractor,
    NatureCNN,
)
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack
from torch import Tensor, nn

import drama

MINATAR = (
    "Young & Tian 2019, arXiv:1903.03176, and its github.com/kenjyoung/MinAtar/examples/dqn.py"
)
PUREJAXRL = "github.com/luchris429/purejaxrl/examples/brax_minatar.ipynb"
ZOO = "github.com/DLR-RM/rl-baselines3-zoo/hyperparams"
ZOO_VERSION = "rl_zoo3 2.9.2"


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
    normalise: bool = False
    """Learn from observations and rewards divided by their running scale (VecNormalize)."""

    def environments(self, env_id: str, seed: int | None, count: int, *, learning: bool) -> VecEnv:
        """Make the wrapped environments of the algorithm."""

        def build() -> gym.Env[Any, Any]:
            env = drama.make_env(env_id, seed, life_loss=learning)
            return gym.wrappers.TransformReward(env, np.sign) if self.signs and learning else env

        envs: VecEnv = DummyVecEnv([build for _ in range(count)])
        return VecFrameStack(envs, self.stack) if self.stack > 1 else envs

    def policy_options(self) -> dict[str, Any]:
        """Return the arguments of the policy: network and optimiser."""
        if self.network is FlattenExtractor:  # vectors: Stable-Baselines3's own layers follow
            return self.policy
        return {
            "features_extractor_class": self.network,
            "net_arch": [],
            "normalize_images": True,
            **self.policy,
        }


def rmsprop(parameters: Any, lr: float, **_: Any) -> torch.optim.Optimizer:
    """RMSprop as in the MinAtar paper: centred, squared gradients decayed by 0.95."""
    return torch.optim.RMSprop(parameters, lr, alpha=0.95, eps=0.01, centered=True, momentum=0.95)


def pictures(steps: int) -> dict[str, Baseline]:
    """Return the agents for pictures by name, for runs of ``steps`` environment steps."""
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
            f"{ZOO}/ppo.yml, atari, but: frames of 64 x 64 in colour",
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


def _zoo(algorithm: type[BaseAlgorithm], game: str, settings: dict[str, Any], **more: Any) -> Any:
    source = f"{ZOO}/{algorithm.__name__.lower()}.yml, {game}, as in {ZOO_VERSION}"
    return Baseline(algorithm, source, settings, network=FlattenExtractor, **more)


TUNED: dict[str, dict[str, Baseline]] = {
    "CartPole-v1": {
        "dqn-zoo": _zoo(
            sb3.DQN,
            "CartPole-v1",
            {
                "learning_rate": 2.3e-3,
                "batch_size": 64,
                "buffer_size": 100_000,
                "learning_starts": 1000,
                "gamma": 0.99,
                "target_update_interval": 10,
                "train_freq": 256,
                "gradient_steps": 128,
                "exploration_fraction": 0.16,
                "exploration_final_eps": 0.04,
            },
            policy={"net_arch": [256, 256]},
        ),
        "ppo-zoo": _zoo(
            sb3.PPO,
            "CartPole-v1",
            {
                "learning_rate": 1e-3,
                "n_steps": 32,
                "batch_size": 256,
                "gae_lambda": 0.8,
                "gamma": 0.98,
                "n_epochs": 20,
                "ent_coef": 0.0,
                "clip_range": 0.2,
            },
            num_envs=8,
            anneal=("learning_rate", "clip_range"),
        ),
    },
    "Acrobot-v1": {
        "dqn-zoo": _zoo(
            sb3.DQN,
            "Acrobot-v1",
            {
                "learning_rate": 6.3e-4,
                "batch_size": 128,
                "buffer_size": 50_000,
                "learning_starts": 0,
                "gamma": 0.99,
                "target_update_interval": 250,
                "train_freq": 4,
                "gradient_steps": -1,
                "exploration_fraction": 0.12,
                "exploration_final_eps": 0.1,
            },
            policy={"net_arch": [256, 256]},
        ),
        "ppo-zoo": _zoo(
            sb3.PPO,
            "Acrobot-v1",
            {
                "n_steps": 256,
                "gae_lambda": 0.94,
                "gamma": 0.99,
                "n_epochs": 4,
                "ent_coef": 0.0,
            },
            num_envs=16,
            normalise=True,
        ),
    },
}
"""Tuned agents by game and name."""


def baselines(env_id: str, steps: int) -> dict[str, Baseline]:
    """Return the agents of a game by name, for runs of ``steps`` environment steps."""
    return TUNED.get(env_id) or pictures(steps)


def names_of(env_id: str) -> tuple[str, ...]:
    """Return the agents that a suite compares on a game; none on those that need memory."""
    if env_id in TUNED:
        return tuple(TUNED[env_id])
    if env_id.startswith("ALE/"):
        return ("ppo-atari",)
    memory = env_id.startswith("drama/Recall")
    return () if memory else ("dqn-short", "ppo")
