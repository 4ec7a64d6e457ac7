"""Checkpoint files, valid whenever the process is killed.

```
RUN/
  config.json                     the resolved configuration
  run.json                        machine, versions and backend of each start
  metrics.jsonl, episodes.jsonl   cut back to the checkpoint's length when a run is resumed
  replay/                         segments of transitions, shared by the checkpoints
  checkpoints/
    last                          a line naming the newest complete checkpoint
    000005000/
      manifest.json               format, step, hash of each file, replay segments, log lengths
      config.json                 a copy: a checkpoint can be read alone
      state.json                  counters, optimiser scalars, numpy generator, running means
      model.safetensors           world model and behaviour, normalisers included
      optimiser.safetensors       moments
      loop.safetensors            random states, acting state, actions taken, replay counters
```

A checkpoint is written into a hidden directory, synced and renamed. Only then is ``last`` updated,
and only then are older checkpoints and their replay segments deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from drama.errors import CheckpointError
from drama.files import (
    read_json,
    read_tensors,
    read_text,
    sha256,
    sync,
    tensor_shapes,
    write_json,
    write_tensors,
    write_text,
)
from drama.replay.storage import Segment, copy_segment
from drama.text import one_line, plural
from drama.training.schema import check_manifest, check_state, whole

FORMAT = 1
"""Version of the layout; increased when older checkpoints become unreadable."""
STEP = re.compile(r"[0-9]{9,16}")
"""Name of a checkpoint's directory."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; its files are verified when read."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Environment steps made until it was written."""
        step: int = self.manifest["step"]
        return step

    @property
    def segments(self) -> list[Segment]:
        """Replay segments that it needs."""
        segments: list[Segment] = self.manifest["replay"]
        return segments

    def has(self, name: str) -> bool:
        """Whether it holds ``name.safetensors``."""
        return f"{name}.safetensors" in self.manifest["files"]

    def _verified(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        try:
            digest = sha256(path)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
        if digest != self.manifest["files"].get(name):
            raise CheckpointError(f"{path} is damaged (its hash differs from the manifest)")
        return path

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read ``name.safetensors``.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return read_tensors(self._verified(f"{name}.safetensors"))

    def shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Read the shapes of the tensors in ``name.safetensors``.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return tensor_shapes(self._verified(f"{name}.safetensors"))

    def json(self, name: str) -> Any:
        """Read ``name.json``.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        return read_json(self._verified(f"{name}.json"))

    def state(self) -> dict[str, Any]:
        """Read ``state.json`` and check its fields.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        tree: dict[str, Any] = self.json("state")
        check_state(tree, self.path / "state.json", learning=self.has("loop"))
        return tree

    def text(self, name: str) -> str:
        """Read a text file.

        Raises:
            CheckpointError: It is missing or damaged.
        """
        path = self._verified(name)
        try:
            return read_text(path)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is damaged: it is not UTF-8") from error


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint directory.

    Raises:
        CheckpointError: It is not a checkpoint, or of another format.
    """
    if not (path / "manifest.json").is_file():
        raise CheckpointError(f"{path} is not a checkpoint: it has no manifest.json")
    manifest = read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise CheckpointError(f"{path / 'manifest.json'} is damaged: it names no format")
    digest = manifest.pop("digest", None)
    if manifest["format"] != FORMAT:
        found = one_line(str(manifest["format"])[:40])
        newer = whole(FORMAT + 1)(manifest["format"])
        raise CheckpointError(
            f"{path} has format {found}; this version reads format {FORMAT}"
            + ("; a newer version of drama wrote it: update drama" if newer else "")
        )
    if digest != _digest(manifest):
        raise CheckpointError(f"{path / 'manifest.json'} is damaged (its digest differs)")
    check_manifest(manifest, path / "manifest.json")
    if STEP.fullmatch(path.name) and int(path.name) != manifest["step"]:
        raise CheckpointError(f"{path} is damaged: its manifest is of step {manifest['step']}")
    return Checkpoint(path, manifest)


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's content, which holds the hashes of all other files."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def copy_checkpoint(
    checkpoint: Checkpoint, replay: Path | None, run_dir: Path, config: str
) -> None:
    """Copy a checkpoint into another run directory, verifying its files.

    Args:
        checkpoint: Source.
        replay: Directory of its replay segments; None copies only what acting needs.
        run_dir: An empty run directory.
        config: Configuration of the copy, as JSON.
    """
    everything = replay is not None
    segments = checkpoint.segments if everything else []
    for segment in segments:
        assert replay is not None
        copy_segment(segment, replay, run_dir / "replay")
    names = ("model", "optimiser", "loop") if everything else ("model",)
    CheckpointDir(run_dir).write(
        checkpoint.step,
        config=config,
        state=checkpoint.state(),
        tensors={name: checkpoint.tensors(name) for name in names if checkpoint.has(name)},
        segments=segments,
        logs={"metrics": 0, "episodes": 0},
    )


class CheckpointDir:
    """The ``checkpoints/`` directory of a run.

    Args:
        run_dir: The run directory.
        keep: Checkpoints kept on disk.
    """

    def __init__(self, run_dir: Path, keep: int = 2) -> None:
        self.path = run_dir / "checkpoints"
        self.keep = keep

    def at(self, step: int) -> Path:
        """Directory of the checkpoint at ``step``."""
        return self.path / f"{step:09d}"

    def write(
        self,
        step: int,
        *,
        config: str,
        state: Mapping[str, Any],
        tensors: Mapping[str, Mapping[str, Tensor]],
        segments: list[Segment],
        logs: Mapping[str, int],
    ) -> None:
        """Write the checkpoint at ``step`` atomically, then make ``last`` name it."""
        path = self.at(step)
        aside = path.with_name(f".{path.name}.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        files: dict[str, str] = {}
        for name, group in tensors.items():
            files[f"{name}.safetensors"] = write_tensors(aside / f"{name}.safetensors", group)
        write_json(aside / "state.json", state)
        write_text(aside / "config.json", config)
        for name in ("state.json", "config.json"):
            files[name] = sha256(aside / name)
        manifest = {
            "format": FORMAT,
            "step": step,
            "files": files,
            "replay": segments,
            "logs": dict(logs),
        }
        write_json(aside / "manifest.json", {**manifest, "digest": _digest(manifest)})
        sync(aside)
        # A complete one of this name exists if a run was killed before `last` was updated.
        shutil.rmtree(path, ignore_errors=True)
        os.replace(aside, path)
        sync(path.parent)
        self.publish(step)

    def all(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        if not self.path.is_dir():
            return []
        return sorted(
            p
            for p in self.path.iterdir()
            if STEP.fullmatch(p.name) and (p / "manifest.json").is_file()
        )

    def last(self) -> Checkpoint:
        """Open the newest checkpoint.

        Raises:
            CheckpointError: There is none, or the one that ``last`` names is missing.
        """
        pointer = self.path / "last"
        if (why := self.missing_last()) is not None:
            raise CheckpointError(why)
        if not pointer.is_file():
            raise CheckpointError(
                f"{self.path.parent} holds no checkpoint: no run was started there, or it ended "
                "before its first one"
            )
        try:
            name = read_text(pointer).strip()
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{pointer} is damaged: it does not name a checkpoint") from error
        except OSError as error:
            raise CheckpointError(f"{pointer} cannot be read: {error.strerror or error}") from error
        if not STEP.fullmatch(name):
            raise CheckpointError(f"{pointer} is damaged: it does not name a checkpoint")
        return open_checkpoint(self.path / name)

    def missing_last(self) -> str | None:
        """Return how to repair complete checkpoints without ``last``, None if there are none.

        A run that is killed between its first checkpoint and ``last`` leaves such a directory.
        """
        pointer, complete = self.path / "last", self.all()
        if os.path.lexists(pointer) or not complete:
            return None
        return (
            f"{pointer} is missing, so {plural(len(complete), 'complete checkpoint')} cannot be "
            f"used; repair it with: echo {complete[-1].name} > {shlex.quote(str(pointer))}"
        )

    def publish(self, step: int) -> None:
        """Make ``last`` name the checkpoint at ``step``."""
        write_text(self.path / "last", self.at(step).name + "\n")

    def prune(self, newest: int) -> set[str]:
        """Delete all but the newest checkpoints up to ``newest``.

        Later ones belong to a run that was rolled back, and are deleted too.

        Returns:
            Names of the replay segments that the remaining ones need.
        """
        for path in self.path.glob(".*.tmp"):
            shutil.rmtree(path, ignore_errors=True)
        kept = [p for p in self.all() if int(p.name) <= newest][-self.keep :]
        for path in self.all():
            if path not in kept:
                # Renamed first: a kill inside rmtree must not leave half a checkpoint behind.
                doomed = path.with_name(f".{path.name}.tmp")
                shutil.rmtree(doomed, ignore_errors=True)
                os.replace(path, doomed)
                shutil.rmtree(os.fspath(doomed))  # its errors quote the path as it is given
        needed = set()
        for path in kept:
            # A damaged older one is kept for inspection, but not its segments.
            with contextlib.suppress(CheckpointError):
                needed |= {segment["file"] for segment in open_checkpoint(path).segments}
        return needed


def find_checkpoint(path: Path) -> tuple[Checkpoint, Path | None]:
    """Open a checkpoint directory or the last checkpoint of a run directory.

    Returns:
        The checkpoint and its run directory, None if it was moved out of one.

    Raises:
        CheckpointError: There is no checkpoint.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory")
    if (path / "manifest.json").is_file():
        folder = path.resolve().parent
        return open_checkpoint(path), folder.parent if folder.name == "checkpoints" else None
    return CheckpointDir(path).last(), path
