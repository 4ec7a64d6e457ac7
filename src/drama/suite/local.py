"""Runs of a suite as processes on this machine: parallel runs, GPUs and threads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from drama.config import Config
from drama.errors import ConfigError, RunDirError
from drama.suite.layout import Cell
from drama.suite.process import RunProcess, prepare
from drama.text import plural
from drama.training.device import pick_device
from drama.training.memory import available_bytes
from drama.training.rundir import InUseError, RunLock

PROCESS = 600 * 10**6
"""Assumed memory of a CPU run in bytes, besides replay and activations."""
PER_ACTIVATION = 36
"""Assumed bytes per output of the first convolution in a world-model update, within 10 % of
``drama doctor`` for presets `xs` and `s`; ``--dry-run`` measures the memory."""


def cores() -> int:
    """Return the number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Plan:
    """Distribution of a suite over this machine."""

    gpus: tuple[str, ...]
    """``CUDA_VISIBLE_DEVICES`` of each parallel run; empty to leave it unchanged."""
    jobs: int
    """Parallel runs."""
    threads: int
    """CPU threads per run, unless its configuration sets them."""

    def describe(self) -> str:
        """Return the plan in words."""
        runs = f"{plural(self.jobs, 'run')} in parallel"
        threads = f"{plural(self.threads, 'thread')} each"
        on = f", on GPU {', '.join(sorted(set(self.gpus)))}" if self.gpus else ""
        return f"{runs}, {threads}{on}"


def plan(cells: Sequence[Cell], jobs: int | None = None, per_gpu: int | None = None) -> Plan:
    """Distribute runs over this machine.

    Each GPU takes ``per_gpu`` runs. A CPU takes one single-threaded run per core, as far as memory
    allows: independent runs scale better than threads within a run. Parallel runs share the cores
    evenly.

    Args:
        cells: Runs to start.
        jobs: Parallel runs; None chooses by the machine.
        per_gpu: Parallel runs per GPU; 1 if None.

    Raises:
        ConfigError: A device is missing, a number is below 1, or no run uses a GPU to share.
    """
    check_counts({"jobs": jobs, "per-gpu": per_gpu})
    devices = {cell.config.device for cell in cells}
    kinds = {pick_device(device).type for device in devices}
    gpus: tuple[str, ...] = ()
    if per_gpu is not None and "cuda" not in kinds:
        raise ConfigError("--per-gpu needs runs on a CUDA device, and no run here uses one")
    if "cuda" in kinds:
        # A numbered device is the user's choice and refers to the GPUs visible now.
        own = any(":" in device for device in devices)
        visible = _visible_gpus()
        most = len(visible) * (per_gpu or 1)
        wanted = most if jobs is None else jobs
        gpus = () if own else tuple(visible[i % len(visible)] for i in range(wanted))
    elif "mps" in kinds:
        wanted = 1 if jobs is None else jobs
    else:
        wanted = min(cores(), _fitting(cells)) if jobs is None else jobs
    wanted = max(1, min(wanted, len(cells)))
    chosen = [cell.config.training.threads for cell in cells]
    share = max(1, cores() // wanted)
    return Plan(gpus[:wanted], wanted, max(chosen) if all(chosen) else share)


def check_counts(counts: Mapping[str, int | None]) -> None:
    """Check options that are counts.

    Raises:
        ConfigError: An option is below 1.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",") if name.strip()]
        # As in CUDA: devices after the first -1 are invisible.
        return names[: names.index("-1")] if "-1" in names else names
    return [str(index) for index in range(torch.cuda.device_count())]


def _fitting(cells: Sequence[Cell]) -> int:
    """Return a rough estimate of how many runs fit into memory in parallel."""
    free = available_bytes(torch.device("cpu"))
    if free is None or not cells:
        return cores()
    return int(free // max(_run_bytes(cell.config) for cell in cells))


def _run_bytes(config: Config) -> int:
    """Return a rough estimate of the memory of a CPU run in bytes."""
    model = config.world_model
    pixels = (config.env.image_size or 64) ** 2
    first = pixels // model.stem_stride**2 * model.filters[0]
    frames = model.batch_size * model.batch_length
    return PROCESS + 3 * pixels * config.replay.capacity + PER_ACTIVATION * frames * first


class LocalPool:
    """Runs processes on this machine.

    Args:
        plan: Number of parallel runs, threads and GPUs.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._slots: list[RunProcess | None] = [None] * plan.jobs

    def _free(self) -> int | None:
        for index, process in enumerate(self._slots):
            if process is None or process.poll() is not None:
                return index
        return None

    def has_capacity(self) -> bool:
        """Whether another run can start now."""
        return self._free() is not None

    def start(self, cell: Cell) -> RunProcess:
        """Start or continue a run.

        Raises:
            InUseError: Another process still uses the run directory.
            RunDirError: The run directory cannot be used.
        """
        prepare(cell)
        slot = self._free()
        assert slot is not None  # the caller checks has_capacity
        gpu = {"CUDA_VISIBLE_DEVICES": self.plan.gpus[slot]} if self.plan.gpus else {}
        process = RunProcess(cell, self.plan.threads, gpu)
        self._slots[slot] = process
        return process

    def close(self) -> None:
        """Wait for stopped processes to end."""
        for process in self._slots:
            if process is not None:
                process.process.wait()


class SuiteLock:
    """Exclusive lock on a suite directory, released by the system if this process dies.

    Args:
        directory: Directory of the suite; created if missing.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = RunLock(directory)

    def __enter__(self) -> SuiteLock:
        """Acquire the lock.

        Raises:
            RunDirError: Another process runs this suite, or the directory is not writable.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except InUseError as error:
            raise RunDirError(
                f"process {error.owner} already runs suite {self.directory}"
            ) from error
        except RunDirError:
            raise
        except OSError as error:
            raise RunDirError(f"cannot make suite {self.directory}: {error.strerror}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        """Release the lock."""
        self._lock.release()
