"""Atomic files: written under another name, synced, renamed.

A run directory may be untrusted: no symbolic link is followed to write, and only regular files are
read or written, so that a FIFO or a device cannot block.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from drama.errors import CheckpointError

LARGEST = 1e100
"""Upper bound of returns and counts read from JSON: squares and sums of them stay finite."""
MOST_COUNT = 2**53
"""Upper bound of counters: JSON readers of other languages keep integers up to here."""

UNSUPPORTED_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
"""Errors of network and FUSE file systems without sync; the disk has not failed."""


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Add ``path`` to every OSError raised inside that names no file."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a regular file; returns its descriptor.

    To write, a symbolic link in its place is not followed. Directories above it are.

    Args:
        path: The file.
        flags: Those of ``os.open``.

    Raises:
        OSError: The system refuses, or there is a link, a directory, a FIFO or a device.
    """
    writes = flags & (os.O_WRONLY | os.O_RDWR)
    if writes:
        flags |= getattr(os, "O_NOFOLLOW", 0)
    # Without O_NONBLOCK the open of a FIFO waits for its other end.
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(error.errno, "is a symbolic link", str(path)) from error
        if error.errno == errno.ENXIO:  # a FIFO without a reader
            raise OSError(error.errno, "is not a regular file", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", str(path))
    return descriptor


def open_append(path: Path) -> IO[str]:
    """Open a UTF-8 text file to append to it; it is created if missing.

    Raises:
        OSError: As :func:`open_regular`.
    """
    return open(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8")


def truncate(path: Path, size: int) -> int:
    """Cut a file to ``size`` bytes, if it is longer.

    Returns:
        Its size before in bytes; 0 if it does not exist.

    Raises:
        OSError: As :func:`open_regular`.
    """
    try:
        descriptor = open_regular(path, os.O_WRONLY)
    except FileNotFoundError:
        return 0
    try:
        found = os.fstat(descriptor).st_size
        if found > size:
            os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)
    return found


def refuse_links(directory: Path, skip: Collection[str] = ()) -> None:
    """Refuse a directory that holds a symbolic link, at any depth.

    Args:
        directory: May be a link itself.
        skip: Names of folders whose content does not matter.

    Raises:
        OSError: There is a link, or a folder cannot be read.
    """
    for folder, folders, names in os.walk(directory, onerror=_raise):
        for name in (*folders, *names):
            path = Path(folder, name)
            if path.is_symlink():
                raise OSError(errno.ELOOP, "is a symbolic link", str(path))
        folders[:] = [name for name in folders if name not in skip]


def _raise(error: OSError) -> None:
    raise error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a regular file."""
    with open(open_regular(path), "rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return str(hashlib.file_digest(file, "sha256").hexdigest())
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def sync(path: Path) -> None:
    """Force a file's or directory's content to the disk, where the file system can.

    Raises:
        OSError: The disk failed; it names ``path``.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except PermissionError:  # directories on Windows
        return
    try:
        sync_descriptor(descriptor, path)
    finally:
        os.close(descriptor)


def sync_descriptor(descriptor: int, path: Path) -> None:
    """Force an open file's content to the disk, where the file system can.

    Raises:
        OSError: The disk failed; it names ``path``.
    """
    try:
        with named(path):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED_SYNC:
            raise


def _temporary(path: Path) -> Path:
    """Name to write ``path`` under; whatever has that name is removed, a link itself."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    return temporary


def _replace(path: Path, temporary: Path) -> None:
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step.

    Raises:
        OSError: The system refuses; it names the file.
    """
    temporary = _temporary(path)
    _create_text(temporary, text)
    _replace(path, temporary)


def _create_text(path: Path, text: str) -> None:
    """Write a file that is not there yet."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with named(path), open(open_regular(path, flags), "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: Path, tree: object) -> None:
    """Write ``tree`` as indented JSON atomically. NaN and Inf are refused."""
    write_text(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def read_text(path: Path) -> str:
    """Read a regular file as UTF-8.

    Raises:
        OSError: The system refuses, or it is not a regular file.
        UnicodeDecodeError: It is not UTF-8.
    """
    with named(path), open(open_regular(path), encoding="utf-8") as file:
        return file.read()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: It is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # Not UTF-8, not JSON, an integer of thousands of digits; or nested too deeply to be read.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON") from error


def as_number(value: object) -> float | None:
    """Return a number read from JSON as a float.

    Returns:
        None for anything else than a number, for NaN, and beyond ±``LARGEST``.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) <= LARGEST else None  # not so for NaN either


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write named tensors as safetensors in one step; returns the file's SHA-256.

    Raises:
        OSError: The system refuses, as where the disk is full; it names ``path``.
    """
    temporary = _temporary(path)
    # Clones: safetensors refuses tensors that share memory, and wants dense rows.
    dense = {
        name: t.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }
    try:
        safetensors.torch.save_file(dense, str(temporary))
    except safetensors.SafetensorError as error:  # holds the system's error as text only
        found = re.search(r"I/O error: (.*) \(os error (\d+)\)", str(error))
        if found is None:
            raise
        raise OSError(int(found[2]), found[1], str(path)) from error
    digest = sha256(temporary)
    _replace(path, temporary)
    return digest


def tensor_like(
    tensors: Mapping[str, Tensor], name: str, like: Tensor, *, rows: int | None = None
) -> Tensor:
    """Return a tensor read from a file, if its shape and type are the expected ones.

    Args:
        tensors: Tensors of the file.
        name: Name of the tensor.
        like: Tensor of the expected shape and type.
        rows: Expected length of the first axis, instead of that of ``like``.

    Raises:
        CheckpointError: It is missing, or has another shape or type.
    """
    shape = tuple(like.shape) if rows is None else (rows, *like.shape[1:])
    found = tensors.get(name)
    if found is None:
        raise CheckpointError(f"the saved state lacks the tensor {name!r:.80}")
    if tuple(found.shape) != shape or found.dtype != like.dtype:
        raise CheckpointError(
            f"the saved tensor {name!r:.80} is {tuple(found.shape)} {found.dtype}, "
            f"not {shape} {like.dtype}"
        )
    return found


def _is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8, as safetensors needs it to open a file by name."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def check_tensors(path: Path) -> None:
    """Check that a safetensors file has the length in its header, reading the header alone.

    Raises:
        CheckpointError: It is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if not _is_utf8(path):
        read_tensors(path)
        return
    try:
        with safetensors.safe_open(str(path), framework="numpy"):
            pass
    except Exception as error:  # safetensors raises its own type for damage
        raise CheckpointError(f"{path} is damaged: {error}") from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of the tensors in a safetensors file, and no tensor.

    Raises:
        CheckpointError: It is missing, truncated or not safetensors.
    """
    check_tensors(path)
    if not _is_utf8(path):
        return {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    with safetensors.safe_open(str(path), framework="numpy") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to host memory.

    Raises:
        CheckpointError: It is missing, truncated or not safetensors.
    """
    try:
        if not _is_utf8(path):
            return safetensors.torch.load(path.read_bytes())
        return safetensors.torch.load_file(str(path), device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # safetensors raises its own type for damage
        raise CheckpointError(f"{path} is damaged: {error}") from error
