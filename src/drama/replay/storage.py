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
from pathlib import Path
from typing import TypedDict

from drama.errors import CheckpointError
from drama.files import read_tensors, sha256, write_tensors
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


class ReplayStore:
    """Writes and reads the segments of one run.

    Args:
        directory: Made on the first save.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.segments: list[Segment] = []

    def save(self, buffer: ReplayBuffer) -> list[Segment]:
        """Write the rows that arrived since the last save; returns the segments now needed."""
        oldest = buffer.total - len(buffer)
        start = max(self.segments[-1]["stop"] if self.segments else 0, oldest)
        if start < buffer.total:
            self.directory.mkdir(parents=True, exist_ok=True)
            name = f"{start:012d}-{buffer.total:012d}.safetensors"
            digest = write_tensors(self.directory / name, buffer.read_rows(start, buffer.total))
            self.segments.append(Segment(file=name, start=start, stop=buffer.total, sha256=digest))
        self.segments = [segment for segment in self.segments if segment["stop"] > oldest]
        return list(self.segments)

    def reopen(self, row: int) -> None:
        """Let the next save write the newest segment's rows again if ``row`` of them has changed.

        By then more rows have arrived, so the new file has a name of its own, and checkpoints
        that list the old one keep it.

        Args:
            row: The newest row, counted from the run's first.
        """
        if self.segments and self.segments[-1]["stop"] > row:
            self.segments.pop()

    def load(self, buffer: ReplayBuffer, segments: list[Segment], total: int) -> None:
        """Fill ``buffer`` from ``segments``.

        Raises:
            CheckpointError: A segment is missing or damaged, or rows are missing between them.
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
            rows = read_tensors(path)
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
