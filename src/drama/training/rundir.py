"""Run directories: created, locked, and never overwritten silently."""

from __future__ import annotations

import itertools
import os
import re
import shlex
from pathlib import Path
from typing import IO

from drama.errors import RunDirError
from drama.files import open_regular, refuse_links


def fresh_run_dir(root: Path, env_id: str, preset: str, seed: int) -> Path:
    """Create ``root/<env>-<preset>-s<seed>-<n>`` with the first free number.

    ``preset`` may be a label: ``quick*`` becomes ``quick-changed``. The directory is
    made at once, empty, so that no other process can choose the same.

    Raises:
        RunDirError: It cannot be created.
    """
    env = re.sub(r"[^A-Za-z0-9]+", "-", env_id.split("/")[-1]).strip("-")
    name = re.sub(r"[^A-Za-z0-9._]+", "-", preset.replace("*", "-changed")).strip("-")
    stem = f"{env}-{name}-s{seed}"
    for n in itertools.count(1):
        path = root / f"{stem}-{n}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not root.is_dir():
                raise RunDirError(
                    f"cannot make run directory {path}: {root} is no directory"
                ) from None
        except OSError as error:
            raise RunDirError(f"cannot make run directory {path}: {error.strerror}") from error
        else:
            break
    return path


def create_run_dir(path: Path) -> None:
    """Create a new run directory.

    Raises:
        RunDirError: It exists and is not empty, or cannot be created.
    """
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            resumable = (path / "checkpoints" / "last").is_file()
            hint = f"continue it with: drama train --resume {shlex.quote(str(path))}"
            raise RunDirError(
                f"run directory {path} exists already; {hint if resumable else 'choose another'}"
            )
        path.mkdir(parents=True, exist_ok=True)
    except RunDirError:
        raise
    except OSError as error:
        raise RunDirError(f"cannot make run directory {path}: {error.strerror}") from error


def suite_of(run_dir: Path) -> Path | None:
    """Return the directory of the suite that a run belongs to; None without."""
    parents = run_dir.resolve().parents  # SUITE/<variant>/<game>/seed-<n>
    return parents[2] if len(parents) > 2 and (parents[2] / "suite.json").is_file() else None


def check_links(run_dir: Path) -> None:
    """Refuse to write into a run directory that holds symbolic links.

    Raises:
        RunDirError: It does, so that files could be written anywhere.
    """
    try:
        refuse_links(run_dir, skip=("wandb",))  # its client makes links
    except OSError as error:
        raise RunDirError(
            f"cannot continue in {run_dir}: {error.filename} {error.strerror}; "
            "a run's files must lie in its directory"
        ) from error


class InUseError(RunDirError):
    """Another process holds the lock of a directory.

    Args:
        directory: The directory.
        owner: Process id, if known.
    """

    def __init__(self, directory: Path, owner: str) -> None:
        super().__init__(f"run directory {directory} is in use by process {owner}")
        self.owner = owner


class RunLock:
    """An exclusive lock on a run directory, released by the system if the process dies."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / ".lock"
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            InUseError: Another process trains there.
            RunDirError: The lock file cannot be created.
        """
        try:
            self._acquire()
        except InUseError:
            raise
        except OSError as error:
            raise RunDirError(
                f"cannot lock {self.path.parent}: {self.path.name}: {error.strerror or error}"
            ) from error

    def _acquire(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows: no lock, the directory check still stands
            return
        while True:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            file = os.fdopen(open_regular(self.path, flags), "a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                file.close()
                raise InUseError(self.path.parent, owner) from error
            except OSError:  # a file system without locks
                file.close()
                raise
            # Another process may have released and removed the file between our two calls: then
            # the file that we locked has no name.
            if self.path.exists() and os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                break
            file.close()
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self.path.unlink(missing_ok=True)
            self._file.close()
            self._file = None
