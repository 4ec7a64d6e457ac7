"""What a suite shows while it runs: a live table in a terminal, plain lines elsewhere."""

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
"""Seconds between summaries where the output is not a terminal."""
LIVE_SECONDS = 1.0
"""Seconds between looks at the logs of the runs."""
RATE_SECONDS = 300.0
"""Seconds over which a run's speed is averaged."""
MOST_ROWS = 30
"""Runs in the live table; more are counted."""


def logged_step(run_dir: Path) -> int:
    """Return the newest environment step that the logs of a run know of; 0 without logs."""
    return max(_last_step(run_dir / name) for name in ("metrics.jsonl", "episodes.jsonl"))


def _last_step(path: Path) -> int:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 65536))
            lines = file.read().split(b"\n")
        # Behind the last line break there is nothing, or a row that is being written.
        return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class Gauge:
    """How far a running run is, and how fast."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.began = time.monotonic()
        self.step = cell.step
        self._marks: collections.deque[tuple[float, int]] = collections.deque()

    def read(self) -> None:
        """Look into the logs."""
        now, step = time.monotonic(), logged_step(self.cell.path)
        if step > self.step or not self._marks:
            self.step = max(step, self.step)
            self._marks.append((now, self.step))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()

    @property
    def rate(self) -> float | None:
        """Environment steps per second; None before there is anything to tell."""
        if len(self._marks) < 2:
            return None
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / max(t1 - t0, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds until its last step, evaluation left out."""
        return (self.cell.config.steps - self.step) / self.rate if self.rate else None


class View:
    """Tells of a suite on a console.

    Args:
        console: Where to.
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

    # -- what the runner tells ----------------------------------------------------------------

    def begin(self, cells: Sequence[Cell]) -> None:
        """Take in all runs of the suite."""
        self.total = len(cells)
        self.done = sum(cell.status == "finished" for cell in cells)
        self._open = {c.name: c for c in cells if c.sound and c.status != "finished"}
        self.broken = self.total - self.done - len(self._open)
        self.queued = len(self._open)
        self._say(
            f"{plural(self.total, 'run')}: {self.done} finished, {self.queued} to do"
            + (f", {self.broken} left alone" if self.broken else "")
        )
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, get_renderable=self._table)
            self.live.__enter__()

    def started(self, cell: Cell, where: str) -> None:
        """Tell that a run is on its way."""
        self.gauges[cell.name] = Gauge(cell)
        how = f"goes on from step {cell.step:,}" if cell.step else "begins"
        how = "is evaluated" if cell.step >= cell.config.steps else how
        self._event(f"{cell.name} {how} ({where})")

    def finished(self, cell: Cell) -> None:
        """Tell that a run is finished."""
        took = self._ended(cell)
        self.done += 1
        score = f"mean return {cell.evaluation()['mean']:.3g}"
        self._say(f"{self._count()} {cell.name} finished{took}: {score}")

    def failed(self, cell: Cell, reason: str) -> None:
        """Tell that a run failed."""
        took = self._ended(cell)
        self.broken += 1
        self._say(f"{self._count()} {cell.name} failed{took}: {reason}")

    def stopped(self, cell: Cell) -> None:
        """Tell that a run ended, to be continued."""
        self._ended(cell, remains=True)
        self._event(f"{cell.name} stopped at step {cell.step:,}")

    def stopping(self, running: int, *, at_once: bool) -> None:
        """Tell that somebody wants all of it to end."""
        if at_once:
            self._say("given up; the last checkpoints stand")
        else:
            self._say(
                f"stopping {running} runs after their step and saving; press Ctrl-C again to give "
                "up at once"
            )

    def note(self, text: str) -> None:
        """Tell something else."""
        self._say(text)

    def refresh(self, queued: int) -> None:
        """Show where everything is, if it is time."""
        self.queued = queued
        now = time.monotonic()
        if now - self._read < LIVE_SECONDS:
            return
        self._read = now
        # More often than it is told without a terminal: a speed takes two looks.
        for gauge in self.gauges.values():
            gauge.read()
        if self.live is not None:
            self.live.refresh()
        elif now - self._shown >= PLAIN_SECONDS:
            self._shown = now
            self._say(self.summary())

    def end(self) -> None:
        """Stop showing."""
        if self.live is not None:
            self.live.refresh()
            self.live.__exit__(None, None, None)
            self.live = None

    # -- how it looks -------------------------------------------------------------------------

    def summary(self) -> str:
        """Return one line on all of it."""
        parts = [f"{self.done} of {self.total} finished", f"{len(self.gauges)} running"]
        parts += [f"{self.queued} waiting"] if self.queued else []
        parts += [f"{self.broken} failed"] if self.broken else []
        left = self.left()
        parts.append(f"ETA {clock(left) if left is not None else '-'}")
        return ", ".join(parts)

    def left(self) -> float | None:
        """Expected seconds until everything is done; None before any speed is known.

        Runs that wait are taken to be as fast as those of their variant, or else as all others.
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
        """Say what the live table shows anyway."""
        if self.live is None:
            self._say(text)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def report_failures(console: Console, failed: Iterable[tuple[Cell, str]]) -> None:
    """List the runs that failed, each with its reason and its log."""
    for cell, reason in failed:
        log = f" (log: {cell.log})" if cell.log.is_file() else ""
        console.print(f"failed: {cell.name}: {reason}{log}", markup=False, soft_wrap=True)
