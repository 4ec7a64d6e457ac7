"""Numbers on their way to disk: running sums on the device, one host sync per row; wall time."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drama.config import Config
from drama.files import open_append, sync_descriptor
from drama.ops.dispatch import widest_float
from drama.training.wandb import open_wandb


class Meter:
    """Running means of detached scalar tensors; nothing leaves the device until a flush."""

    def __init__(self) -> None:
        # One vector of sums for all that is added together: two kernels an update, not one a name.
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
        """Return the means so far with a single transfer; keeps counting."""
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
        """Start again from nothing."""
        self._sums.clear()
        self._counts.clear()

    def state(self) -> list[dict[str, Any]]:
        """Return sums and counts as JSON-able numbers (exact: floats survive JSON)."""
        return [
            {"keys": list(keys), "sums": sums.tolist(), "count": self._counts[keys]}
            for keys, sums in self._sums.items()
        ]

    def load_state(self, state: Sequence[Mapping[str, Any]], device: torch.device) -> None:
        """Put back what [state][drama.training.metrics.Meter.state] returned."""
        kind = widest_float(device)
        self.clear()
        for group in state:
            keys = tuple(group["keys"])
            self._sums[keys] = torch.tensor(group["sums"], dtype=kind, device=device)
            self._counts[keys] = int(group["count"])


PHASES = (
    "env",
    "acting",
    "replay",
    "world_model",
    "imagination",
    "behaviour",
    "logging",
    "callbacks",
    "checkpoint",
    "other",
)
"""What the wall time of training is split into: stepping and resetting the environment, choosing
actions, writing and drawing experience, the gradient steps of the world model, dreaming, the
gradient steps of actor and critic, rows of logs, what listens (live progress, callbacks of the
user), checkpoints; ``other`` is what the loop spends outside of all these."""


@dataclass(frozen=True)
class TimeSplit:
    """Where the wall time of some environment steps went."""

    seconds: Mapping[str, float]
    """Wall seconds per phase, those of :data:`PHASES`; together the wall time."""
    steps: int
    """Environment steps made in that time."""

    @property
    def wall_seconds(self) -> float:
        """Wall seconds altogether."""
        return sum(self.seconds.values())

    @property
    def steps_per_second(self) -> float:
        """Environment steps per second of wall time, all training included."""
        return self.steps / self.wall_seconds if self.wall_seconds else 0.0

    def fractions(self) -> dict[str, float]:
        """Return the share of each phase in the wall time: they add up to 1, all 0 if it is 0."""
        whole = self.wall_seconds or 1.0
        return {name: self.seconds.get(name, 0.0) / whole for name in PHASES}

    def row(self) -> dict[str, float]:
        """Return the columns of ``metrics.jsonl``: ``time/<phase>`` are fractions."""
        return {
            **{f"time/{name}": round(share, 5) for name, share in self.fractions().items()},
            "time/wall_seconds": round(self.wall_seconds, 4),
            "time/steps_per_second": float(f"{self.steps_per_second:.6g}"),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the same as a tree for JSON."""
        return {
            "steps": self.steps,
            "wall_seconds": round(self.wall_seconds, 3),
            "steps_per_second": float(f"{self.steps_per_second:.6g}"),
            "fractions": {name: round(share, 5) for name, share in self.fractions().items()},
        }

    def __str__(self) -> str:
        """Return one line: phases from 1 % up, the largest first, the rest under ``other``."""
        shares = {name: 100 * share for name, share in self.fractions().items()}
        shown = {k: v for k, v in shares.items() if v >= 1 and k != "other"}
        shown = dict(sorted(shown.items(), key=lambda item: -item[1]))
        shown["other"] = sum(shares.values()) - sum(shown.values())
        whole = {name: int(share) for name, share in shown.items()}
        # Rounded so that they still add up: those that lost most by rounding down go up.
        lost = sorted(shown, key=lambda name: whole[name] - shown[name])
        for name in lost[: round(sum(shown.values())) - sum(whole.values())]:
            whole[name] += 1
        parts = (f"{k.replace('_', ' ')} {v} %" for k, v in whole.items() if v)
        return f"time: {', '.join(parts)}; {self.steps_per_second:.3g} env steps/s"


class Clock:
    """Wall seconds spent in named phases, every second counted once.

    Phases nest: while an inner one is open, the outer one stands still. So the seconds of all
    phases add up to the time during which any was open.

    These are seconds of the host. On a GPU the host only queues the work, and runs ahead until it
    needs a number back, or the queue is full: that phase is then charged with the waiting. In
    training it is mostly ``acting``, whose action has to come back before the environment can
    take it. A phase's own work on the GPU is only seen with ``synchronize``.

    Args:
        synchronize: Called at both ends of each phase: waits for the work queued on a GPU. It
            costs the overlap of host and GPU, so training goes without.
    """

    def __init__(self, synchronize: Callable[[], object] | None = None) -> None:
        self.synchronize = synchronize
        self._seconds: dict[str, float] = {}
        self._flushed: dict[str, float] = {}
        self._open: list[str] = []
        self._mark = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside, less that of phases within, to ``name``."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        """Give the time since the last call to the innermost open phase."""
        if self.synchronize is not None:
            self.synchronize()
        now = time.perf_counter()
        if self._open:
            name = self._open[-1]
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._mark
        self._mark = now

    def flush(self) -> dict[str, float]:
        """Return the seconds per phase since the last flush and start again."""
        if self._open:
            self._charge()
        seconds, self._seconds = self._seconds, {}
        for name, value in seconds.items():
            self._flushed[name] = self._flushed.get(name, 0.0) + value
        return seconds

    def totals(self) -> dict[str, float]:
        """Return the seconds per phase since the clock was made."""
        if self._open:
            self._charge()
        names = dict.fromkeys((*self._flushed, *self._seconds))
        return {k: self._flushed.get(k, 0.0) + self._seconds.get(k, 0.0) for k in names}


class JsonLines:
    """An append-only file of JSON objects, flushed row by row; begun anew where it was deleted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.vanished = False
        """Whether the file was found deleted; whoever reports it may set it back."""
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
        """Force the rows to the disk; returns the bytes written so far.

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
    """Rows of a run: ``metrics.jsonl`` and ``episodes.jsonl`` always, the rest on request.

    Args:
        directory: The run directory.
        tensorboard: Also write TensorBoard events.
        wandb: Also send rows to Weights & Biases, with this configuration.
        first_step: Step from which events are new; later ones of a killed run are superseded.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tensorboard: bool = True,
        wandb: Config | None = None,
        first_step: int = 0,
    ) -> None:
        self.metrics = JsonLines(directory / "metrics.jsonl")
        self.episodes = JsonLines(directory / "episodes.jsonl")
        self._board: Any = None
        self._wandb: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(
                str(directory / "tensorboard"), purge_step=first_step or None
            )
        if wandb is not None:
            self._wandb = open_wandb(directory, wandb)

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
        """Send what callbacks recorded to Weights & Biases."""
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
