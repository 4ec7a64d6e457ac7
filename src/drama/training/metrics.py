"""Running means of metrics, and the log files of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drama.config import Config
from drama.files import open_append, sync_descriptor
from drama.ops.dispatch import widest_float
from drama.training.wandb import open_wandb


class Meter:
    """Running means of detached scalar tensors, summed on the device.

    Args:
        device: Device of the values.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        # One vector of sums per set of names: two kernels per update, not two per name.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, values: Mapping[str, Tensor], prefix: str) -> None:
        """Add one observation of each ``prefix/name``."""
        keys = tuple(f"{prefix}/{name}" for name in values)
        new = torch.stack(list(values.values()))
        new = new.to(widest_float(new))
        self._sums[keys] = self._sums[keys] + new if keys in self._sums else new
        self._counts[keys] = self._counts.get(keys, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the means so far, with a single transfer to the host."""
        if not self._sums:
            return {}
        sums = iter(torch.cat(list(self._sums.values())).tolist())
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for keys, count in self._counts.items():
            for key in keys:
                totals[key] = totals.get(key, 0.0) + next(sums)
                counts[key] = counts.get(key, 0) + count
        return {key: total / counts[key] for key, total in totals.items()}

    def clear(self) -> None:
        """Reset all means."""
        self._sums.clear()
        self._counts.clear()

    def state(self) -> dict[str, dict[str, Any]]:
        """Return sums and counts, by file of a checkpoint (exact: JSON keeps floats)."""
        groups = [
            {"keys": list(keys), "sums": sums.tolist(), "count": self._counts[keys]}
            for keys, sums in self._sums.items()
        ]
        return {"state": {"meter": groups}}

    def load_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned."""
        kind = widest_float(self.device)
        self.clear()
        for group in saved["state"]["meter"]:
            keys = tuple(group["keys"])
            self._sums[keys] = torch.tensor(group["sums"], dtype=kind, device=self.device)
            self._counts[keys] = int(group["count"])


class JsonLines:
    """Append-only file of JSON objects, flushed at every row; created again if it was deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vanished = False
        """Whether the file was found deleted; reset by whoever reports it."""
        self._file = open_append(path)

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._reopen_if_vanished()
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def _reopen_if_vanished(self) -> None:
        try:
            there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            there = False
        if not there:
            self.vanished = True
            self._file.close()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open_append(self.path)

    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def sync(self) -> int:
        """Force the rows to the disk and return the bytes written so far.

        Raises:
            OSError: The disk failed; it names the file.
        """
        self._reopen_if_vanished()
        sync_descriptor(self._file.fileno(), self.path)
        return self.size()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunLog:
    """Logs of a run: ``metrics.jsonl``, ``episodes.jsonl``, TensorBoard, Weights & Biases.

    Args:
        directory: The run directory.
        config: Its configuration, which selects further loggers.
        first_step: First new step; TensorBoard events of a killed run from there on are dropped.
    """

    def __init__(self, directory: Path, config: Config, *, first_step: int = 0) -> None:
        self.metrics = JsonLines(directory / "metrics.jsonl")
        self.episodes = JsonLines(directory / "episodes.jsonl")
        self._board: Any = None
        self._wandb: Any = None
        if config.training.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(
                str(directory / "tensorboard"), purge_step=first_step or None
            )
        if config.training.wandb:
            self._wandb = open_wandb(directory, config)

    def sync(self) -> dict[str, int]:
        """Force the rows to the disk and return the bytes of each file."""
        return {"metrics": self.metrics.sync(), "episodes": self.episodes.sync()}

    def vanished(self) -> list[str]:
        """Return the names of files that were deleted since the last call."""
        files = [file for file in (self.metrics, self.episodes) if file.vanished]
        for file in files:
            file.vanished = False
        return [file.path.name for file in files]

    def write_metrics(self, row: Mapping[str, float]) -> None:
        """Write one row of metrics; ``row["step"]`` is its position."""
        self.metrics.write(row)
        self._mirror(row)

    def write_episode(self, row: Mapping[str, float]) -> None:
        """Write one finished episode: step, return, length, seconds."""
        self.episodes.write(row)
        self._mirror(
            {"step": row["step"], "episode/return": row["return"], "episode/length": row["length"]}
        )

    def send(self, values: Mapping[str, float], step: int) -> None:
        """Send values recorded by callbacks to Weights & Biases."""
        if self._wandb is not None and values:
            self._wandb.log(dict(values), step=step)

    def _mirror(self, row: Mapping[str, float]) -> None:
        step = int(row["step"])
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(row), step=step)

    def close(self) -> None:
        """Flush and close every writer."""
        self.metrics.close()
        self.episodes.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
