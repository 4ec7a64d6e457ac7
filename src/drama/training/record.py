"""What a run was made with: ``run.json``, one entry for each time it was started or continued.

``config.json`` says what was asked for. This says what that came to on the machine at hand: device,
precision, backend, threads, versions; and, once it stopped, where its time went. Nothing reads it
to decide anything.
"""

from __future__ import annotations

import datetime
import platform
from pathlib import Path
from typing import Any

import torch

from drama.errors import CheckpointError
from drama.files import read_json, write_json
from drama.ops.backend import Backend
from drama.training.clock import TimeSplit
from drama.training.device import device_name
from drama.version import __version__

DECISIVE = ("device", "device_name", "precision", "backend", "torch", "drama")
"""Entries whose change may change the last bits of a result. Another number of threads is told of
by the trainer, which looks into the checkpoint for it."""


def facts(device: torch.device, dtype: torch.dtype, backend: Backend) -> dict[str, Any]:
    """Return what decides, beside the configuration, how a run goes on this machine."""
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


def record_start(run_dir: Path, step: int, entry: dict[str, Any]) -> str | None:
    """Append one entry to ``run.json``.

    Args:
        run_dir: Directory of the run.
        step: Environment steps made so far.
        entry: From :func:`facts`.

    Returns:
        How it differs from the entry before, in words; None if it does not.
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
    """Add to the last entry of ``run.json`` where the time went since that start.

    A process that is killed adds nothing; the rows of ``metrics.jsonl`` tell its part.

    Args:
        run_dir: Directory of the run.
        step: Environment steps made so far.
        split: Of the steps made since that start.
    """
    path = run_dir / "run.json"
    starts = _read(path)
    if starts:
        starts[-1]["time_split"] = {"until_step": step, **split.to_dict()}
        write_json(path, {"starts": starts})


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the entries so far; none if the file is not there, or was spoilt by someone."""
    try:
        starts = read_json(path)["starts"]
        return [dict(entry) for entry in starts]
    except (CheckpointError, KeyError, TypeError, ValueError):
        return []
