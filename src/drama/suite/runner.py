"""Bringing every run of a suite to its end, wherever the runs are carried out."""

from __future__ import annotations

import collections
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drama.errors import RunDirError
from drama.suite.layout import Cell, look, read_cell, record_failure
from drama.suite.process import worth_a_retry
from drama.suite.spec import SuiteSpec
from drama.suite.view import View
from drama.training.rundir import InUseError

LOOK_SECONDS = 0.2
"""Time between looks at the runs."""
LOCK_SECONDS = 300.0
"""How long to wait for the former process of a run, which may still be saving."""
ATTEMPTS = 2
"""Of a run that is killed, or that runs out of memory, in one call."""


class Handle(Protocol):
    """A run that was started."""

    @property
    def where(self) -> str:
        """How messages call it."""

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while it runs."""

    def stop(self) -> None:
        """Ask it to save and end after the step in hand. Called once."""

    def kill(self) -> None:
        """End it at once."""

    def reason(self) -> str:
        """Return why it failed, in one line, once it has ended."""


class Pool(Protocol):
    """Where runs are carried out."""

    def room(self) -> bool:
        """Whether another run can be started now."""

    def start(self, cell: Cell) -> Handle:
        """Start or continue a run.

        Raises:
            InUseError: Another process still trains there.
            RunDirError: Its directory cannot be used.
        """

    def close(self) -> None:
        """Give everything back."""


@dataclass
class Outcome:
    """What a call of a suite came to."""

    finished: list[Cell] = field(default_factory=list)
    """Runs that are finished now, those of earlier calls included."""
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    """Runs that failed, or that could not be touched, each with its reason."""
    open: list[Cell] = field(default_factory=list)
    """Runs left to be begun or continued, after an interruption."""
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 if all is done, 1 if a run failed, 130 after an interruption."""
        return 130 if self.interrupted else 1 if self.failed else 0


class Runner:
    """Starts what is to do, watches it, and tells what came of it.

    Args:
        directory: Of the suite, which was begun and is locked.
        spec: What it holds.
        pool: Where runs are carried out.
        view: Who is told.
    """

    def __init__(self, directory: Path, spec: SuiteSpec, pool: Pool, view: View) -> None:
        self.directory = directory
        self.spec = spec
        self.pool = pool
        self.view = view
        self.running: dict[str, tuple[Cell, Handle]] = {}
        self.queue: collections.deque[Cell] = collections.deque()
        self.outcome = Outcome()
        self._attempts: collections.Counter[str] = collections.Counter()
        self._locked_since: dict[str, float] = {}
        self._asked = 0  # times that somebody wanted it to stop

    def interrupt(self) -> None:
        """Ask all runs to save and end; the second time, end them at once."""
        self._asked += 1

    def run(self) -> Outcome:
        """Carry everything out; returns when nothing runs any more."""
        cells = look(self.directory, self.spec)
        for cell in cells:
            if cell.status == "finished":
                self.outcome.finished.append(cell)
            elif cell.sound:
                self.queue.append(cell)
            else:
                self.outcome.failed.append((cell, cell.reason))
                self.view.note(f"left alone: {cell.reason}")
        # Seed by seed: what is there after half of the time is a whole comparison with fewer seeds.
        order = {seed: index for index, seed in enumerate(self.spec.seeds)}
        self.queue = collections.deque(sorted(self.queue, key=lambda cell: order[cell.seed]))
        self.view.begin(cells)
        told = 0
        try:
            while self.running or (self.queue and not self._asked):
                if not self._asked:
                    self._start()
                elif told < self._asked:
                    told = min(self._asked, 2)
                    self._stop(at_once=told == 2)
                time.sleep(LOOK_SECONDS)
                for name, (cell, handle) in list(self.running.items()):
                    code = handle.poll()
                    if code is not None:
                        del self.running[name]
                        self._settle(cell, handle, code)
                self.view.refresh(len(self.queue))
        finally:
            for _, handle in self.running.values():  # an error of our own: they save and end
                handle.stop()
            self.view.end()
        self.outcome.open += self.queue
        self.outcome.interrupted = bool(self._asked and self.outcome.open)
        return self.outcome

    def _start(self) -> None:
        for _ in range(len(self.queue)):
            if not self.pool.room():
                return
            cell = self._now(self.queue.popleft())
            if cell.status == "finished" or not cell.sound:
                self._take(cell, cell.reason)
                continue
            try:
                handle = self.pool.start(cell)
            except InUseError as error:
                self._wait_for(cell, str(error))
                continue
            except RunDirError as error:
                self._take(cell, str(error))
                continue
            except OSError as error:  # no room for its log, no further process
                self._take(cell, f"cannot be started: {error}")
                continue
            self._locked_since.pop(cell.name, None)
            self._attempts[cell.name] += 1
            self.running[cell.name] = cell, handle
            self.view.started(cell, handle.where)

    def _wait_for(self, cell: Cell, why: str) -> None:
        """Put a run off whose former process is still there."""
        now = time.monotonic()
        if cell.name not in self._locked_since:
            self.view.note(f"waiting: {why}")
        if now - self._locked_since.setdefault(cell.name, now) < LOCK_SECONDS:
            self.queue.append(cell)
        else:
            self._take(cell, why)

    def _stop(self, *, at_once: bool) -> None:
        self.view.stopping(len(self.running), at_once=at_once)
        for _, handle in self.running.values():
            if at_once:
                handle.kill()
            else:
                handle.stop()

    def _now(self, cell: Cell) -> Cell:
        return read_cell(self.directory, self.spec, cell.variant, cell.game, cell.seed)

    def _settle(self, cell: Cell, handle: Handle, code: int) -> None:
        now, why = self._now(cell), handle.reason()
        if now.status == "finished":
            self._take(now, "")
        elif self._asked and now.sound:
            self.outcome.open.append(now)
            self.view.stopped(now)
        elif not now.sound:
            self._take(now, now.reason)
        elif worth_a_retry(code, why) and self._attempts[cell.name] < ATTEMPTS:
            self.view.note(f"{cell.name}: {why}; once more from step {now.step:,}")
            self.view.stopped(now)
            self.queue.append(now)
        else:
            why = why if code else now.reason or "it ended without being finished"
            with contextlib.suppress(OSError):  # the disk is full, perhaps; it is listed anyway
                record_failure(now, why, code)
            self._take(now, why)

    def _take(self, cell: Cell, reason: str) -> None:
        """Put a run where it belongs for good."""
        if cell.status == "finished":
            self.outcome.finished.append(cell)
            self.view.finished(cell)
        else:
            self.outcome.failed.append((cell, reason))
            self.view.failed(cell, reason)
