"""All settings of a run, as one tree of frozen dataclasses.

Each section is declared beside the module that it configures and re-exported here. The command
line offers every field as ``--section.field``; ``config.json`` in a run directory is the same tree
as JSON. The defaults are the paper's (size XS), or its public code's where the paper is silent;
[drama.presets][] holds other starting points.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drama.behaviour.config import (
    ActorGradient,
    BehaviourConfig,
    Latents,
    PolicyContext,
    PolicyLatent,
    PPOConfig,
)
from drama.dynamics.config import DynamicsConfig
from drama.envs.config import EnvConfig, EnvMaker
from drama.errors import ConfigError
from drama.evaluation.config import EvaluationConfig
from drama.renamed import update_names
from drama.replay.config import ReplayConfig, ReplayDevice
from drama.training.config import OptimConfig, Precision, TrainingConfig
from drama.validation import (
    Section,
    from_dict,
    identity,
    positive,
    replaced,
    require,
    speed,
    task,
)
from drama.world_model.config import TwoHotDecode, WorldModelConfig

__all__ = [
    "ActorGradient",
    "BehaviourConfig",
    "Config",
    "DynamicsConfig",
    "EnvConfig",
    "EnvMaker",
    "EvaluationConfig",
    "Latents",
    "OptimConfig",
    "PPOConfig",
    "PolicyContext",
    "PolicyLatent",
    "Precision",
    "ReplayConfig",
    "ReplayDevice",
    "TrainingConfig",
    "TwoHotDecode",
    "WorldModelConfig",
]


@dataclass(frozen=True)
class Config(Section):
    """Training configuration."""

    preset: str = identity("xs")
    """Preset that the settings start from."""
    seed: int = identity(0)
    """Seed of environment, weights and every random number, in [0, 2**63)."""
    steps: int = task(100_000, resume=True, suite=True)
    """Environment steps of the run, the random warm-up included."""
    device: str = speed("auto")
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``."""
    env: EnvConfig = field(default_factory=EnvConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    world_model: WorldModelConfig = field(default_factory=WorldModelConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def _check(self) -> None:
        positive("config", steps=self.steps)
        require(0 <= self.seed < 2**63, f"seed must lie in [0, 2**63), got {self.seed}")
        longest = max(self.world_model.batch_length, self.behaviour.context)
        require(
            self.replay.capacity > longest,
            f"replay.capacity ({self.replay.capacity}) must exceed the longest window ({longest})",
        )
        require(
            self.training.warmup_steps > longest,
            f"training.warmup_steps ({self.training.warmup_steps}) must exceed the longest "
            f"window ({longest}), or the replay cannot fill one before the first update",
        )
        c = self.training
        # Step after the warm-up of the first update of each kind; never if the ratio is 0.
        world_model, behaviour = (
            math.ceil(min(1 / ratio, 2.0**63)) if ratio else math.inf
            for ratio in (c.world_model_ratio, c.behaviour_ratio)
        )
        require(
            self.replay.sampler != "dfs-trained"
            or behaviour == math.inf
            or world_model <= behaviour,
            "replay.sampler dfs-trained imagines from transitions that the world model was trained "
            "on, so training.world_model_ratio must be at least training.behaviour_ratio; "
            f"got {c.world_model_ratio} and {c.behaviour_ratio}",
        )

    def override(self, settings: Mapping[str, Any] | None = None, /, **sections: Any) -> Config:
        """Return a copy with settings replaced.

        ``config.override({"training.warmup_steps": 500})`` and
        ``config.override(seed=1, training={"warmup_steps": 500})`` are two spellings.

        Args:
            settings: Dotted ``section.field`` to value; a section may also map to its settings.
            **sections: The same by keyword.

        Raises:
            ConfigError: A setting does not exist (the nearest is named), or a value does not fit.
        """
        return replaced(self, {**(settings or {}), **sections})

    def to_json(self) -> str:
        """Return the whole tree as indented JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Rebuild a configuration from [to_json][drama.config.Config.to_json] of any version.

        Raises:
            ConfigError: The text is not JSON, or a field is unknown or has the wrong type.
        """
        try:
            tree = json.loads(text)
        except (ValueError, RecursionError) as error:  # bad syntax, endless digits or nesting
            raise ConfigError(f"not a JSON configuration: {error}") from error
        return cls.from_saved(tree)

    @classmethod
    def from_saved(cls, tree: object) -> Config:
        """Rebuild a configuration from a saved tree of settings, of this or an earlier version.

        Raises:
            ConfigError: A field is unknown or has the wrong type.
        """
        return from_dict(cls, update_names(tree) if isinstance(tree, Mapping) else tree)
