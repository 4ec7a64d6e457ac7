"""Starting points: functions that return a Config."""

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
from drama.settings import setting_differences
from drama.text import nearest


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
            ppo=PPOConfig(),
        ),
        training=TrainingConfig(world_model_ratio=0.2, behaviour_ratio=0.2, log_every=500),
    )


def quick() -> Config:
    """A small model for small pictures and vectors: learns Catch in minutes on a two-core CPU."""
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
            policy_context="current",
            batch_size=128,
            context=4,
            horizon=10,
            entropy=1e-2,
            # The policy moves little until the model is about right: with a rise over 50 updates
            # it can settle on what the model gets wrong, and one seed in three then learnt late.
            optim=OptimConfig(lr=1e-3, eps=1e-8, warmup=250, grad_clip=100.0),
            ppo=PPOConfig(),
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
        near = nearest(name, PRESETS)
        known = f"there are {', '.join(PRESETS)}"
        hint = known if near is None else f"did you mean {near}? ({known})"
        raise ConfigError(f"unknown preset {name!r}; {hint}")
    return PRESETS[name]()


def fitting(shape: Sequence[int], device: str) -> tuple[Config, str]:
    """Return the preset for a run that names none, and why it is that one.

    Args:
        shape: Of the adapted observation, ``(N,)`` or ``(H, W, C)``.
        device: Type of the device: ``cpu``, ``cuda`` or ``mps``.
    """
    if len(shape) != 3:
        return quick(), "vector observations"
    picture = f"{shape[0]}x{shape[1]} pictures"
    if max(shape[:2]) < SMALL_PICTURE:
        return _small(shape[0]), f"small pictures ({shape[0]}x{shape[1]})"
    if device == "cuda":
        return xs(), f"{picture} on CUDA"
    # Apple's GPU is counted with the CPU: a run of xs there would take days.
    return laptop(), f"{picture} on {device.upper()}"


def _small(side: int) -> Config:
    """Return `quick`, with as many convolutions as a picture can be halved for."""
    config = quick()
    filters = config.world_model.filters
    halvings = (side & -side).bit_length() - 1  # the power of 2 that divides the side
    if halvings >= len(filters):
        return config
    return config.override(
        {"world_model.filters": filters[: halvings + 1], "world_model.stem_stride": 1}
    )


SMALL_PICTURE = 64
"""Side in pixels below which a picture is small: what other environments are resized to."""


def changed_settings(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the settings in which a configuration differs from a preset.

    Steps, seed, device, environment and whatever changes speed and files only do not count.

    Args:
        config: The tree of a ``config.json``.
        name: The preset.

    Returns:
        ``section.field VALUE (not THE PRESET'S)`` for each.

    Raises:
        ConfigError: There is no such preset.
    """
    changed = setting_differences(config, json.loads(preset(name).to_json()))
    return tuple(
        text
        for text in changed
        if text.startswith("env.life_loss ") or not text.startswith(("steps ", "env."))
    )


def label(config: Config) -> str:
    """Return the preset's name, with ``*`` if settings were changed from it: ``quick*``.

    A name that is not one of the package's presets is the user's own and stays as it is.
    """
    if config.preset not in PRESETS:
        return config.preset
    return config.preset + "*" * bool(changed_settings(json.loads(config.to_json()), config.preset))
