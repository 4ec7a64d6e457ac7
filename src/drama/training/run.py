"""The run of an agent: its directory, and whether it is new, read from disk, or being trained."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drama import trust
from drama.config import Config
from drama.errors import DramaError, RunDirError
from drama.files import write_text
from drama.training.checkpoint import Checkpoint, copy_checkpoint
from drama.training.record import record_start, record_stop
from drama.training.rundir import RunLock, check_links, create_run_dir
from drama.training.trainer import Trainer
from drama.training.wandb import import_wandb


@dataclass(frozen=True)
class New:
    """Nothing has been trained."""

    steps = 0
    directory = None


@dataclass(frozen=True)
class Opened:
    """Read from a checkpoint, not trained since."""

    checkpoint: Checkpoint
    run_dir: Path | None
    """Run directory of the checkpoint; None if it was moved out of one."""
    steps_before: int
    """Steps made before those that the checkpoint counts."""

    @property
    def resumable(self) -> bool:
        """Whether the checkpoint holds what training needs; otherwise only weights are kept."""
        return self.checkpoint.has("loop")

    @property
    def directory(self) -> Path | None:
        """Where training continues."""
        return self.run_dir if self.resumable else None

    @property
    def steps(self) -> int:
        """Environment steps made."""
        return self.steps_before + self.checkpoint.step


@dataclass(frozen=True)
class Started:
    """Trained in this process, continued if it was opened."""

    trainer: Trainer

    @property
    def directory(self) -> Path | None:
        """Where logs and checkpoints go."""
        return self.trainer.run_dir

    @property
    def steps(self) -> int:
        """Environment steps made."""
        return self.trainer.collector.steps_before + self.trainer.step


class Run:
    """Owns the run directory: creation, lock, record of starts and stops.

    Args:
        state: How it begins.
    """

    def __init__(self, state: New | Opened) -> None:
        self.state: New | Opened | Started = state

    @property
    def trainer(self) -> Trainer | None:
        """The trainer, once training has started in this process."""
        return self.state.trainer if isinstance(self.state, Started) else None

    @property
    def step(self) -> int:
        """Environment steps that the trainer has made, or will have made once it starts."""
        match self.state:
            case Started(trainer):
                return trainer.step
            case Opened(checkpoint) if self.state.resumable:
                return checkpoint.step
            case _:
                return 0

    @contextlib.contextmanager
    def session(
        self, run_dir: Path | None, config: Config, make: Callable[[Path | None], Trainer]
    ) -> Iterator[Trainer]:
        """Lock the run directory inside the context, and provide the trainer.

        Call `start` before training. Without it the state does not change.

        Args:
            run_dir: New directory; None continues where the run is, or in memory.
            config: Configuration of the run.
            make: Makes the trainer, given the run directory.

        Raises:
            RunDirError: The directory exists, is in use, or is another one than the run's.
            ConfigError: An optional package is missing.
        """
        with contextlib.ExitStack() as stack:
            if config.training.wandb and (run_dir or self.state.directory) is not None:
                import_wandb()  # before anything is created
            directory = self._directory(run_dir, config)
            if directory is not None:
                remember_env(config)
                check_links(directory)
                lock = RunLock(directory)
                lock.acquire()
                stack.callback(lock.release)
            trainer = self.trainer
            if trainer is None:
                try:
                    trainer = make(directory)
                except DramaError:
                    if self.state.directory is None and directory is not None:
                        shutil.rmtree(
                            os.fspath(directory)
                        )  # just created, it holds the settings alone
                    raise
            stack.callback(trainer.close)
            stack.callback(self._stop, trainer)
            yield trainer

    def _directory(self, run_dir: Path | None, config: Config) -> Path | None:
        """Return the directory to train in, created if it is new."""
        current = self.state.directory
        if run_dir is None:
            return current
        if current is not None:
            if run_dir.resolve() != current.resolve():
                raise RunDirError(f"this agent's run is in {current}; it cannot move to {run_dir}")
            return current
        if isinstance(self.state, Started):
            raise RunDirError("this run began in memory; use save() to write it to a directory")
        create_run(run_dir, config)
        return run_dir

    def start(self, trainer: Trainer, facts: dict[str, Any]) -> None:
        """Restore the checkpoint that was opened, and record the start.

        Args:
            trainer: From `session`.
            facts: From `record.facts`.

        Raises:
            CheckpointError: The checkpoint is damaged or cannot be continued.
        """
        match self.state:
            case Started():
                return
            case Opened(checkpoint) if self.state.resumable:
                trainer.load(checkpoint)
                assert trainer.run_dir is not None  # load() requires it
                write_text(trainer.run_dir / "config.json", trainer.config.to_json())
            case Opened():
                trainer.collector.steps_before = self.state.steps
        if trainer.run_dir is not None:
            changed = record_start(trainer.run_dir, trainer.step, facts)
            if changed is not None:
                trainer.events.note(f"not as before: {changed}")
        self.state = Started(trainer)

    def _stop(self, trainer: Trainer) -> None:
        """Record where the time went, if training started."""
        if trainer is self.trainer and trainer.run_dir is not None:
            record_stop(trainer.run_dir, trainer.step, trainer.time_split())

    def save_to(self, path: Path, config: Config, *, resumable: bool) -> None:
        """Write an opened or started run to a directory from `create_run`.

        Args:
            path: The directory.
            config: Configuration to continue with.
            resumable: Also save what only training needs.
        """
        match self.state:
            case Started(trainer):
                trainer.save_to(path, resumable=resumable)
            case Opened(checkpoint):
                directory = self.state.directory
                segments = directory / "replay" if resumable and directory else None
                copy_checkpoint(checkpoint, segments, path, config.to_json())


def create_run(path: Path, config: Config) -> None:
    """Create a run directory that holds the configuration alone.

    Raises:
        RunDirError: It exists and is not empty, or cannot be created.
    """
    create_run_dir(path)
    remember_env(config)
    write_text(path / "config.json", config.to_json())


def remember_env(config: Config) -> None:
    """Let runs of this environment be loaded on this account without asking for trust again."""
    trust.remember(config.env.id, config.env.kwargs, config.env.wrappers)
