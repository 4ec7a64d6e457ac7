"""Settings of the replay buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drama.registry import SAMPLERS
from drama.renamed import refuse_former
from drama.validation import Section, learning, positive, require, speed

PAPER_TAU = 10.0
"""Temperature of the public code."""
PAPER_WINDOWS = 16
"""World-model windows that it samples per environment step."""
ReplayDevice = Literal["auto", "cpu", "model"]


@dataclass(frozen=True)
class ReplayConfig(Section):
    """The replay buffer and the rule that samples windows from it."""

    capacity: int = learning(100_000)
    """Transitions kept; an episode of n actions takes n + 1."""
    sampler: str = learning("dfs")
    """``uniform``, ``dfs`` (paper), ``dfs-trained`` (imagines from trained steps), or another."""
    tau: float | None = learning(None)
    """Temperature of sampling for the world model. None: 10 per 16 windows sampled a step."""
    imagination_tau: float | None = learning(None)
    """Temperature of sampling for imagination. None: 10 per 16 windows sampled a step."""
    alpha: float = learning(1.0)
    """Weight of a step's imagination count when sampling for imagination."""
    beta: float = learning(1.0)
    """Weight of its surplus of training over imagination when sampling for imagination."""
    random_shift: tuple[int, ...] = learning((0, 0))
    """Random-shift augmentation: largest shift in pixels, vertical and horizontal; 0 0 = off.

    It applies to the world model's batches; a window is shifted as a whole. Vector observations
    ignore it. The paper has none.
    """
    device: ReplayDevice = speed("auto", resume=False)
    """Device of the buffer: ``cpu``, ``model`` (the model's), or ``auto``: ``model`` on CUDA."""

    def _check(self) -> None:
        refuse_former("replay.sampler", self.sampler)
        SAMPLERS.check(self.sampler, "replay.sampler")
        positive("replay", capacity=self.capacity)
        require(self.capacity < 2**40, f"replay.capacity is too large, got {self.capacity}")
        given = {"tau": self.tau, "imagination_tau": self.imagination_tau}
        positive("replay", **{name: value for name, value in given.items() if value is not None})
        require(
            len(self.random_shift) == 2 and min(self.random_shift) >= 0,
            "replay.random_shift must be two numbers of pixels, vertical and horizontal, "
            f"got {self.random_shift}",
        )

    def temperatures(self, windows_per_step: float = PAPER_WINDOWS) -> tuple[float, float]:
        """Return the temperatures of sampling for the world model and for imagination.

        Counters grow with the windows sampled, so a temperature in proportion to them gives new
        transitions the same share of the samples at any update ratio.

        Args:
            windows_per_step: World-model windows sampled per environment step; 0 counts as 16.
        """
        scaled = PAPER_TAU * (windows_per_step or PAPER_WINDOWS) / PAPER_WINDOWS
        return (
            scaled if self.tau is None else self.tau,
            scaled if self.imagination_tau is None else self.imagination_tau,
        )
