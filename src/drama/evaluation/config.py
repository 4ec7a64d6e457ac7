"""Settings of evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from drama.behaviour.config import Latents
from drama.validation import Section, output, positive, require


@dataclass(frozen=True)
class EvaluationConfig(Section):
    """The evaluation at the end of ``drama train``, and the defaults of ``drama eval``."""

    episodes: int = output(20, most=10**7)
    """Episodes, split evenly over the environments; 0 = no evaluation after training."""
    num_envs: int = output(4, most=10_000)
    """Environments stepped in one batch."""
    seed: int = output(10_000)
    """Seed of the first evaluation environment; distinct from training seeds."""
    latents: Latents = output("sampled")
    """Latents when acting: ``sampled`` (the authors', as in imagination) or their ``mode``."""
    max_episode_steps: int | None = output(None)
    """Agent steps that truncate an episode. None: 27,000, or a larger limit of the environment."""

    def _check(self) -> None:
        positive("evaluation", num_envs=self.num_envs)
        if self.max_episode_steps is not None:
            positive("evaluation", max_episode_steps=self.max_episode_steps)
        require(self.episodes >= 0, "evaluation.episodes must not be negative")
        require(0 <= self.seed < 2**62, f"evaluation.seed must not be negative, got {self.seed}")

    def with_given(self, **settings: Any) -> EvaluationConfig:
        """Return a copy with the settings replaced that are not None."""
        given = {name: value for name, value in settings.items() if value is not None}
        return dataclasses.replace(self, **given)
