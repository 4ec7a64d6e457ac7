"""Executes all runs of a suite on a pool: starting, retrying, stopping."""

from __future__ import annotations

import collections
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from drama.errors import RunDirError
from drama.suite.layout import Cell, read_cell, record_failure, scan
from drama.suite.process import is_transient
from drama.suite.spec import SuiteSpec
from drama.suite.view import View
from drama.training.rundir import InUseError

POLL_SECONDS = 0.2
"""Interval of polling the runs."""
LOCK_SECONDS = 300.0
"""Timeout for a run's previous process, which may still save."""
ATTEMPTS = 2
"""Attempts per call at a run that is killed or runs out of memory."""


class Handle(Protocol):
    """A started run."""

    @property
    def where(self) -> str:
        """Name in messages."""

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while it runs."""

    def stop(self) -> None:
        """Ask it to save and stop after the current step. Called once."""

    def kill(self) -> None:
        """Kill it."""

    def reason(self) -> str:
        """Return why it failed, on one line, once it has ended."""


class Pool(Protocol):
    """Executes runs: this machine or a cluster."""

    def has_capacity(self) -> bool:
        """Whether another run can start now."""

    def start(self, cell: Cell) -> Handle:
        """Start or continue a run.

        Raises:
            InUseError: Another process still uses the run directory.
            RunDirError: The run directory cannot be used.
        """

    def close(self) -> None:
        """Release all resources."""


@dataclass
class Outcome:
    """Result of one call of a suite."""

    finished: list[Cell] = field(default_factory=list)
    """Finished runs, including those of earlier calls."""
    failed: list[tuple[Cell, str]] = field(default_factory=list)
    """Failed and skipped runs with reasons."""
    open: list[Cell] = field(default_factory=list)
    """Runs left to start or continue after an interruption."""
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0 if all runs finished, 1 if a run failed, 130 after an interruption."""
        return 130 if self.interrupted else 1 if self.failed else 0


class Runner:
    """Starts runs, monitors them and records their outcomes.

    Args:
        directory: Directory of the suite, created and locked.
        spec: Runs requested.
        pool: Executes the runs.
        view: Displays progress.
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
        self._interrupts = 0

    def interrupt(self) -> None:
        """Ask all runs to save and stop; the second call kills them."""
        self._interrupts += 1

    def run(self) -> Outcome:
        """Execute all runs; returns when none is running."""
        cells = scan(self.directory, self.spec)
        for cell in cells:
            if cell.status == "finished":
                self.outcome.finished.append(cell)
            elif cell.resumable:
                self.queue.append(cell)
            else:
                self.outcome.failed.append((cell, cell.reason))
                self.view.note(f"skipped: {cell.reason}")
        # Seed by seed, so that an incomplete suite is a full comparison with fewer seeds.
        order = {seed: index for index, seed in enumerate(self.spec.seeds)}
        self.queue = collections.deque(sorted(self.queue, key=lambda cell: order[cell.seed]))
        self.view.begin(cells)
        handled = 0
        try:
            while self.running or (self.queue and not self._interrupts):
                if not self._interrupts:
                    self._start()
                elif handled < self._interrupts:
                    handled = min(self._interrupts, 2)
                    self._stop(at_once=handled == 2)
                time.sleep(POLL_SECONDS)
                for name, (cell, handle) in list(self.running.items()):
                    code = handle.poll()
                    if code is not None:
                        del self.running[name]
                        self._on_exit(cell, handle, code)
                self.view.refresh(len(self.queue))
        finally:
            for _, handle in self.running.values():  # after an internal error, runs save and stop
                handle.stop()
            self.view.end()
        self.outcome.open += self.queue
        self.outcome.interrupted = bool(self._interrupts and self.outcome.open)
        return self.outcome

    def _start(self) -> None:
        for _ in range(len(self.queue)):
            if not self.pool.has_capacity():
                return
            cell = self._reread(self.queue.popleft())
            if cell.status == "finished" or not cell.resumable:
                self._record(cell, cell.reason)
                continue
            try:
                handle = self.pool.start(cell)
            except InUseError as error:
                self._wait_for(cell, str(error))
                continue
            except RunDirError as error:
                self._record(cell, str(error))
                continue
            except OSError as error:  # disk full, or too many processes
                self._record(cell, f"cannot start: {error}")
                continue
            self._locked_since.pop(cell.name, None)
            self._attempts[cell.name] += 1
            self.running[cell.name] = cell, handle
            self.view.started(cell, handle.where)

    def _wait_for(self, cell: Cell, why: str) -> None:
        """Postpone a run whose previous process still holds its lock."""
        now = time.monotonic()
        if cell.name not in self._locked_since:
            self.view.note(f"waiting: {why}")
        if now - self._locked_since.setdefault(cell.name, now) < LOCK_SECONDS:
            self.queue.append(cell)
        else:
            self._record(cell, why)

    def _stop(self, *, at_once: bool) -> None:
        self.view.stopping(len(self.running), at_once=at_once)
        for _, handle in self.running.values():
            if at_once:
                handle.kill()
            else:
                handle.stop()

    def _reread(self, cell: Cell) -> Cell:
        return read_cell(self.directory, self.spec, cell.variant, cell.game, cell.seed)

    def _on_exit(self, cell: Cell, handle: Handle, code: int) -> None:
        """Record the outcome of an ended run, or queue it for a retry."""
        now, why = self._reread(cell), handle.reason()
        if now.status == "finished":
            self._record(now, "")
        elif self._interrupts and now.resumable:
            self.outcome.open.append(now)
            self.view.stopped(now)
        elif not now.resumable:
            self._record(now, now.reason)
        elif is_transient(code, why) and self._attempts[cell.name] < ATTEMPTS:
            self.view.note(f"{cell.name}: {why}; retrying from step {now.step:,}")
            self.view.stopped(now)
            self.queue.append(now)
        else:
            why = why if code else now.reason or "its process ended early"
            with contextlib.suppress(OSError):  # a full disk; the failure is printed anyway
                record_failure(now, why, code)
            self._record(now, why)

    def _record(self, cell: Cell, reason: str) -> None:
        """Record the final outcome of a run."""
        if cell.status == "finished":
            self.outcome.finished.append(cell)
            self.view.finished(cell)
        else:
            self.outcome.failed.append((cell, reason))
            self.view.failed(cell, reason)
