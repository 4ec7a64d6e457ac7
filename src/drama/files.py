"""Files that are either whole or not there: written aside, synced, renamed."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from drama.errors import CheckpointError

LARGEST = 1e100
"""No return and no count is larger: squares and sums of such numbers are finite still."""


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return str(hashlib.file_digest(file, "sha256").hexdigest())
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def sync(path: Path) -> None:
    """Force a file's or directory's content to the disk (a no-op where directories refuse)."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except PermissionError:  # directories on Windows
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, temporary: Path) -> None:
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` in one step."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    _replace(path, temporary)


def write_json(path: Path, tree: object) -> None:
    """Write ``tree`` as indented JSON in one step. NaN and Inf are refused."""
    write_text(path, json.dumps(tree, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CheckpointError: It is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    # Not UTF-8, not JSON, an integer of thousands of digits; or nested too deeply to be read.
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: it is not JSON") from error


def as_number(value: object) -> float | None:
    """Return a number read from JSON as a float.

    Args:
        value: Anything that JSON may hold.

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
    temporary = path.with_name(f".{path.name}.tmp")
    # Clones: safetensors refuses tensors that share memory, and wants dense rows.
    dense = {
        name: t.detach().cpu().contiguous().clone(memory_format=torch.contiguous_format)
        for name, t in tensors.items()
    }
    try:
        safetensors.torch.save_file(dense, str(temporary))
    except safetensors.SafetensorError as error:  # which tells the system's errors as a text only
        told = re.search(r"I/O error: (.*) \(os error (\d+)\)", str(error))
        if told is None:
            raise
        raise OSError(int(told[2]), told[1], str(path)) from error
    digest = sha256(temporary)
    _replace(path, temporary)
    return digest


def check_tensors(path: Path) -> None:
    """Check that a safetensors file has the length that its header says; reads no more than that.

    Raises:
        CheckpointError: It is missing, truncated or not safetensors.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        with safetensors.safe_open(str(path), framework="numpy"):
            pass
    except Exception as error:  # safetensors raises a type of its own for damage
        raise CheckpointError(f"{path} is damaged: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to host memory.

    Raises:
        CheckpointError: It is missing, truncated or not safetensors.
    """
    try:
        return safetensors.torch.load_file(str(path), device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except Exception as error:  # safetensors raises a type of its own for damage
        raise CheckpointError(f"{path} is damaged: {error}") from error
