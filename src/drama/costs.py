"""What training costs, in seconds and bytes: the numbers that a calibration yields."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS = 100_000
"""Environment steps that the expected time is told for: Atari100k's."""


@dataclass(frozen=True)
class UpdateCost:
    """What one update costs."""

    seconds: Mapping[str, float]
    """Seconds in each phase of the trainer's clock, at the full size of the batch."""
    peak_bytes: int | None
    """Memory taken and freed again, beyond weights, moments and gradients; None if not seen."""
    measured: int
    """Windows or trajectories in the batches that were measured."""
    full: int
    """Those in the preset's own."""

    @property
    def estimate(self) -> str | None:
        """How the numbers were scaled; None if they were measured at full size."""
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
        """Take the sample with the median total and scale it up to the full size.

        Args:
            samples: Seconds per phase of each update.
            peak: Bytes taken at most, if seen.
            measured: Batch size of the samples.
            full: Batch size that is asked for.
            smaller: Size and seconds of a smaller batch, which tell the part of an update that
                does not grow with the batch; None scales all of it by frames.
        """
        times = full / measured
        total = statistics.median_low(sum(sample.values()) for sample in samples)
        sample = next(s for s in samples if sum(s.values()) == total)
        factor = times
        if smaller is not None and total > 0:
            slope = (total - smaller[1]) / (measured - smaller[0])
            # Noise may hide the slope, so at least an eighth of the time is taken to grow.
            slope = min(max(slope, total / measured / 8), total / measured)
            factor = 1 + slope * (full - measured) / total
        return cls(
            {phase: value * factor for phase, value in sample.items()},
            None if peak is None else round(peak * times),
            measured,
            full,
        )


@dataclass(frozen=True)
class Memory:
    """Bytes that training takes; None is what could not be seen."""

    replay: int
    """The full ring."""
    model: int
    """Weights, gradients and moments, computed."""
    updates: int | None
    """Peak of an update beyond those."""
    host: int | None
    """Process, and of the above what is in host memory."""
    host_available: int | None
    device: int | None
    """What is in the memory of a GPU; None without one."""
    device_available: int | None

    @property
    def fits(self) -> bool:
        """Whether there is room for it, as far as that is known."""
        pairs = ((self.host, self.host_available), (self.device, self.device_available))
        return all(need is None or room is None or need <= room for need, room in pairs)


@dataclass(frozen=True)
class PresetCost:
    """What a preset would cost on this machine."""

    preset: str
    precision: str
    backend: str
    threads: int
    env_seconds: float
    """Of one environment step, resets and the write into the replay included."""
    acting_seconds: float
    """Of choosing one action."""
    world_model: UpdateCost
    behaviour: UpdateCost
    """Of an update of actor and critic, with the imagination before it."""
    ratios: tuple[float, float]
    """Updates of the world model, and of the behaviour, per environment step."""
    warmup_steps: int
    """Steps without acting and updates."""
    memory: Memory

    @property
    def step_seconds(self) -> float:
        """Seconds per environment step with all that training adds to it."""
        world_model, behaviour = (
            ratio * sum(cost.seconds.values())
            for ratio, cost in zip(self.ratios, (self.world_model, self.behaviour), strict=True)
        )
        return self.env_seconds + self.acting_seconds + world_model + behaviour

    def hours(self, steps: int = STEPS) -> float:
        """Expected hours of a run, without evaluation and checkpoints."""
        warm = min(self.warmup_steps, steps)
        return (warm * self.env_seconds + (steps - warm) * self.step_seconds) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a tree for JSON."""
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
    """Why."""

    def to_dict(self) -> dict[str, Any]:
        """Return the same as a tree for JSON."""
        return {"preset": self.preset, "error": self.error}


@dataclass(frozen=True)
class Calibration:
    """All that was measured."""

    env: str | None
    """Environment that was stepped; None for random frames in its stead."""
    obs_shape: tuple[int, ...]
    num_actions: int
    seconds: float
    """How long the calibration took."""
    presets: tuple[PresetCost | Unmeasured, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a tree for JSON."""
        return {
            "env": self.env,
            "obs_shape": list(self.obs_shape),
            "num_actions": self.num_actions,
            "seconds": self.seconds,
            "presets": [preset.to_dict() for preset in self.presets],
        }
