"""Declarations of the settings: effects of a change, and when it is allowed."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

from drama.config import Config
from drama.errors import ConfigError
from drama.settings import DECLARATIONS, flat, setting_differences
from drama.suite.override import override
from drama.training.resume import compare
from drama.validation import Section, declarations, learning

RESUME = {
    "steps",
    "device",
    "world_model.dynamics.backend",
    "training.precision",
    "training.threads",
    "training.keep_memory",
    "training.cuda_graphs",
    "training.compile",
    "training.log_every",
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "training.tensorboard",
    "training.wandb",
    "evaluation.episodes",
    "evaluation.num_envs",
    "evaluation.seed",
    "evaluation.latents",
    "evaluation.max_episode_steps",
}
"""Settings that a resumed run may change; it keeps all others."""
SAME_LEARNING = {
    "preset",
    "seed",
    "device",
    "env.id",
    "replay.device",
    "world_model.dynamics.chunk_size",
    "world_model.dynamics.backend",
    "training.precision",
    "training.threads",
    "training.keep_memory",
    "training.cuda_graphs",
    "training.compile",
    "training.log_every",
    "training.checkpoint_every",
    "training.checkpoint_minutes",
    "training.keep_checkpoints",
    "training.tensorboard",
    "training.wandb",
    "evaluation.episodes",
    "evaluation.num_envs",
    "evaluation.seed",
    "evaluation.latents",
    "evaluation.max_episode_steps",
}
"""Settings that identify a run, or alter its speed and output only."""
SUITE = {"preset", "seed", "steps", "env.id"}
"""Settings that a suite sets itself."""
NAMES = sorted(flat(dataclasses.asdict(Config())))


def test_every_setting_is_declared_as_before() -> None:
    assert sorted(DECLARATIONS) == NAMES
    assert {name for name, found in DECLARATIONS.items() if found.resume} == RESUME
    kinds = {name: found.alters for name, found in DECLARATIONS.items()}
    assert {name for name in NAMES if kinds[name] not in ("task", "learning")} == SAME_LEARNING
    env = {name for name in NAMES if name.startswith("env.")} - {
        "env.id",
        "env.life_loss",
        "env.reconstruct",
    }
    assert {name for name in NAMES if kinds[name] == "task"} == {"steps"} | env
    assert {name for name, found in DECLARATIONS.items() if found.suite} == SUITE


def test_a_setting_without_a_declaration_is_refused() -> None:
    @dataclasses.dataclass(frozen=True)
    class Bare(Section):
        declared: int = learning(1)
        bare: int = 2

    with pytest.raises(TypeError, match=r"part\.bare must be declared"):
        declarations(Bare, "part.")


def changed(name: str) -> Config:
    """The default configuration with another valid value of one setting."""
    value = flat(dataclasses.asdict(Config()))[name]
    others = {
        "env.made_by": "gymnasium",
        "env.kwargs": {"a": 1},
        "env.wrappers": ("a:B",),
        "env.id": "drama/Recall-v0",
        "env.image_size": 32,
        "env.observe": ("camera",),
        "env.reconstruct": ("camera",),
        "env.max_episode_steps": 5,
        "evaluation.max_episode_steps": 5,
        "evaluation.latents": "mode",
        "replay.sampler": "uniform",
        "replay.tau": 3.0,
        "replay.imagination_tau": 3.0,
        "replay.random_shift": (1, 0),
        "replay.device": "cpu",
        "world_model.filters": (16, 32),
        "world_model.kernel": 3,
        "world_model.stem_stride": 2,
        "world_model.bins": 11,
        "world_model.image_loss": "cross-entropy",
        "world_model.twohot_decode": "mean-symexp",
        "world_model.dynamics.name": "gru",
        "world_model.dynamics.headdim": 64,
        "world_model.dynamics.width": 256,
        "world_model.dynamics.backend": "torch",
        "behaviour.bins": 11,
        "behaviour.twohot_decode": "mean-symexp",
        "behaviour.algorithm": "ppo",
        "behaviour.policy_latent": "posterior",
        "behaviour.policy_context": "current",
        "behaviour.actor_gradient": "all-actions",
        "training.precision": "float32",
    }
    if name in others:
        value = others[name]
    elif isinstance(value, bool):
        value = not value
    elif isinstance(value, int):
        value = value + 1
    elif isinstance(value, float):
        value = value / 2 if value else 0.5
    else:
        value = f"{value}2"
    extra = {}
    if name == "behaviour.ppo.minibatches":
        extra = {"behaviour.ppo.recompute_advantages": False}
    if name in ("training.random_action_repeat",):
        value = 2.0
    return Config().override({name: value, **extra})


@pytest.mark.parametrize("name", NAMES)
def test_declarations_decide_resume_differences_and_overrides(name: str) -> None:
    config = changed(name)
    accepted, refused = compare(Config(), config)
    if name.startswith("behaviour.ppo."):  # actor-critic does not read them
        assert (accepted, refused) == ([], [])
    else:
        (text,) = accepted if name in RESUME else refused
        assert text.startswith(f"{name}=")
        assert len(accepted) + len(refused) == 1
    found = setting_differences(dataclasses.asdict(config), dataclasses.asdict(Config()))
    assert any(text.startswith(f"{name} ") for text in found) == (name not in SAME_LEARNING)
    if name in SUITE:
        with pytest.raises(ConfigError, match="is set by the suite"):
            override(Config(), {name: flat(dataclasses.asdict(config))[name]})


def test_configuration_needs_no_torch() -> None:
    code = "import sys, drama.settings, drama.presets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_first_line_of_every_description_is_short() -> None:
    """It is the help of the option."""
    source = Path(sys.modules[Config.__module__].__file__ or "").parent
    paths = [source / "config.py", *source.glob("*/config.py")]
    assert len(paths) >= 7
    for path in paths:
        text = path.read_text()
        for line in re.findall(r'^    """(.*?)(?:"""|$)', text, re.MULTILINE):
            assert len(line) <= 90, f"{path.name}: {line}"
