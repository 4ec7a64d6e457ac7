"""Live progress in a terminal, plain lines elsewhere."""

from __future__ import annotations

import collections
import statistics
import time
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from drama.training.trainer import Event, Trainer

PLAIN_SECONDS = 15.0
"""Seconds between lines where the output is not a terminal."""
RATE_SECONDS = 20.0
"""Seconds over which the speed is averaged for the estimate of the time left."""


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


class Progress:
    """A listener that shows phase, speed, time left, running return and losses.

    Args:
        trainer: Whose progress to show.
        target: Environment step at which this run ends.
        console: Where to; standard error by default, so that results can be piped.
    """

    def __init__(self, trainer: Trainer, target: int, console: Console | None = None) -> None:
        self.trainer = trainer
        self.target = target
        self.console = console or Console(stderr=True, emoji=False)
        self.live: Live | None = None
        self.returns: collections.deque[float] = collections.deque(maxlen=20)
        self.metrics: dict[str, float] = {}
        self._marks: collections.deque[tuple[float, int]] = collections.deque()
        self._shown = 0.0

    def __enter__(self) -> Progress:
        """Start showing."""
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, get_renderable=self._table)
            self.live.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        """Show the last state and stop."""
        if self.live is not None:
            self.live.refresh()
            self.live.__exit__(None, None, None)
        elif self._shown:
            self.console.print(self._line(), highlight=False, soft_wrap=True)

    def __call__(self, event: Event, payload: Any) -> None:
        """Take in one event of the trainer."""
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
        interval = 0.25 if self.live is not None else PLAIN_SECONDS
        if not self._shown:
            self._shown = now  # nothing to tell yet
            self._marks.append((now, self.trainer.step))
        if now - self._shown < interval:
            return
        self._shown = now
        self._marks.append((now, self.trainer.step))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_SECONDS:
            self._marks.popleft()
        if self.live is not None:
            self.live.refresh()
        else:
            self.console.print(self._line(), highlight=False, soft_wrap=True)

    @property
    def phase(self) -> str:
        """What the run is doing."""
        warm = self.trainer.step < self.trainer.config.training.warmup_steps
        return "collecting" if warm else "training"

    def rate(self) -> float:
        """Environment steps per second, training included."""
        if len(self._marks) < 2:
            return 0.0
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / max(t1 - t0, 1e-9)

    def _parts(self) -> list[tuple[str, str]]:
        step, rate = self.trainer.step, self.rate()
        parts = [
            ("phase", self.phase),
            ("step", f"{step:,}/{self.target:,}"),
            ("steps/s", f"{rate:.1f}" if rate else "-"),
            ("ETA", _duration((self.target - step) / rate) if rate else "-"),
            ("return", f"{statistics.fmean(self.returns):.2f}" if self.returns else "-"),
        ]
        for key, name in (
            ("world_model/loss", "model loss"),
            ("world_model/reconstruction", "reconstruction"),
            ("world_model/kl", "KL"),
            ("behaviour/return", "dreamt return"),
            ("behaviour/entropy", "entropy"),
        ):
            if key in self.metrics:
                parts.append((name, f"{self.metrics[key]:.3g}"))
        return parts

    def _line(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self._parts())

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name, _ in self._parts():
            table.add_column(name, justify="right")
        table.add_row(*(value for _, value in self._parts()))
        return table
