"""Progress of a running suite: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from drama.suite.layout import Cell
from drama.text import clock, plural

PLAIN_SECONDS = 60.0
"""Interval of summaries without a terminal."""
LIVE_SECONDS = 1.0
"""Interval of reading the logs of the runs."""
RATE_SECONDS = 300.0
"""Averaging window of a run's speed."""
MOST_ROWS = 30
"""Maximum number of rows in the live table; further runs are counted."""


def logged_step(run_dir: Path) -> int:
    """Return the latest environment step in a run's logs; 0 without logs."""
    return max(_last_step(run_dir / name) for name in ("metrics.jsonl", "episodes.jsonl"))


def _last_step(path: Path) -> int:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            lines = file.read().split(b"\n")
        # The text after the last line break is an incomplete line.
        return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class Gauge:
    """Progress and speed of a running run."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.began = time.monotonic()
        self.step = cell.step
        self._marks: collections.deque[tuple[float, int]] = collections.deque()

    def read(self) -> None:
        """Read the logs."""
        now, step = time.monotonic(), logged_step(self.cell.path)
        if step > self.step or not self._marks:
            self.step = max(step, self.step)
            self._marks.append((now, self.step))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Environment steps per second; None before the second reading."""
        if len(self._marks) < 2:
            return None
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / max(t1 - t0, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until its last step, without evaluation."""
        return (self.cell.config.steps - self.step) / self.rate if self.rate else None


class View:
    """Displays the progress of a suite on a console.

    Args:
        console: Output console.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live: Live | None = None
        self.gauges: dict[str, Gauge] = {}
        self.total = self.done = self.broken = self.queued = 0
        self._steps_left = 0
        self._rates: dict[str, float] = {}  # of runs that have ended, by variant
        self._open: dict[str, Cell] = {}
        self._shown = self._read = time.monotonic()

    # -- events of the runner -----------------------------------------------------------------

    def begin(self, cells: Sequence[Cell]) -> None:
        """Start the display with all runs of the suite."""
        self.total = len(cells)
        self.done = sum(cell.status == "finished" for cell in cells)
        self._open = {c.name: c for c in cells if c.resumable and c.status != "finished"}
        self.broken = self.total - self.done - len(self._open)
        self.queued = len(self._open)
        self._print(
            f"{plural(self.total, 'run')}: {self.done} finished, {self.queued} to do"
            + (f", {self.broken} skipped" if self.broken else "")
        )
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, get_renderable=self._table)
            self.live.__enter__()

    def started(self, cell: Cell, where: str) -> None:
        """Report a started run."""
        self.gauges[cell.name] = Gauge(cell)
        how = f"continues from step {cell.step:,}" if cell.step else "starts"
        how = "is being evaluated" if cell.step >= cell.config.steps else how
        self._event(f"{cell.name} {how} ({where})")

    def finished(self, cell: Cell) -> None:
        """Report a finished run."""
        took = self._ended(cell)
        self.done += 1
        score = f"mean return {cell.evaluation()['mean']:.3g}"
        self._print(f"{self._count()} {cell.name} finished{took}: {score}")

    def failed(self, cell: Cell, reason: str) -> None:
        """Report a failed run."""
        took = self._ended(cell)
        self.broken += 1
        self._print(f"{self._count()} {cell.name} failed{took}: {reason}")

    def stopped(self, cell: Cell) -> None:
        """Report a run that stopped and can be continued."""
        self._ended(cell, remains=True)
        self._event(f"{cell.name} stopped at step {cell.step:,}")

    def stopping(self, running: int, *, at_once: bool) -> None:
        """Report an interruption of the suite."""
        if at_once:
            self._print("runs killed; their last checkpoints remain valid")
        else:
            self._print(
                f"stopping {plural(running, 'run')} after the current step and saving; press "
                "Ctrl-C again to kill them"
            )

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(text)

    def refresh(self, queued: int) -> None:
        """Update the display if an interval has passed."""
        self.queued = queued
        now = time.monotonic()
        if now - self._read < LIVE_SECONDS:
            return
        self._read = now
        # Read in every interval: a speed needs two readings.
        for gauge in self.gauges.values():
            gauge.read()
        if self.live is not None:
            self.live.refresh()
        elif now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            self._print(self.summary())

    def end(self) -> None:
        """Close the display."""
        if self.live is not None:
            self.live.refresh()
            self.live.__exit__(None, None, None)
            self.live = None

    # -- content ------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return a one-line summary."""
        parts = [f"{self.done} of {self.total} finished", f"{len(self.gauges)} running"]
        parts += [f"{self.queued} waiting"] if self.queued else []
        parts += [f"{self.broken} failed"] if self.broken else []
        left = self.left()
        parts.append(f"ETA {clock(left) if left is not None else '-'}")
        return ", ".join(parts)

    def left(self) -> float | None:
        """Return the expected remaining seconds; None before any speed is known.

        Waiting runs are assumed as fast as the runs of their variant, or as the average run.
        """
        rates = dict(self._rates)
        for gauge in self.gauges.values():
            if gauge.rate:
                rates[gauge.cell.variant.name] = gauge.rate
        if not rates:
            return None
        usual = statistics.fmean(rates.values())
        seconds = 0.0
        for name, cell in self._open.items():
            gauge_ = self.gauges.get(name)
            step, rate = cell.step, rates.get(cell.variant.name, usual)
            if gauge_ is not None:
                step, rate = gauge_.step, gauge_.rate or rate
            seconds += max(cell.config.steps - step, 0) / rate
        return seconds / max(len(self.gauges), 1)

    def _table(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("run")
        for name in ("step", "steps/s", "ETA"):
            table.add_column(name, justify="right")
        gauges = list(self.gauges.values())
        for gauge in gauges[:MOST_ROWS]:
            rate, left = gauge.rate, gauge.left
            table.add_row(
                gauge.cell.name,
                f"{gauge.step:,}/{gauge.cell.config.steps:,}",
                f"{rate:.1f}" if rate else "-",
                clock(left) if left is not None else "-",
            )
        more = len(gauges) - MOST_ROWS
        lines = [Text(f"and {more} more")] if more > 0 else []
        return Group(table, *lines, Text(self.summary()))

    def _count(self) -> str:
        return f"[{self.done + self.broken}/{self.total}]"

    def _ended(self, cell: Cell, *, remains: bool = False) -> str:
        gauge = self.gauges.pop(cell.name, None)
        if remains:
            self._open[cell.name] = cell
        else:
            self._open.pop(cell.name, None)
        if gauge is None:
            return ""
        gauge.read()
        if gauge.rate:
            self._rates[cell.variant.name] = gauge.rate
        return f" in {clock(time.monotonic() - gauge.began)}"

    def _event(self, text: str) -> None:
        """Print an event that the live table already shows."""
        if self.live is None:
            self._print(text)

    def _print(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def report_failures(console: Console, failed: Iterable[tuple[Cell, str]]) -> None:
    """Print the failed runs with reasons and logs."""
    for cell, reason in failed:
        log = f" (log: {cell.log})" if cell.log.is_file() else ""
        console.print(f"failed: {cell.name}: {reason}{log}", markup=False, soft_wrap=True)
