"""Numbers on their way to disk: running sums on the device, one host sync per row."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Running means of detached scalar tensors; nothing leaves the device until a flush."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, Tensor], prefix: str) -> None:
        """Add one observation of each ``prefix/name``."""
        for name, value in values.items():
            key = f"{prefix}/{name}"
            previous = self._sums.get(key)
            # float64 on the host; devices without it (MPS) keep float32 sums.
            value = value.double() if value.device.type == "cpu" else value.float()
            self._sums[key] = value if previous is None else previous + value
            self._counts[key] = self._counts.get(key, 0) + 1

    def means(self) -> dict[str, float]:
        """Return the means so far with a single transfer; keeps counting."""
        if not self._sums:
            return {}
        sums = torch.stack(list(self._sums.values())).tolist()
        return {key: total / self._counts[key] for key, total in zip(self._sums, sums, strict=True)}

    def clear(self) -> None:
        """Start again from nothing."""
        self._sums.clear()
        self._counts.clear()

    def state(self) -> dict[str, list[float]]:
        """Return sums and counts as JSON-able numbers (exact: floats survive JSON)."""
        return {key: [float(v), self._counts[key]] for key, v in self._sums.items()}

    def load_state(self, state: Mapping[str, list[float]], device: torch.device) -> None:
        """Put back what [state][drama.training.metrics.Meter.state] returned."""
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self._sums = {k: torch.tensor(v[0], dtype=kind, device=device) for k, v in state.items()}
        self._counts = {k: int(v[1]) for k, v in state.items()}


class Clock:
    """Wall seconds spent in named phases. On a GPU they are seconds of launching, not of work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent inside to ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def flush(self) -> dict[str, float]:
        """Return the seconds per phase and start again."""
        seconds, self.seconds = self.seconds, {}
        return seconds


class JsonLines:
    """An append-only file of JSON objects, flushed row by row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def size(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class RunLog:
    """Rows of a run: ``metrics.jsonl`` and ``episodes.jsonl`` always, the rest on request.

    Args:
        directory: The run directory.
        tensorboard: Also write TensorBoard events.
        wandb_config: Also send rows to Weights & Biases, with this configuration.
        first_step: Step from which events are new; later ones of a killed run are superseded.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tensorboard: bool = True,
        wandb_config: Mapping[str, Any] | None = None,
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
        if wandb_config is not None:
            try:
                import wandb
            except ImportError as error:
                from drama.errors import ConfigError

                raise ConfigError(
                    "training.wandb needs Weights & Biases: pip install 'drama-rl[wandb]'"
                ) from error
            self._wandb = wandb.init(
                project="drama",
                name=directory.name,
                id=directory.name,
                resume="allow",
                dir=str(directory),
                config=dict(wandb_config),
            )

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
