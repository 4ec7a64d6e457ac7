"""Detects CPU contention: updates that are slow because threads wait for a core.

PyTorch's threads meet after each operation. Where another process takes the core of one of them,
all wait for it, thousands of times per update: two threads beside one busy process can take
twenty times as long as one thread.

A larger update is slow as well, but its threads run. So two things are measured over windows of
:data:`WINDOW` seconds: the time of updates relative to the fastest window so far, and how many of
this process's threads were ready to run without a core. The kernel counts the latter on Linux;
elsewhere the load average takes its place.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from drama.replay import Purpose

WINDOW = 30.0
"""Seconds over which updates are averaged."""
SLOW = 4.0
"""Ratio to the fastest window from which updates count as slow."""
WAITING = 0.25
"""Waiting threads, averaged over time, from which slow updates are put down to contention."""
MOSTLY_WAITING = 0.5
"""The same for several threads whose fastest window is unknown: it may have been slow, too."""

PHASES: dict[Purpose, tuple[str, ...]] = {
    "world_model": ("world_model",),
    "behaviour": ("imagination", "behaviour"),
}
"""Phases of the clock that an update of each kind spends its time in."""


@dataclass(frozen=True)
class Window:
    """Measurements during some updates."""

    slowdown: float
    """Time of the updates relative to the fastest window so far."""
    waiting: float | None
    """Threads of this process that waited for a core, averaged over time; None if unknown."""
    load: float | None
    """Load average of the machine over one minute; None if unknown."""
    cores: int
    """Cores that this process may use."""
    threads: int
    """CPU threads of PyTorch."""


def contention(window: Window) -> str | None:
    """Return a warning if the updates of a window were slow for want of a core, else None."""
    slow = window.slowdown >= SLOW
    if window.waiting is not None:
        several = window.threads > 1 and window.waiting >= MOSTLY_WAITING
        if not several and not (slow and window.waiting >= WAITING):
            return None
        evidence = f"{window.waiting:.1f} threads of this run wait for a core on average"
    elif slow and window.load is not None and window.load > window.cores:
        evidence = f"the load is {window.load:.1f} on {window.cores} cores"
    else:
        return None
    if slow:
        evidence += f", updates take {window.slowdown:.0f} times as long as before"
    remedy = "stop the other processes"
    if window.threads > 1:
        remedy = f"continue with --training.threads 1 (now {window.threads}), or {remedy}"
    return f"the CPU is contended: {evidence}; {remedy}"


def waiting_seconds() -> float | None:
    """Seconds that this process's threads were ready to run without a core; None if unknown."""
    try:
        tasks = list(Path("/proc/self/task").iterdir())
    except OSError:
        return None
    waited = []
    for task in tasks:
        # A thread may have ended since; a kernel may not count.
        with contextlib.suppress(OSError, ValueError, IndexError):
            waited.append(int((task / "schedstat").read_text(encoding="ascii").split()[1]))
    return sum(waited) / 1e9 if waited else None


def load_average() -> float | None:
    """Load average of the machine over one minute; None if unknown."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return None


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ContentionWatch:
    """Looks for contention at the end of each window of training on a CPU.

    Args:
        seconds: Length of a window.
    """

    def __init__(self, seconds: float = WINDOW) -> None:
        self.seconds = seconds
        self._began = -float("inf")
        self._waited: float | None = None
        self._counts: dict[Purpose, int] = {}
        self._spent: dict[Purpose, float] = {}
        self._fastest: dict[Purpose, float] = {}

    def scan(self, updates: Mapping[Purpose, int], phases: Mapping[str, float]) -> str | None:
        """Return a warning at the end of a contended window, else None.

        Args:
            updates: Updates made so far, by kind.
            phases: Seconds spent so far, by phase of the clock.
        """
        now = time.monotonic()
        if now - self._began < self.seconds:
            return None
        spent = {kind: sum(phases.get(p, 0.0) for p in PHASES[kind]) for kind in updates}
        waited = waiting_seconds()
        found = None
        # A kind whose first update falls into the window also spends time on its preparation.
        if any(self._counts.values()):
            made = {kind: n - self._counts[kind] for kind, n in updates.items()}
            seconds = {kind: spent[kind] - self._spent[kind] for kind in updates}
            waiting = None
            if waited is not None and self._waited is not None:
                waiting = max(0.0, waited - self._waited) / (now - self._began)
            if any(made.values()):
                found = contention(
                    Window(
                        self._slowdown(made, seconds),
                        waiting,
                        load_average(),
                        usable_cores(),
                        torch.get_num_threads(),
                    )
                )
        self._began, self._waited = now, waited
        self._counts, self._spent = dict(updates), spent
        return found

    def _slowdown(self, made: Mapping[Purpose, int], seconds: Mapping[Purpose, float]) -> float:
        """Return the time of updates relative to the fastest window, this one included."""
        for kind in (kind for kind, count in made.items() if count):
            mean = seconds[kind] / made[kind]
            self._fastest[kind] = min(mean, self._fastest.get(kind, mean))
        fastest = sum(made[kind] * self._fastest.get(kind, 0.0) for kind in made)
        return sum(seconds.values()) / fastest if fastest > 0 else 1.0
