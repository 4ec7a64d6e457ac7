"""A run's counterpart at Weights & Biases: its id, its name, and the suite it belongs to."""

from __future__ import annotations

import dataclasses
import secrets
from pathlib import Path
from typing import Any

from drama.config import Config
from drama.errors import CheckpointError, ConfigError
from drama.files import read_json, write_json
from drama.training.rundir import suite_of

RECORD = Path("wandb", "drama.json")
"""File of the run directory that holds the id; the client writes other files there."""
LONGEST_TAG = 64
"""Longest tag that Weights & Biases accepts, in characters."""


def import_wandb() -> Any:
    """Return the module that talks to Weights & Biases, an extra.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise ConfigError("training.wandb needs Weights & Biases: pip install wandb") from error
    return wandb


def open_wandb(directory: Path, config: Config) -> Any:
    """Begin the run at Weights & Biases, or continue it where the directory has an id.

    Args:
        directory: The run directory.
        config: Its configuration, which is sent along.
    """
    suite = suite_of(directory)
    name, tags = directory.resolve().name, [config.env.id, config.preset]
    if suite is not None:
        parts = directory.resolve().relative_to(suite).parts
        name, tags = "/".join(parts), [*parts[:-1], config.preset]
    return import_wandb().init(
        project="drama",
        id=run_id(directory),
        name=name,
        group=None if suite is None else suite.name,
        tags=[tag[:LONGEST_TAG] for tag in dict.fromkeys(tags)],
        resume="allow",
        dir=str(directory),
        config=dataclasses.asdict(config),
    )


def run_id(directory: Path) -> str:
    """Return the id kept in a run directory; a new random one where there is none.

    A directory that was moved keeps its id. A copy gets its own as long as the original is there:
    two runs that send rows under one id overwrite each other.
    """
    path, here = directory / RECORD, str(directory.resolve())
    record = _read(path)
    origin = record.get("directory")
    copied = origin != here and _read(Path(str(origin)) / RECORD).get("id") == record.get("id")
    if not isinstance(record.get("id"), str) or copied:
        record = {"id": secrets.token_hex(8)}
    path.parent.mkdir(exist_ok=True)
    write_json(path, {"id": record["id"], "directory": here})
    return str(record["id"])


def _read(path: Path) -> dict[str, Any]:
    """Return what a record holds; nothing if it is not there or was damaged."""
    try:
        return dict(read_json(path))
    except (CheckpointError, TypeError, ValueError):
        return {}
