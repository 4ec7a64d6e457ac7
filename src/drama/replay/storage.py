"""The replay on disk: immutable segments of rows, so that a checkpoint writes only what is new.

```
replay/
  000000000000-000000005012.safetensors   rows 0 .. 5011, in order of arrival
  000000005012-000000010031.safetensors
```

Segments are shared by all checkpoints of a run; each checkpoint lists those it needs, with their
hashes. A segment goes when no kept checkpoint lists it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.errors import CheckpointError
from drama.files import read_tensors, sha256, sync, tensor_like, write_tensors
from drama.replay.buffer import ReplayBuffer

OURS = re.compile(r"\.?\d{12,}-\d{12,}\.safetensors(\.tmp)?|\.tmp\w+")
"""Names of segments, and of what a killed write leaves: ours, or the temporary file that
safetensors makes for it."""


class Segment(TypedDict):
    """One file of rows ``start <= g < stop``."""

    file: str
    start: int
    stop: int
    sha256: str


def copy_segment(segment: Segment, source: Path, target: Path) -> None:
    """Copy one segment between two directories; the copy is compared with the hash.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    path, copy = source / segment["file"], target / segment["file"]
    if not path.is_file():
        raise CheckpointError(f"replay segment {path} is missing")
    target.mkdir(exist_ok=True)
    shutil.copyfile(path, copy)
    sync(copy)
    if sha256(copy) != segment["sha256"]:
        copy.unlink()
        raise CheckpointError(f"replay segment {path} is damaged (its hash differs)")


class ReplayStore:
    """Writes and reads the segments of one run.

    Args:
        directory: Made on the first save.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments: list[Segment] = []

    def save(self, buffer: ReplayBuffer) -> list[Segment]:
        """Write the rows that arrived since the last save; returns the segments now needed.

        All rows that the ring holds are written again where a segment has vanished from the disk.
        """
        oldest = buffer.total - len(buffer)
        if self.vanished():
            self.segments = []
        start = max(self.segments[-1]["stop"] if self.segments else 0, oldest)
        if start < buffer.total:
            self.directory.mkdir(parents=True, exist_ok=True)
            name = f"{start:012d}-{buffer.total:012d}.safetensors"
            digest = write_tensors(self.directory / name, buffer.read_rows(start, buffer.total))
            self.segments.append(Segment(file=name, start=start, stop=buffer.total, sha256=digest))
        self.segments = [segment for segment in self.segments if segment["stop"] > oldest]
        return list(self.segments)

    def vanished(self) -> bool:
        """Whether a segment that was written is not on the disk any more."""
        return any(not (self.directory / s["file"]).is_file() for s in self.segments)

    def reopen(self, row: int) -> None:
        """Let the next save write the newest segment's rows again if ``row`` of them has changed.

        By then more rows have arrived, so the new file has a name of its own, and checkpoints
        that list the old one keep it.

        Args:
            row: The newest row, counted from the run's first.
        """
        if self.segments and self.segments[-1]["stop"] > row:
            self.segments.pop()

    def load(
        self,
        buffer: ReplayBuffer,
        segments: list[Segment],
        total: int,
        actions: ActionSpace | None = None,
    ) -> None:
        """Fill ``buffer`` from ``segments``.

        Args:
            buffer: An empty ring.
            segments: In order of arrival.
            total: Transitions that the run has ever stored.
            actions: Space of the actions; None leaves them unchecked.

        Raises:
            CheckpointError: A segment is missing or damaged, holds what cannot be a transition, or
                transitions are missing between two of them.
        """
        oldest = max(0, total - buffer.capacity)
        expected = oldest
        for segment in segments:
            path = self.directory / segment["file"]
            if not path.is_file():
                raise CheckpointError(f"replay segment {path} is missing")
            if sha256(path) != segment["sha256"]:
                raise CheckpointError(f"replay segment {path} is damaged (its hash differs)")
            start, stop = segment["start"], segment["stop"]
            if start > expected or stop > total:
                raise CheckpointError(f"replay segments leave a gap before {path}")
            first = max(start, oldest)
            rows = _checked(read_tensors(path), buffer, stop - start, actions, path)
            buffer.write_rows(first, {name: rows[name][first - start :] for name in rows})
            expected = stop
        if expected != total:
            raise CheckpointError(f"replay segments end at row {expected}, not {total}")
        buffer.total = total
        self.segments = list(segments)

    def prune(self, keep: set[str]) -> None:
        """Delete every segment file whose name is not in ``keep``, and those of killed writes.

        What others keep there is left alone, such as a file server's ``@eaDir``.
        """
        if self.directory.is_dir():
            for path in self.directory.iterdir():
                if path.name not in keep and OURS.fullmatch(path.name) and path.is_file():
                    path.unlink()


def _checked(
    found: Mapping[str, Tensor],
    buffer: ReplayBuffer,
    count: int,
    actions: ActionSpace | None,
    path: Path,
) -> dict[str, Tensor]:
    """Return the columns of a segment, if they can be transitions of this ring.

    Raises:
        CheckpointError: They cannot.
    """
    try:
        rows = {
            name: tensor_like(found, name, ring, rows=count) for name, ring in buffer.rows.items()
        }
    except CheckpointError as error:
        raise CheckpointError(f"replay segment {path} does not fit: {error}") from error
    if actions is not None and not actions.contains(rows["action"]):
        raise CheckpointError(f"replay segment {path} holds an action outside {actions}")
    for name in ("obs", "reward"):
        if rows[name].is_floating_point() and not bool(torch.isfinite(rows[name]).all()):
            raise CheckpointError(f"replay segment {path} holds a {name} that is not finite")
    return rows
