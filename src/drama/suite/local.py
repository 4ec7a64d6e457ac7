"""Carrying out a suite on this machine: how many runs at a time, where, with what threads."""

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
"""Bytes that a run on a CPU is taken to need beside its replay and its frames in work."""
PER_ACTIVATION = 36
"""Bytes for each number that the first convolution yields in an update of the world model: what
``drama doctor`` sees with `xs` and `s`, to about a tenth. ``--dry-run`` measures it."""


def cores() -> int:
    """Number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Plan:
    """How a suite is shared out over this machine."""

    gpus: tuple[str, ...]
    """What ``CUDA_VISIBLE_DEVICES`` says for each run at a time; empty where it is left alone."""
    jobs: int
    """Runs at a time."""
    threads: int
    """CPU threads of each, unless its configuration says how many."""

    def describe(self) -> str:
        """Say it in words."""
        runs = f"{plural(self.jobs, 'run')} at a time"
        threads = f"{plural(self.threads, 'thread')} each"
        on = f", on GPU {', '.join(sorted(set(self.gpus)))}" if self.gpus else ""
        return f"{runs}, {threads}{on}"


def plan(cells: Sequence[Cell], jobs: int | None = None, per_gpu: int | None = None) -> Plan:
    """Share runs out over this machine.

    On GPUs there are ``per_gpu`` runs on each. On a CPU there are as many runs as cores, with one
    thread each, as far as memory goes: runs are independent, so that shares them out better than
    threads within a run would. The cores are divided evenly among the runs at a time.

    Args:
        cells: What is to be run.
        jobs: Runs at a time, whatever the machine.
        per_gpu: Runs at a time on each GPU; 1 if None.

    Raises:
        ConfigError: A device is not there, a number is below 1, or there is no GPU to share.
    """
    check_counts({"jobs": jobs, "per-gpu": per_gpu})
    devices = {cell.config.device for cell in cells}
    kinds = {pick_device(device).type for device in devices}
    gpus: tuple[str, ...] = ()
    if per_gpu is not None and "cuda" not in kinds:
        raise ConfigError("--per-gpu needs runs on a CUDA device, and there are none here")
    if "cuda" in kinds:
        # A device with a number is somebody's own choice, and counts those visible now.
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
    """Check options that count something.

    Raises:
        ConfigError: One of them is below 1.
    """
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}")


def _visible_gpus() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = [name.strip() for name in named.split(",") if name.strip()]
        # As CUDA does: what stands behind a first -1 is not visible.
        return names[: names.index("-1")] if "-1" in names else names
    return [str(index) for index in range(torch.cuda.device_count())]


def _fitting(cells: Sequence[Cell]) -> int:
    """Runs that fit into memory side by side, by a rough estimate."""
    free = available_bytes(torch.device("cpu"))
    if free is None or not cells:
        return cores()
    return int(free // max(_room(cell.config) for cell in cells))


def _room(config: Config) -> int:
    """Bytes that a run on a CPU needs, roughly."""
    model = config.world_model
    pixels = (config.env.image_size or 64) ** 2
    first = pixels // model.stem_stride**2 * model.filters[0]
    frames = model.batch_size * model.batch_length
    return PROCESS + 3 * pixels * config.replay.capacity + PER_ACTIVATION * frames * first


class LocalPool:
    """Runs as processes on this machine.

    Args:
        plan: How many, and where.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._slots: list[RunProcess | None] = [None] * plan.jobs

    def _free(self) -> int | None:
        for index, process in enumerate(self._slots):
            if process is None or process.poll() is not None:
                return index
        return None

    def room(self) -> bool:
        """Whether another run can be started now."""
        return self._free() is not None

    def start(self, cell: Cell) -> RunProcess:
        """Start or continue a run.

        Raises:
            InUseError: Another process still trains there.
            RunDirError: Its directory cannot be used.
        """
        prepare(cell)
        slot = self._free()
        assert slot is not None  # the caller has asked for room
        gpu = {"CUDA_VISIBLE_DEVICES": self.plan.gpus[slot]} if self.plan.gpus else {}
        process = RunProcess(cell, self.plan.threads, gpu)
        self._slots[slot] = process
        return process

    def close(self) -> None:
        """Wait for processes that were told to end."""
        for process in self._slots:
            if process is not None:
                process.process.wait()


class SuiteLock:
    """An exclusive lock on the directory of a suite, released by the system if we die.

    Args:
        directory: Of the suite; made if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = RunLock(directory)

    def __enter__(self) -> SuiteLock:
        """Take it.

        Raises:
            RunDirError: Another process runs this suite, or the directory cannot be made or
                written to.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except InUseError as error:
            raise RunDirError(
                f"suite {self.directory} is being run by process {error.owner} already"
            ) from error
        except RunDirError:
            raise
        except OSError as error:
            raise RunDirError(f"cannot make suite {self.directory}: {error.strerror}") from error
        return self

    def __exit__(self, *exc: object) -> None:
        """Give it back."""
        self._lock.release()
