"""Record of a run's starts: ``run.json``, one entry for each start or resume.

``config.json`` holds what was requested; this holds what was used: device, precision, backend,
threads, versions and, after the run, its time split. It decides nothing.
"""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

from drama.envs.adapt import adapter_of
from drama.errors import CheckpointError
from drama.files import read_json, write_json
from drama.ops.backend import Backend
from drama.replay import ReplayBuffer
from drama.training.clock import TimeSplit
from drama.training.device import device_name
from drama.version import __version__

DECISIVE = ("device", "device_name", "precision", "backend", "torch", "drama")
"""Entries whose change may change rounding. Threads are compared by the checkpointer."""


def facts(device: torch.device, dtype: torch.dtype, backend: Backend) -> dict[str, Any]:
    """Return the machine, versions and backend that a run uses besides its configuration."""
    return {
        "device": str(device),
        "device_name": device_name(device),
        "precision": str(dtype).removeprefix("torch."),
        "backend": backend.name,
        "backend_reason": backend.reason,
        "threads": torch.get_num_threads(),
        "drama": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def notes(replay: ReplayBuffer, env: gym.Env[Any, Any], backend: Backend) -> list[str]:
    """Return lines on what a run uses: replay, backend and reading of the observations."""
    lines = [replay.describe(), f"backend {backend}"]
    if (adapter := adapter_of(env)) is not None:
        lines.append(f"observations: {adapter.adapt_observation.reading}")
    return lines


def record_start(run_dir: Path, step: int, entry: dict[str, Any]) -> str | None:
    """Append one entry to ``run.json``.

    Args:
        run_dir: Directory of the run.
        step: Environment steps so far.
        entry: From :func:`facts`.

    Returns:
        Differences from the entry before as text; None without.
    """
    path = run_dir / "run.json"
    starts = _read(path)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    write_json(path, {"starts": [*starts, {"time": now, "step": step, **entry}]})
    if not starts:
        return None
    before = starts[-1]
    changed = [
        f"{key} {entry[key]} (was {before.get(key)})"
        for key in DECISIVE
        if entry[key] != before.get(key)
    ]
    return ", ".join(changed) or None


def record_stop(run_dir: Path, step: int, split: TimeSplit) -> None:
    """Add the time split since the last start to its entry in ``run.json``.

    A killed process adds nothing; its time is in the rows of ``metrics.jsonl``.

    Args:
        run_dir: Directory of the run.
        step: Environment steps so far.
        split: Time split of the steps since that start.
    """
    path = run_dir / "run.json"
    starts = _read(path)
    if starts:
        starts[-1]["time_split"] = {"until_step": step, **split.to_dict()}
        write_json(path, {"starts": starts})


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the entries so far; none if the file is missing or damaged."""
    try:
        starts = read_json(path)["starts"]
        return [dict(entry) for entry in starts]
    except (CheckpointError, KeyError, TypeError, ValueError):
        return []
