"""Costs of training in seconds and bytes: the results of a calibration."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = 100_000
"""Environment steps of the reported training time: those of Atari100k."""


@dataclass(frozen=True)
class UpdateCost:
    """Cost of one update."""

    seconds: Mapping[str, float]
    """Seconds in each phase of the trainer's clock, at full batch size."""
    peak_bytes: int | None
    """Peak of temporary memory, beyond weights, moments and gradients; None if unknown."""
    measured: int
    """Windows or trajectories in the measured batches."""
    full: int
    """Windows or trajectories in the preset's batches."""

    @property
    def estimate(self) -> str | None:
        """How the numbers were extrapolated; None if measured at full batch size."""
        if self.measured == self.full:
            return None
        return f"batches of {self.measured:,} instead of {self.full:,}, extrapolated"

    @classmethod
    def scaled(
        cls,
        samples: Sequence[Mapping[str, float]],
        peak: int | None,
        measured: int,
        full: int,
        smaller: tuple[int, float] | None = None,
    ) -> UpdateCost:
        """Extrapolate the sample with the median total to the full batch size.

        Args:
            samples: Seconds per phase of each update.
            peak: Peak memory in bytes, if known.
            measured: Batch size of the samples.
            full: Batch size of the preset.
            smaller: Size and seconds of a smaller batch, from which the constant part of an
                update follows. None: the whole update scales with the batch size.
        """
        times = full / measured
        factor = times
        total = statistics.median_low(sum(sample.values()) for sample in samples)
        sample = next(s for s in samples if sum(s.values()) == total)
        if smaller is not None and total > 0:
            factor = 1 + cls.growth(measured, total, smaller) * (full - measured) / total
        return cls(
            {phase: value * factor for phase, value in sample.items()},
            None if peak is None else round(peak * times),
            measured,
            full,
        )

    @staticmethod
    def growth(measured: int, seconds: float, smaller: tuple[int, float] | None) -> float:
        """Return the further seconds of an update per window or trajectory of its batch.

        Args:
            measured: A batch size.
            seconds: Duration of its updates.
            smaller: A smaller batch size and its duration. None: all of the time grows.
        """
        if smaller is None:
            return seconds / measured
        slope = (seconds - smaller[1]) / (measured - smaller[0])
        # Noise may hide the slope: assume that at least 1/8 of the time scales.
        return min(max(slope, seconds / measured / 8), seconds / measured)


@dataclass(frozen=True)
class Memory:
    """Memory that training needs, in bytes; None where it is unknown."""

    replay: int
    """Full replay buffer."""
    model: int
    """Weights, gradients and optimiser moments, computed from their shapes."""
    updates: int | None
    """Peak of an update beyond ``model``."""
    host: int | None
    """Process memory, and the parts above that lie in host memory."""
    host_available: int | None
    device: int | None
    """GPU memory; None without a GPU."""
    device_available: int | None

    @property
    def fits(self) -> bool:
        """Whether it fits into the available memory, as far as known."""
        pairs = ((self.host, self.host_available), (self.device, self.device_available))
        return all(need is None or free is None or need <= free for need, free in pairs)


@dataclass(frozen=True)
class PresetCost:
    """Cost of a preset on this machine."""

    preset: str
    precision: str
    backend: str
    threads: int
    env_seconds: float
    """Seconds per environment step, including resets and the write to the replay."""
    acting_seconds: float
    """Seconds per chosen action."""
    world_model: UpdateCost
    behaviour: UpdateCost
    """Update of actor and critic, including imagination."""
    ratios: tuple[float, float]
    """World-model and behaviour updates per environment step."""
    warmup_steps: int
    """Environment steps with random actions and no updates."""
    memory: Memory

    @property
    def step_seconds(self) -> float:
        """Seconds per environment step, including acting and updates."""
        world_model, behaviour = (
            ratio * sum(cost.seconds.values())
            for ratio, cost in zip(self.ratios, (self.world_model, self.behaviour), strict=True)
        )
        return self.env_seconds + self.acting_seconds + world_model + behaviour

    def hours(self, steps: int = STEPS) -> float:
        """Return the expected hours of a run, without evaluation and checkpoints."""
        warm = min(self.warmup_steps, steps)
        return (warm * self.env_seconds + (steps - warm) * self.step_seconds) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return the costs for JSON."""
        imagination = self.behaviour.seconds["imagination"]
        behaviour = sum(self.behaviour.seconds.values()) - imagination
        model, memory = self.world_model, self.memory
        return {
            "preset": self.preset,
            "precision": self.precision,
            "backend": self.backend,
            "threads": self.threads,
            "seconds": {
                "env_step": self.env_seconds,
                "acting": self.acting_seconds,
                "world_model_update": sum(model.seconds.values()),
                "imagination": imagination,
                "behaviour_update": behaviour,
            },
            "estimated": {
                "world_model_update": model.estimate,
                "imagination": self.behaviour.estimate,
                "behaviour_update": self.behaviour.estimate,
            },
            "updates_per_step": {
                "world_model": self.ratios[0],
                "behaviour": self.ratios[1],
            },
            "env_steps_per_second": 1 / self.step_seconds,
            "steps": STEPS,
            "hours": self.hours(),
            "memory_bytes": {**dataclasses.asdict(memory), "fits": memory.fits},
            "error": None,
        }


@dataclass(frozen=True)
class Unmeasured:
    """A preset that could not be measured."""

    preset: str
    error: str
    """Reason."""

    def to_dict(self) -> dict[str, Any]:
        """Return the reason for JSON."""
        return {"preset": self.preset, "error": self.error}


@dataclass(frozen=True)
class Calibration:
    """Results of a calibration."""

    env: str | None
    """Id of the measured environment; None for random frames."""
    obs_shape: tuple[int, ...]
    num_actions: int
    seconds: float
    """Duration of the calibration."""
    presets: tuple[PresetCost | Unmeasured, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the results for JSON."""
        return {
            "env": self.env,
            "obs_shape": list(self.obs_shape),
            "num_actions": self.num_actions,
            "seconds": self.seconds,
            "presets": [preset.to_dict() for preset in self.presets],
        }
