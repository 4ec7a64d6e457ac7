"""Files and directories that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from drama.errors import ConfigError, RunDirError
from drama.files import sync

if TYPE_CHECKING:
    from drama.agent import Agent


def check_exportable(agent: Agent) -> None:
    """Raise unless observations are one image or one vector.

    Raises:
        ConfigError: They are classes or have several leaves.
    """
    leaf = agent.world_model.observations.single
    if leaf is None or leaf.kind == "one-hot":
        raise ConfigError(
            "an export needs observations that are one image or one vector, not "
            f"{agent.world_model.observations}"
        )


def check_new(path: Path) -> None:
    """Raise unless something can be created at ``path``.

    Raises:
        RunDirError: It exists (an empty directory is accepted), or its parent does not.
    """
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise RunDirError(f"{path} exists: remove it, or choose another name")
    if not path.absolute().parent.is_dir():
        raise RunDirError(f"{path.absolute().parent} is not a directory: create it first")


def write_new(path: Path, content: bytes) -> None:
    """Write a new file under a temporary name, sync it and rename it.

    Raises:
        OSError: The system refuses, as where the disk is full; nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _reported(path):
            temporary.write_bytes(content)
            sync(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.absolute().parent)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that is renamed to it at the end.

    Raises:
        OSError: The system refuses; nothing is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _reported(path):
            temporary.mkdir()
            yield temporary
            for file in sorted(temporary.rglob("*")):
                sync(file)
            if path.is_dir():
                path.rmdir()  # empty, see check_new
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.absolute().parent)


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of its temporary files."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise
