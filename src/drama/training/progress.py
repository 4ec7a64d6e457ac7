"""Live progress in a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import math
import statistics
import sys
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from drama.text import clock
from drama.training.events import Event
from drama.training.trainer import Trainer

PLAIN_SECONDS = 15.0
"""Seconds between lines where the output is not a terminal."""
RATE_SECONDS = 20.0
"""Seconds over which the speed is averaged to estimate the time left."""

MARK_SECONDS = 0.05
"""Shortest time between two measurements in seconds."""
LOSSES = (
    ("world_model/loss", "model loss"),
    ("world_model/reconstruction", "reconstruction"),
    ("world_model/kl", "KL"),
    ("behaviour/return", "imagined return"),
    ("behaviour/entropy", "entropy"),
)
"""Metrics shown, and their headings."""


class Pace:
    """Recent seconds per environment step of one phase.

    Args:
        start: Step at which the phase begins.
        cycle: Steps after which its work repeats; only whole cycles are timed.
    """

    def __init__(self, start: int, cycle: int = 1) -> None:
        self.start = start
        self.cycle = cycle
        self._marks: collections.deque[tuple[float, int]] = collections.deque()

    def mark(self, now: float, step: int) -> None:
        """Record the time of a step; the first cycle is excluded, since it also allocates."""
        cycles, rest = divmod(step - self.start, self.cycle)
        if not self._marks:
            if cycles and not rest:
                self._marks.append((now, step))
            return
        time_before, step_before = self._marks[-1]
        if now - time_before < MARK_SECONDS or cycles == (step_before - self.start) // self.cycle:
            return
        self._marks.append((now, step))
        while len(self._marks) > 2 and now - self._marks[1][0] > RATE_SECONDS:
            self._marks.popleft()

    @property
    def seconds(self) -> float | None:
        """Seconds per step; None until two times are recorded."""
        if len(self._marks) < 2:
            return None
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (t1 - t0) / (s1 - s0)


class Progress:
    """A listener that shows phase, speed, time left, running return and losses.

    Args:
        trainer: Source of the progress.
        target: Environment step at which this run ends.
        console: Output; standard error by default, so that results can be piped.
    """

    def __init__(self, trainer: Trainer, target: int, console: Console | None = None) -> None:
        self.trainer = trainer
        self.target = target
        self.console = console or Console(stderr=True, emoji=False)
        self.live: Live | None = None
        self.returns: collections.deque[float] = collections.deque(maxlen=20)
        self.metrics: dict[str, float] = {}
        self.learning_seconds: float | None = None
        """Estimated seconds of acting and updates per step, used until they are measured."""
        c = trainer.config.training
        ratios = [r for r in (c.world_model_ratio, c.behaviour_ratio) if r > 0]
        self._paces = {
            "collecting": Pace(0),
            "training": Pace(c.warmup_steps, math.ceil(1 / min(ratios, default=1.0))),
        }
        self._shown = 0.0
        self._printed = -1  # step of the last line

    def __enter__(self) -> Progress:
        """Start showing."""
        if self.console.is_terminal:
            self.live = Live(
                console=self.console,
                auto_refresh=False,
                get_renderable=self._table,
                # What callbacks print goes to a file where standard output is one.
                redirect_stdout=sys.stdout.isatty(),
            )
            self.live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Show the last state and stop."""
        if self.live is not None:
            self.live.refresh()
            self.live.__exit__(None, None, None)
        elif self._shown and self._printed != self.trainer.step:
            self._print()

    def __call__(self, event: Event, payload: Any) -> None:
        """Receive one event of the trainer."""
        if event == "episode":
            self.returns.append(payload.ret)
        elif event == "metrics":
            self.metrics = payload
        elif event in ("note", "warning"):
            self.console.print(f"{event}: {payload}", highlight=False, markup=False, soft_wrap=True)
        elif event == "step":
            self._refresh()

    def _refresh(self) -> None:
        now = time.perf_counter()
        self._paces[self.phase].mark(now, self.trainer.step)
        interval = 0.25 if self.live is not None else PLAIN_SECONDS
        if not self._shown:
            self._shown = now  # nothing to report yet
        if now - self._shown < interval:
            return
        self._shown = now
        if self.live is not None:
            self.live.refresh()
        else:
            self._print()

    def _print(self) -> None:
        self._printed = self.trainer.step
        self.console.print(self._line(), highlight=False, soft_wrap=True)

    @property
    def phase(self) -> str:
        """Phase of the run: ``collecting`` or ``training``."""
        warm = self.trainer.step < self.trainer.config.training.warmup_steps
        return "collecting" if warm else "training"

    def rate(self) -> float | None:
        """Environment steps per second in this phase; None until it is measured."""
        seconds = self._paces[self.phase].seconds
        return None if seconds is None else 1 / max(seconds, 1e-9)

    def seconds_left(self) -> float | None:
        """Seconds until the end; None until every phase to come is measured or estimated."""
        step, warmup = self.trainer.step, self.trainer.config.training.warmup_steps
        warm = max(0, min(warmup, self.target) - step)
        trained = max(0, self.target - max(warmup, step))
        collecting = self._paces["collecting"].seconds
        training = self._paces["training"].seconds
        if training is None and self.learning_seconds is not None:
            training = (collecting or 0.0) + self.learning_seconds
        if (warm and collecting is None) or (trained and training is None):
            return None
        return warm * (collecting or 0.0) + trained * (training or 0.0)

    def _parts(self) -> list[tuple[str, str]]:
        rate, left = self.rate(), self.seconds_left()
        parts = [
            ("phase", self.phase),
            ("step", f"{self.trainer.step:,}/{self.target:,}"),
            ("steps/s", "-" if rate is None else f"{rate:.3g}"),
            ("ETA", "-" if left is None else clock(left)),
            ("return", f"{statistics.fmean(self.returns):.2f}" if self.returns else "-"),
        ]
        metrics = self.metrics
        if not any(key in metrics for key, _ in LOSSES):  # no row has had an update yet
            metrics = self.trainer.meter.means()
        parts += [(name, f"{metrics[key]:.3g}") for key, name in LOSSES if key in metrics]
        return parts

    def _line(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self._parts())

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name, _ in self._parts():
            table.add_column(name, justify="right")
        table.add_row(*(value for _, value in self._parts()))
        return table
