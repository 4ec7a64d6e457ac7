"""The replay on disk: immutable segments of transitions, so a checkpoint writes only new ones.

```
replay/
  000000000000-000000005012.safetensors   transitions 0 .. 5011, in order of arrival
  000000005012-000000010031.safetensors
```

Segments are shared by all checkpoints of a run; each checkpoint lists those it needs, with their
hashes. A segment is deleted when no kept checkpoint lists it.
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
"""Names of segments, and of what a killed write leaves: our temporary file or safetensors' own."""


class Segment(TypedDict):
    """One file of transitions ``start <= g < stop``."""

    file: str
    start: int
    stop: int
    sha256: str


def copy_segment(segment: Segment, source: Path, target: Path) -> None:
    """Copy one segment between two directories and verify the hash of the copy.

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
        directory: Created by the first save.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments: list[Segment] = []
        self._cuts = 0  # changed transitions of the buffer that have been written again

    def save(self, buffer: ReplayBuffer) -> list[Segment]:
        """Write the transitions added since the last save.

        If a segment has vanished from the disk, the whole ring is written again. If the newest
        segment's last transition has been marked as cut since, that segment is: under another
        name, for more transitions follow, so that checkpoints that list the old one keep it.

        Returns:
            The segments now needed.
        """
        oldest = buffer.total - len(buffer)
        if self.vanished():
            self.segments = []
        for changed in buffer.cuts[self._cuts :]:
            if self.segments and self.segments[-1]["stop"] > changed:
                self.segments.pop()
        self._cuts = len(buffer.cuts)
        start = max(self.segments[-1]["stop"] if self.segments else 0, oldest)
        if start < buffer.total:
            self.directory.mkdir(parents=True, exist_ok=True)
            name = f"{start:012d}-{buffer.total:012d}.safetensors"
            digest = write_tensors(self.directory / name, buffer.read(start, buffer.total))
            self.segments.append(Segment(file=name, start=start, stop=buffer.total, sha256=digest))
        self.segments = [segment for segment in self.segments if segment["stop"] > oldest]
        return list(self.segments)

    def vanished(self) -> bool:
        """Whether a written segment is no longer on the disk."""
        return any(not (self.directory / s["file"]).is_file() for s in self.segments)

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
            total: Transitions stored since the start of the run.
            actions: Space of the actions; None skips the check.

        Raises:
            CheckpointError: A segment is missing, damaged or holds invalid transitions, or there
                is a gap between two of them.
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
            columns = _checked(read_tensors(path), buffer, stop - start, actions, path)
            buffer.write(first, {name: columns[name][first - start :] for name in columns})
            expected = stop
        if expected != total:
            raise CheckpointError(f"replay segments end at transition {expected}, not {total}")
        buffer.total = total
        self.segments = list(segments)

    def prune(self, keep: set[str]) -> None:
        """Delete every segment whose name is not in ``keep``, and remains of killed writes.

        Other files are left alone, such as a file server's ``@eaDir``.
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
    """Return the columns of a segment, checked against those of the ring.

    Raises:
        CheckpointError: A column is missing, does not fit or holds invalid values.
    """
    try:
        columns = {
            name: tensor_like(found, name, ring, rows=count)
            for name, ring in buffer.columns.items()
        }
    except CheckpointError as error:
        raise CheckpointError(f"replay segment {path} does not fit: {error}") from error
    if actions is not None and not actions.contains(columns["action"]):
        raise CheckpointError(f"replay segment {path} holds an action outside {actions}")
    for leaf in buffer.observations.leaves:
        column = columns[leaf.column]
        if leaf.classes and bool(((column < 0) | (column >= torch.tensor(leaf.classes))).any()):
            raise CheckpointError(f"replay segment {path} holds a class outside {leaf}")
    for name in (*(leaf.column for leaf in buffer.observations.leaves), "reward"):
        if columns[name].is_floating_point() and not bool(torch.isfinite(columns[name]).all()):
            raise CheckpointError(f"replay segment {path} holds a {name} that is not finite")
    return columns
