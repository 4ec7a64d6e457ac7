"""Settings of the replay buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drama.registry import SAMPLERS
from drama.renamed import refuse_former
from drama.validation import Section, learning, positive, require, speed

ReplayDevice = Literal["auto", "cpu", "model"]


@dataclass(frozen=True)
class ReplayConfig(Section):
    """The replay buffer and the rule that samples windows from it."""

    capacity: int = learning(100_000)
    """Transitions kept; an episode of n actions takes n + 1."""
    sampler: str = learning("dfs")
    """``uniform``, ``dfs`` (paper), ``dfs-trained`` (imagines from trained steps), or another."""
    tau: float = learning(10.0)
    """Temperature of sampling for the world model, above 0."""
    imagination_tau: float = learning(10.0)
    """Temperature of sampling for imagination, above 0."""
    alpha: float = learning(1.0)
    """Weight of a step's imagination count when sampling for imagination."""
    beta: float = learning(1.0)
    """Weight of its surplus of training over imagination when sampling for imagination."""
    random_shift: tuple[int, ...] = learning((0, 0))
    """Random-shift augmentation: largest shift in pixels, vertical and horizontal; 0 0 = off.

    It applies to the world model's batches; a window is shifted as a whole. The paper has none.
    """
    device: ReplayDevice = speed("auto", resume=False)
    """Device of the buffer: ``cpu``, ``model`` (the model's), or ``auto``: ``model`` on CUDA."""

    def _check(self) -> None:
        refuse_former("replay.sampler", self.sampler)
        SAMPLERS.check(self.sampler, "replay.sampler")
        positive("replay", capacity=self.capacity, tau=self.tau)
        require(self.capacity < 2**40, f"replay.capacity is too large, got {self.capacity}")
        positive("replay", imagination_tau=self.imagination_tau)
        require(
            len(self.random_shift) == 2 and min(self.random_shift) >= 0,
            "replay.random_shift must be two numbers of pixels, vertical and horizontal, "
            f"got {self.random_shift}",
        )
