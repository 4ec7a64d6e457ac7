"""Cost of a suite on this machine, measured: time, memory and disk."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drama.envs.source import env_source
from drama.machine.calibration import SECONDS, calibrate
from drama.machine.costs import PresetCost, Unmeasured
from drama.suite.layout import Cell
from drama.suite.local import Plan
from drama.text import duration, size


@dataclass(frozen=True)
class Share:
    """Cost of one variant's runs of equal length on games with the same observation shape."""

    variant: str
    games: tuple[str, ...]
    runs: int
    """Unfinished runs."""
    steps_left: int
    """Remaining environment steps of all these runs."""
    hours: float | None
    """Total hours of these runs in sequence; None if the measurement failed."""
    memory: int | None
    """Memory of one run in bytes, host and device together."""
    disk: int | None
    """Size of one run directory in bytes."""
    estimated: bool
    """Whether updates were extrapolated from smaller batches."""
    fits: bool
    """Whether one run fits into memory, as far as known."""
    error: str | None
    """Why the measurement failed."""


@dataclass(frozen=True)
class Forecast:
    """Cost of a suite."""

    shares: tuple[Share, ...]
    runs: int
    finished: int
    plan: Plan | None
    """Distribution over this machine; None if nothing is left to run."""

    @property
    def hours(self) -> float | None:
        """Total hours of all runs in sequence; None if a measurement failed."""
        known = [share.hours for share in self.shares if share.hours is not None]
        return sum(known) if len(known) == len(self.shares) else None

    @property
    def disk(self) -> int | None:
        """Size of all unfinished runs in bytes; None if a measurement failed."""
        known = [share.disk * share.runs for share in self.shares if share.disk is not None]
        return sum(known) if len(known) == len(self.shares) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the costs for JSON."""
        return {
            "runs": self.runs,
            "finished": self.finished,
            "jobs": None if self.plan is None else self.plan.jobs,
            "threads": None if self.plan is None else self.plan.threads,
            "hours": self.hours,
            "disk_bytes": self.disk,
            "shares": [dataclasses.asdict(share) for share in self.shares],
        }

    def render(self) -> str:
        """Return a table and the totals as text."""
        todo = sum(share.runs for share in self.shares)
        total = f"{self.runs} runs: {self.finished} finished, {todo} to do"
        if (left := self.runs - self.finished - todo) > 0:
            total += f", {left} skipped"
        if self.plan is None or not todo:
            return total
        rows = [("variant", "games", "runs", "steps", "time/run", "memory/run", "disk/run")]
        notes = []
        for share in self.shares:
            per_run = None if share.hours is None else share.hours / share.runs
            mark = "~" if share.estimated else ""
            rows.append(
                (
                    share.variant,
                    str(len(share.games)),
                    str(share.runs),
                    f"{share.steps_left:,}",
                    "-" if per_run is None else mark + duration(3600 * per_run),
                    _size(share.memory),
                    _size(share.disk),
                )
            )
            if share.error is not None:
                notes.append(f"{share.variant}: not measured: {share.error}")
            elif not share.fits:
                notes.append(f"{share.variant}: a single run needs more memory than is free")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        if any(share.estimated for share in self.shares):
            notes.append("~ = extrapolated from smaller batches")
        if self.hours is not None:
            total += f"; {duration(3600 * self.hours)} in total, without evaluation and checkpoints"
            jobs = min(self.plan.jobs, todo) or 1
            if jobs > 1:
                longest = max((share.hours or 0.0) / share.runs for share in self.shares)
                wall = duration(3600 * max(self.hours / jobs, longest))
                total += f"; {wall} of wall time if {jobs} parallel runs do not slow each other"
        if self.disk is not None:
            total += f"; {size(self.disk)} of disk"
        return "\n".join(
            [*lines, "", *dict.fromkeys(notes), total, f"plan: {self.plan.describe()}"]
        )


def forecast(
    cells: Sequence[Cell],
    plan: Plan | None,
    *,
    seconds: float = SECONDS,
    progress: Callable[[str], object] = lambda text: None,
) -> Forecast:
    """Measure the cost of a suite's unfinished runs on this machine.

    Each variant is measured once per observation shape of its games, with the training code (see
    `drama.machine.calibration`) and the plan's number of threads. Runs of different lengths are
    counted separately.

    Args:
        cells: All runs of the suite.
        plan: Distribution over this machine; None if nothing is left to run.
        seconds: Approximate duration of all measurements.
        progress: Called with a description of the next measurement.

    Raises:
        EnvError: A game cannot be made.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[Cell]] = collections.defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    finished = 0
    for cell in cells:
        finished += cell.status == "finished"
        if cell.status == "finished" or not cell.resumable:
            continue
        if cell.game not in shapes:
            env = env_source(cell.game, cell.config.env).make(0)
            shapes[cell.game] = tuple(env.observation_space.shape or ())
            env.close()
        groups[cell.variant.name, shapes[cell.game]].append(cell)
    shares = []
    deadline = time.perf_counter() + seconds
    for index, ((name, _), group) in enumerate(groups.items()):
        progress(f"measuring variant {name}")
        # What a fast group leaves is shared by the others.
        left = max(deadline - time.perf_counter(), 0.0) / (len(groups) - index)
        shares += _shares(group, plan, max(left, seconds / len(groups) / 2))
    return Forecast(tuple(shares), len(cells), finished, plan)


def _shares(cells: Sequence[Cell], plan: Plan | None, seconds: float) -> list[Share]:
    """Measure a variant on the first game, and return the costs of its runs by their length."""
    first = cells[0]
    config = first.config
    if plan is not None and not config.training.threads:
        training = dataclasses.replace(config.training, threads=plan.threads)
        config = dataclasses.replace(config, training=training)
    name = first.variant.name
    measured = calibrate(
        {name: lambda: config}, env=first.game, device=config.device, seconds=seconds
    )
    (cost,) = measured.presets
    by_steps: dict[int, list[Cell]] = {}
    for cell in cells:
        by_steps.setdefault(cell.config.steps, []).append(cell)
    return [_share(cost, group) for group in by_steps.values()]


def _share(cost: PresetCost | Unmeasured, cells: Sequence[Cell]) -> Share:
    """Return the cost of runs with the same number of steps."""
    share = Share(
        variant=cells[0].variant.name,
        games=tuple(dict.fromkeys(cell.game for cell in cells)),
        runs=len(cells),
        steps_left=sum(cell.config.steps - cell.step for cell in cells),
        hours=None,
        memory=None,
        disk=None,
        estimated=False,
        fits=True,
        error=None,
    )
    if isinstance(cost, Unmeasured):
        return dataclasses.replace(share, error=cost.error)
    memory = cost.memory
    need = None if memory.host is None else memory.host + (memory.device or 0)
    return dataclasses.replace(
        share,
        hours=sum(_hours(cost, cell) for cell in cells),
        memory=need,
        disk=_disk(cost, cells[0]),
        estimated=bool(cost.world_model.estimate or cost.behaviour.estimate),
        fits=memory.fits,
    )


def _hours(cost: PresetCost, cell: Cell) -> float:
    """Return the remaining hours of a run; warm-up steps are cheaper."""
    return cost.hours(cell.config.steps) - (cost.hours(cell.step) if cell.step else 0.0)


def _disk(cost: PresetCost, cell: Cell) -> int:
    """Return the size of a run directory in bytes: checkpoints and the stored replay."""
    config = cell.config
    # `model` also counts gradients, one of four equal parts. Checkpoints share the replay.
    checkpoints = config.training.keep_checkpoints * cost.memory.model * 3 // 4
    # Ignores final observations and partly obsolete segments.
    filled = min(config.steps, config.replay.capacity) / config.replay.capacity
    return round(checkpoints + filled * cost.memory.replay)


def _size(count: float | None) -> str:
    return "-" if count is None else size(count)
