"""Failing disk operations and process limits during training."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import safetensors
import safetensors.torch

OPERATIONS = ("open", "replace", "fsync", "mkdir", "unlink", "rmdir", "ftruncate")
WRITES = os.O_WRONLY | os.O_RDWR


@contextlib.contextmanager
def fault(kind: str, number: int, code: int = 0) -> Iterator[None]:
    """Inject a fault inside the context.

    Args:
        kind: ``disk``: the disk operation with this number raises the error ``code``; ``FSIZE``
            or ``NOFILE``: the limit of a file's bytes, or of descriptors beyond the open ones.
        number: Index of the operation, or the limit.
        code: An error number.
    """
    if kind == "disk":
        with failing_operation(number, code):
            yield
        return
    limit = getattr(resource, f"RLIMIT_{kind}")
    soft, hard = resource.getrlimit(limit)
    if kind == "NOFILE":
        number += max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(limit, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(limit, (soft, hard))


@contextlib.contextmanager
def failing_operation(number: int, code: int) -> Iterator[None]:
    """Make one disk operation raise an OSError; opening to read does not count."""
    count = 0

    def due() -> bool:
        nonlocal count
        count += 1
        return count == number

    def wrapped(original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            reads = name == "open" and not (len(args) > 1 and args[1] & WRITES)
            if not reads and due():
                # Operations on a descriptor have no path.
                path = () if name in ("fsync", "ftruncate") else (os.fspath(args[0]),)
                raise OSError(code, os.strerror(code), *path)
            return original(*args, **kwargs)

        return operation

    def save_file(tensors: Any, path: str) -> None:
        if not due():
            return save(tensors, path)
        save(tensors, path)
        os.truncate(path, os.path.getsize(path) // 2)
        text = f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})"
        raise safetensors.SafetensorError(text)

    originals, save = {name: getattr(os, name) for name in OPERATIONS}, safetensors.torch.save_file
    for name, original in originals.items():
        setattr(os, name, wrapped(original, name))
    safetensors.torch.save_file = save_file
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
        safetensors.torch.save_file = save


CODES = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)
