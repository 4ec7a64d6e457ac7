"""Wall time of training, split into phases."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PHASES = (
    "env",
    "acting",
    "replay",
    "world_model",
    "imagination",
    "behaviour",
    "logging",
    "callbacks",
    "checkpoint",
    "other",
)
"""Phases of training: environment steps and resets, action selection, replay writes and sampling,
world-model updates, imagination, behaviour updates, log rows, listeners (live progress, callbacks
of the user), checkpoints; ``other`` is the rest of the loop."""


@dataclass(frozen=True)
class TimeSplit:
    """Wall time of some environment steps, by phase."""

    seconds: Mapping[str, float]
    """Wall seconds of each phase in :data:`PHASES`; they add up to the wall time."""
    steps: int
    """Environment steps made in that time."""
    cpu_seconds: float | None = None
    """CPU seconds of all threads of the process in that time; None if not measured."""

    @property
    def wall_seconds(self) -> float:
        """Total wall seconds."""
        return sum(self.seconds.values())

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of wall time, training included."""
        return self.steps / self.wall_seconds if self.wall_seconds else 0.0

    def fractions(self) -> dict[str, float]:
        """Return the share of each phase; they add up to 1, or are all 0 if no time passed."""
        whole = self.wall_seconds or 1.0
        return {name: self.seconds.get(name, 0.0) / whole for name in PHASES}

    def row(self) -> dict[str, float]:
        """Return the columns of ``metrics.jsonl``: ``time/<phase>`` are fractions."""
        cpu = self.cpu_seconds
        return {
            **{f"time/{name}": round(share, 5) for name, share in self.fractions().items()},
            "time/wall_seconds": round(self.wall_seconds, 4),
            **({} if cpu is None else {"time/cpu_seconds": round(cpu, 4)}),
            "time/steps_per_second": float(f"{self.steps_per_second:.6g}"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the split as a JSON-able tree."""
        return {
            "steps": self.steps,
            "wall_seconds": round(self.wall_seconds, 3),
            "steps_per_second": float(f"{self.steps_per_second:.6g}"),
            "fractions": {name: round(share, 5) for name, share in self.fractions().items()},
        }

    def __str__(self) -> str:
        """Return one line: phases of at least 1 %, largest first, the rest as ``other``."""
        shares = {name: 100 * share for name, share in self.fractions().items()}
        shown = {k: v for k, v in shares.items() if v >= 1 and k != "other"}
        shown = dict(sorted(shown.items(), key=lambda item: -item[1]))
        shown["other"] = sum(shares.values()) - sum(shown.values())
        whole = {name: int(share) for name, share in shown.items()}
        # Largest-remainder rounding, so that percentages still add up to 100.
        lost = sorted(shown, key=lambda name: whole[name] - shown[name])
        for name in lost[: round(sum(shown.values())) - sum(whole.values())]:
            whole[name] += 1
        parts = (f"{k.replace('_', ' ')} {v} %" for k, v in whole.items() if v)
        return f"time: {', '.join(parts)}; {self.steps_per_second:.3g} env steps/s"


class Clock:
    """Wall seconds spent in named phases, each second counted once.

    Phases nest: an inner phase pauses the outer one, so the seconds of all phases add up to the
    time during which any was open.

    These are host seconds. On a GPU the host queues work ahead and waits where it reads a number
    back; that phase is charged with the wait. In training it is mostly ``acting``, whose action
    the environment needs. ``synchronize`` charges each phase with its own work.

    Args:
        synchronize: Called at both ends of each phase, to wait for queued GPU work. It prevents
            overlap of host and GPU, so training does not use it.
    """

    def __init__(self, synchronize: Callable[[], object] | None = None) -> None:
        self.synchronize = synchronize
        self._seconds: dict[str, float] = {}
        self._flushed: dict[str, float] = {}
        self._open: list[str] = []
        self._mark = 0.0
        self._cpu = self._cpu_mark = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside, without inner phases, to ``name``."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Charge the innermost open phase with the time since the last call."""
        if self.synchronize is not None:
            self.synchronize()
        now, cpu = time.perf_counter(), time.process_time()
        if self._open:
            name = self._open[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
            self._cpu += cpu - self._cpu_mark
        self._mark, self._cpu_mark = now, cpu

    def flush(self) -> dict[str, float]:
        """Return the seconds per phase since the last flush, and reset them."""
        if self._open:
            self._charge()
        seconds, self._seconds = self._seconds, {}
        for name, value in seconds.items():
            self._flushed[name] = self._flushed.get(name, 0.0) + value
        return seconds

    def flush_cpu(self) -> float:
        """Return the CPU seconds of the process in any phase since the last call."""
        if self._open:
            self._charge()
        cpu, self._cpu = self._cpu, 0.0
        return cpu

    def totals(self) -> dict[str, float]:
        """Return the seconds per phase since the clock was created."""
        if self._open:
            self._charge()
        names = dict.fromkeys((*self._flushed, *self._seconds))
        return {k: self._flushed.get(k, 0.0) + self._seconds.get(k, 0.0) for k in names}
