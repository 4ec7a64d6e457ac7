"""One run of a suite as a process: arguments, stopping, reasons of failure."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drama import presets
from drama.errors import RunDirError
from drama.settings import DECLARATIONS, flat
from drama.suite.layout import Cell
from drama.suite.status import worth_keeping
from drama.training.rundir import RunLock
from drama.trust import code_named

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|^MemoryError|bad_alloc", re.I)
"""Matches a last output line that reports lack of memory."""


def options(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as options of ``drama train``.

    Args:
        settings: Dotted ``section.field`` to value.
    """
    args: list[str] = []
    for key, value in settings.items():
        if isinstance(value, bool):
            section, dot, name = key.rpartition(".")
            args.append(f"--{section}{dot}{'' if value else 'no-'}{name}")
        elif isinstance(value, tuple):
            args += [f"--{key}", *map(str, value)]
        elif isinstance(value, Mapping):
            args += [f"--{key}", json.dumps(value)]
        else:
            args.append(f"--{key}={value}")
    return args


def arguments(cell: Cell, threads: int | None = None) -> list[str]:
    """Return the arguments of ``drama`` that complete a run.

    Args:
        cell: A resumable, unfinished run.
        threads: CPU threads; None uses the configuration.
    """
    config = cell.config
    path = str(cell.path)
    evaluation = config.evaluation
    # The spec of the suite is trusted to name importable code.
    trust = ["--trust-env"] * bool(code_named(config.env.id, config.env.wrappers))
    if cell.step >= config.steps:
        args = ["eval", "--mode", "greedy", "--episodes", str(evaluation.episodes)]
        args += ["--num-envs", str(evaluation.num_envs), "--seed", str(evaluation.seed)]
        args += ["--latents", evaluation.latents]
        if evaluation.max_episode_steps is not None:
            args += ["--max-episode-steps", str(evaluation.max_episode_steps)]
        return [*args, *trust, "--", path]  # the path may begin with a dash
    # Relative to the current preset, which may differ from the recorded one.
    preset = flat(dataclasses.asdict(presets.preset(cell.variant.preset)))
    settings: dict[str, Any] = {
        key: value
        for key, value in flat(dataclasses.asdict(config)).items()
        if not DECLARATIONS[key].suite and value != preset[key]
    }
    # A configured number of threads has priority.
    if threads is not None and not config.training.threads:
        settings["training.threads"] = threads
    if cell.step:
        settings |= {
            "evaluation.episodes": evaluation.episodes,
            "evaluation.num_envs": evaluation.num_envs,
            "evaluation.seed": evaluation.seed,
            "evaluation.latents": evaluation.latents,
            "evaluation.max_episode_steps": evaluation.max_episode_steps,
        }
        args = ["train", f"--resume={path}", *trust]
    else:
        args = ["train", cell.variant.preset, "--env", cell.game, f"--run-dir={path}"]
        settings["seed"] = cell.seed
    return [*args, f"--steps={config.steps}", *options(settings)]


def prepare(cell: Cell) -> None:
    """Clear the way for a run: delete its failure file and files without a checkpoint.

    Args:
        cell: A resumable, unfinished run.

    Raises:
        InUseError: Another process uses the run directory.
        RunDirError: The directory holds files that must not be deleted, or cannot be locked.
    """
    if cell.path.is_dir():
        lock = RunLock(cell.path)
        lock.acquire()
        try:
            if not cell.step:
                # Checked again under the lock: nothing of value may be deleted.
                if (why := worth_keeping(cell.path)) is not None:
                    raise RunDirError(why)
                shutil.rmtree(os.fspath(cell.path))
        finally:
            lock.release()
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    cell.failure.unlink(missing_ok=True)


class RunProcess:
    """Process that trains and evaluates one run; its output is appended to the run's log.

    Args:
        cell: A prepared run.
        threads: CPU threads; None uses the configuration.
        env: Additional environment variables.
    """

    def __init__(
        self, cell: Cell, threads: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        args = arguments(cell, threads)
        threads = cell.config.training.threads or threads  # also for the evaluation
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with cell.log.open("ab") as log:
            log.write(f"--- {now} drama {' '.join(args)}\n".encode(errors="surrogateescape"))
            log.flush()
            self.began_at = log.tell()
            self.log = cell.log
            # In a separate session, so that Ctrl-C reaches it once, through this process.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "drama.cli.child", str(os.getpid()), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **_threads(threads), **(env or {})},
                start_new_session=True,
            )

    @property
    def where(self) -> str:
        """Name in messages."""
        return f"process {self.process.pid}"

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask it to save and stop after the current step. Call once."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it; its last checkpoint remains valid."""
        self._signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def reason(self) -> str:
        """Return why it failed, on one line."""
        return failure_reason(self.poll(), last_line(self.log, self.began_at))


def _threads(threads: int | None) -> dict[str, str]:
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}


def last_line(log: Path, offset: int = 0) -> str:
    """Return the last non-empty line after ``offset`` bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - 65536))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("drama: error: ") if lines else ""


def failure_reason(code: int | None, last: str) -> str:
    """Return why a process ended.

    Args:
        code: Exit code; negative for a signal, None if unknown.
        last: Last line of its output.
    """
    if code is None:
        return last or "the process was lost"
    if code == 130:
        return "stopped by a signal; progress is saved"
    if code >= 0:
        return last or f"exit code {code} without output"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (possibly out of memory)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def is_transient(code: int | None, last: str) -> bool:
    """Whether a retry may succeed: the process was killed or ran out of memory."""
    return code in (None, -9, 137) or (code != 0 and OUT_OF_MEMORY.search(last) is not None)
