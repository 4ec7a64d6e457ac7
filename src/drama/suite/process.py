"""One run of a suite as a process: what it is called with, how it is stopped, why it failed."""

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
from drama.suite.verdict import worth_keeping
from drama.training.rundir import RunLock
from drama.trust import code_named

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|^MemoryError|bad_alloc", re.I)
"""How a last line says that memory ran out."""


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
    """Return what ``drama`` is called with to bring a run to its end.

    Args:
        cell: A run that is sound and not finished.
        threads: CPU threads; None leaves it to the configuration.
    """
    config = cell.config
    path = str(cell.path)
    evaluation = config.evaluation
    # What the suite names, whoever carries it out may import: an account that has made no run.
    trust = ["--trust-env"] * bool(code_named(config.env.id, config.env.wrappers))
    if cell.step >= config.steps:
        args = ["eval", "--mode", "greedy", "--episodes", str(evaluation.episodes)]
        args += ["--num-envs", str(evaluation.num_envs), "--seed", str(evaluation.seed)]
        args += ["--latents", evaluation.latents]
        if evaluation.max_episode_steps is not None:
            args += ["--max-episode-steps", str(evaluation.max_episode_steps)]
        return [*args, *trust, "--", path]  # which may begin with a dash
    # Against the preset as it is: it may have been another one when the suite was begun.
    preset = flat(dataclasses.asdict(presets.preset(cell.variant.preset)))
    settings: dict[str, Any] = {
        key: value
        for key, value in flat(dataclasses.asdict(config)).items()
        if not DECLARATIONS[key].suite and value != preset[key]
    }
    # A number of threads that somebody chose stays.
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
    """Make way for a run: forget its last failure, and what it left before a first checkpoint.

    Args:
        cell: A run that is sound and not finished.

    Raises:
        InUseError: Another process trains there.
        RunDirError: There is more than it may delete, or no lock can be made.
    """
    if cell.path.is_dir():
        lock = RunLock(cell.path)
        lock.acquire()
        try:
            if not cell.step:
                # Looked at again with the lock in hand: there must be nothing to lose.
                if (why := worth_keeping(cell.path)) is not None:
                    raise RunDirError(why)
                shutil.rmtree(cell.path)
        finally:
            lock.release()
    cell.path.parent.mkdir(parents=True, exist_ok=True)
    cell.failure.unlink(missing_ok=True)


class RunProcess:
    """A process that brings one run forward, with what it prints appended to the run's log.

    Args:
        cell: A run that was prepared.
        threads: CPU threads; None leaves it to the configuration.
        env: Environment variables beside this process's own.
    """

    def __init__(
        self, cell: Cell, threads: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        args = arguments(cell, threads)
        threads = cell.config.training.threads or threads  # for the evaluation as well
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        with cell.log.open("ab") as log:
            log.write(f"--- {now} drama {' '.join(args)}\n".encode(errors="surrogateescape"))
            log.flush()
            self.began_at = log.tell()
            self.log = cell.log
            # A session of its own: Ctrl-C in the terminal must reach it once, from us.
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
        """How messages call it."""
        return f"process {self.process.pid}"

    def poll(self) -> int | None:
        """Return the exit code (negative for a signal), or None while it runs."""
        return self.process.poll()

    def stop(self) -> None:
        """Ask it to save and end after the step in hand. To be called once."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; its last checkpoint stands."""
        self._signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)

    def reason(self) -> str:
        """Return why it failed, in one line."""
        return failure_reason(self.poll(), last_line(self.log, self.began_at))


def _threads(threads: int | None) -> dict[str, str]:
    return {} if threads is None else {"OMP_NUM_THREADS": str(threads)}


def last_line(log: Path, offset: int = 0) -> str:
    """Return the last line with something on it, of what came after ``offset`` bytes."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - 65536))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].removeprefix("drama: error: ") if lines else ""


def failure_reason(code: int | None, said: str) -> str:
    """Say why a process ended.

    Args:
        code: Its exit code; negative for a signal, None if it is not known.
        said: Its last line.
    """
    if code is None:
        return said or "the process was lost"
    if code == 130:
        return "stopped from outside; what it learnt is saved"
    if code >= 0:
        return said or f"ended with exit code {code} and said nothing"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (perhaps for want of memory)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def worth_a_retry(code: int | None, said: str) -> bool:
    """Whether a process ended for a reason that may not be there next time."""
    return code in (None, -9, 137) or (code != 0 and OUT_OF_MEMORY.search(said) is not None)
