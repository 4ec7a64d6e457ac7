"""Presets: functions that return a Config."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drama.config import (
    BehaviourConfig,
    Config,
    EvaluationConfig,
    OptimConfig,
    PPOConfig,
    ReplayConfig,
    TrainingConfig,
    WorldModelConfig,
)
from drama.dynamics.config import DynamicsConfig
from drama.errors import ConfigError
from drama.registry import unknown
from drama.settings import setting_differences


def xs() -> Config:
    """The paper's configuration, size XS."""
    return Config(preset="xs")


def s() -> Config:
    """The paper's larger model: filters doubled, state size 32."""
    return Config(
        preset="s",
        world_model=WorldModelConfig(
            filters=(32, 64, 96, 128, 128), dynamics=DynamicsConfig(d_state=32)
        ),
    )


def laptop() -> Config:
    """The paper's algorithm on Atari, sized for a two-core CPU.

    Differences from `xs`: the first convolution has stride 2, which removes the two largest feature
    maps (most of an update's time). World-model batches have 512 steps instead of 2048,
    imagination batches 128 trajectories of 12 steps instead of 1024 of 16. There is one update of
    each kind per five environment steps instead of one per step, with a five times larger learning
    rate. The entropy bonus is ten times larger, because with the paper's the policy converged
    before the world model. Moving pixels have weight 10 in the reconstruction loss, without which
    the latent encoded neither Pong's ball nor its paddles after so few updates.

    The sizes follow measured costs; docs/results.md has the returns.
    """
    return Config(
        preset="laptop",
        world_model=WorldModelConfig(
            filters=(16, 32, 48, 64),
            stem_stride=2,
            min_feature_side=4,
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
            ppo=PPOConfig(),
        ),
        training=TrainingConfig(world_model_ratio=0.2, behaviour_ratio=0.2, log_every=500),
    )


def quick() -> Config:
    """A small model for small pictures and vectors: learns Catch in minutes on a two-core CPU."""
    return Config(
        preset="quick",
        steps=5000,
        # Where objects combine freely, the world model memorises frames without it (lab/log.md).
        replay=ReplayConfig(random_shift=(1, 1)),
        world_model=WorldModelConfig(
            filters=(16, 32, 48),
            kernel=3,
            image_loss="cross-entropy",
            standardise_obs=True,
            stem_stride=2,
            min_feature_side=4,
            latent_variables=32,
            latent_classes=8,
            spatial_latents=2,
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
            # d_{t-1} need not encode all that the state remembers: with windows as long as an
            # episode, Recall over 32 frames is learnt by 3 of 3 seeds with it, by 0 of 3 without.
            policy_context="current",
            batch_size=128,
            context=4,
            horizon=10,
            entropy=1e-2,
            # A slow warm-up keeps the policy from exploiting errors of the early model: with 50
            # updates, 1 of 3 seeds learnt late.
            optim=OptimConfig(lr=1e-3, eps=1e-8, warmup=250, grad_clip=100.0),
            ppo=PPOConfig(),
        ),
        training=TrainingConfig(
            warmup_steps=1000,
            world_model_ratio=0.2,
            behaviour_ratio=0.2,
            # Operations are small: a second thread saves a third of the time on an idle machine
            # and costs several times that on a busy one.
            threads=1,
            log_every=100,
            checkpoint_every=1000,
        ),
        evaluation=EvaluationConfig(episodes=100, num_envs=20),
    )


PRESETS: dict[str, Callable[[], Config]] = {"quick": quick, "laptop": laptop, "xs": xs, "s": s}
"""Presets by the name on the command line."""


def preset(name: str) -> Config:
    """Return the preset called ``name``.

    Raises:
        ConfigError: No preset has that name; the nearest is given.
    """
    if name not in PRESETS:
        raise ConfigError(unknown("preset", name, PRESETS))
    return PRESETS[name]()


def fitting(shape: Sequence[int], device: str) -> tuple[Config, str]:
    """Return the preset for a run that names none, and the reason.

    Args:
        shape: Shape of the adapted observation, ``(N,)`` or ``(H, W, C)``.
        device: Type of the device: ``cpu``, ``cuda`` or ``mps``.
    """
    if len(shape) != 3:
        return quick(), "vector observations"
    picture = f"{shape[0]}x{shape[1]} pictures"
    if max(shape[:2]) < SMALL_PICTURE:
        return quick(), f"small pictures ({shape[0]}x{shape[1]})"
    if device == "cuda":
        return xs(), f"{picture} on CUDA"
    # On Apple's GPU, too, a run of xs takes days.
    return laptop(), f"{picture} on {device.upper()}"


SMALL_PICTURE = 64
"""Side in pixels below which a picture is small; larger ones are resized to it."""


def changed_settings(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the settings that alter learning in which a configuration differs from a preset.

    Args:
        config: The tree of a ``config.json``.
        name: Of the preset.

    Returns:
        ``section.field VALUE (not THE PRESET'S)`` for each.

    Raises:
        ConfigError: No preset has that name.
    """
    return setting_differences(config, json.loads(preset(name).to_json()), ("learning",))


def label(config: Config) -> str:
    """Return the preset's name, with ``*`` if settings that alter learning differ: ``quick*``.

    The name of a preset that is not the package's is returned unchanged.
    """
    if config.preset not in PRESETS:
        return config.preset
    return config.preset + "*" * bool(changed_settings(json.loads(config.to_json()), config.preset))


def resolve(config: Config | str | None) -> Config:
    """Return the configuration given, or that of a preset's name; the default if None.

    Raises:
        ConfigError: It is of another type, or no preset has the name.
    """
    if config is None:
        return Config()
    if isinstance(config, str):
        return preset(config)
    if not isinstance(config, Config):
        raise ConfigError(
            f"config must be a drama.Config or the name of a preset, got {type(config).__name__}"
        )
    return config
