"""Settings of the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from drama.importing import parse_call
from drama.text import brief
from drama.validation import (
    Declaration,
    Section,
    fraction,
    identity,
    learning,
    positive,
    require,
    task,
)

EnvMaker = Literal["drama", "gymnasium", "caller"]


@dataclass(frozen=True)
class EnvConfig(Section):
    """The environment and its adaptation; the defaults of Atari are the Atari100k protocol's."""

    id: str = identity("drama/Catch-v0")
    """Gymnasium id such as ``ALE/Pong-v5``, or an importable factory ``module:make_env``."""
    kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        hash=False,
        metadata=Declaration("task", resume=False).metadata(),
    )
    """Arguments of its constructor: ``gravity=-2.0 wind=true``, or one JSON object."""
    wrappers: tuple[str, ...] = task(())
    """Wrappers, inner first: ``module:Class`` or ``'module:Class(stack_size=4)'``."""
    made_by: EnvMaker = task("drama")
    """``drama``, ``gymnasium`` (only kwargs and wrappers apply) or ``caller`` (no id)."""
    image_size: int | None = task(None, most=2**12)
    """Side of the frames in pixels. None: 64, or the native size of built-in games and MinAtar."""
    max_episode_steps: int | None = task(None)
    """Agent steps after which an episode is truncated. None: the environment's own limit."""
    observe: tuple[str, ...] = task(("*",))
    """Leaves of a Dict or Tuple observation that are read: names or patterns (``robot/*``)."""
    reconstruct: tuple[str, ...] = learning(("*",))
    """Leaves among these that the world model reconstructs: names or patterns."""
    life_loss: bool = learning(True)
    """Atari: end the training episode at the loss of a life (never an evaluated one)."""
    noop_max: int = task(30, most=10_000)
    """Atari: largest number of random no-ops after a reset; 0 = off."""
    frame_skip: int = task(4, most=1000)
    """Atari: frames per agent step; the observation is the maximum over the last two."""
    sticky_actions: float = task(0.0)
    """Atari: probability of repeating the last action, in [0, 1]."""
    full_action_space: bool = task(False)
    """Atari: all 18 actions instead of the game's minimal set."""

    def _check(self) -> None:
        for wrapper in self.wrappers:
            parse_call(wrapper)
        require(len(self.id) <= 500, f"env.id is no id: {brief(self.id)}")
        fraction("env", sticky_actions=self.sticky_actions)
        positive("env", frame_skip=self.frame_skip)
        require(self.noop_max >= 0, f"env.noop_max must not be negative, got {self.noop_max}")
        if self.image_size is not None:
            positive("env", image_size=self.image_size)
        if self.max_episode_steps is not None:
            positive("env", max_episode_steps=self.max_episode_steps)
