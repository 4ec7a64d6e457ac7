"""Starting points: functions that return a Config."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from drama.config import (
    BehaviourConfig,
    Config,
    EvaluationConfig,
    OptimConfig,
    ReplayConfig,
    TrainingConfig,
    WorldModelConfig,
)
from drama.dynamics.config import DynamicsConfig
from drama.errors import ConfigError


def xs() -> Config:
    """The paper's configuration: about 7 M parameters in the world model."""
    return Config(preset="xs")


def s() -> Config:
    """The paper's larger model: filters doubled, state size 32, about 10 M parameters."""
    return Config(
        preset="s",
        world_model=WorldModelConfig(
            filters=(32, 64, 96, 128, 128), dynamics=DynamicsConfig(d_state=32)
        ),
    )


def laptop() -> Config:
    """The paper's algorithm on Atari at a price that two processor cores can pay.

    Against `xs`: the first convolution halves the frame, which takes the two largest feature maps
    away (most of an update's time); a world-model batch holds 512 rows instead of 2048, an
    imagination batch 128 trajectories of 12 steps instead of 1024 of 16; one update of each kind is
    made every five environment steps instead of one. Five times fewer updates take larger steps.
    With those the paper's entropy bonus let the policy settle before the model was right, so it is
    ten times as large. Pixels that move count ten times in the reconstruction: with so few updates
    the latent held neither Pong's ball nor its paddles otherwise. The sequence model, the latent,
    the heads and the policy are those of `xs`.
    The sizes follow measured cost; what was learnt with them so far is in docs/results.md.
    """
    return Config(
        preset="laptop",
        world_model=WorldModelConfig(
            filters=(16, 32, 48, 64),
            stem_stride=2,
            motion_weight=10.0,
            batch_size=8,
            batch_length=64,
            optim=OptimConfig(lr=2e-4, warmup=500),
        ),
        behaviour=BehaviourConfig(
            batch_size=128,
            horizon=12,
            entropy=3e-3,
            optim=OptimConfig(lr=2e-4, warmup=500, grad_clip=100.0),
        ),
        training=TrainingConfig(world_model_ratio=0.2, behaviour_ratio=0.2, log_every=500),
    )


def quick() -> Config:
    """A small model for small pictures: learns a built-in game in minutes on two cores."""
    return Config(
        preset="quick",
        steps=5000,
        replay=ReplayConfig(capacity=20_000),
        world_model=WorldModelConfig(
            filters=(16, 32, 48),
            kernel=3,
            stem_stride=2,
            latent_variables=16,
            latent_classes=16,
            head_units=128,
            free_bits=0.2,
            batch_size=16,
            batch_length=32,
            reset_at_episode_start=True,
            dynamics=DynamicsConfig(width=256, headdim=64),
            optim=OptimConfig(lr=1e-3, eps=1e-8, warmup=50, grad_clip=100.0),
        ),
        behaviour=BehaviourConfig(
            actor_units=128,
            critic_units=128,
            # The sequence model's last output need not tell what the state remembers. Given windows
            # that hold its episodes, Recall over 32 frames is learnt with this on three seeds of
            # three, without on none.
            policy_memory="current",
            batch_size=128,
            context=4,
            horizon=10,
            entropy=1e-2,
            # The policy moves little until the model is about right: with a rise over 50 updates
            # it can settle on what the model gets wrong, and one seed in three then learnt late.
            optim=OptimConfig(lr=1e-3, eps=1e-8, warmup=250, grad_clip=100.0),
        ),
        training=TrainingConfig(
            warmup_steps=1000,
            world_model_ratio=0.2,
            behaviour_ratio=0.2,
            # The operations are too small to share out: a second thread gains a third on an
            # idle machine and loses several times that on a busy one.
            threads=1,
            log_every=100,
            checkpoint_every=1000,
        ),
        evaluation=EvaluationConfig(episodes=100, num_envs=20),
    )


PRESETS: dict[str, Callable[[], Config]] = {"quick": quick, "laptop": laptop, "xs": xs, "s": s}
"""Every preset by the name that the command line knows."""


def preset(name: str) -> Config:
    """Return the preset called ``name``.

    Raises:
        ConfigError: There is none, naming the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.0)
        raise ConfigError(
            f"unknown preset {name!r}; did you mean {near[0]}? (there are {', '.join(PRESETS)})"
        )
    return PRESETS[name]()
