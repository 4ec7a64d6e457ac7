"""What a suite would cost on this machine: hours, memory, disk; measured, not guessed."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drama.calibration import SECONDS, calibrate
from drama.costs import PresetCost, Unmeasured
from drama.envs.source import build_env
from drama.suite.layout import Cell
from drama.suite.local import Plan
from drama.text import duration, size


@dataclass(frozen=True)
class Share:
    """The cost of one variant's runs on games whose frames are alike."""

    variant: str
    games: tuple[str, ...]
    runs: int
    """Runs that are not finished."""
    steps_left: int
    """Environment steps of all these runs that are still to be made."""
    hours: float | None
    """Of all these runs, one after the other; None if that could not be measured."""
    memory: int | None
    """Bytes of one run, on host and device together."""
    disk: int | None
    """Bytes that one run's directory comes to."""
    estimated: bool
    """Whether batches were too slow to be measured at full size."""
    fits: bool
    """Whether one run fits into memory, as far as that is known."""
    error: str | None
    """Why it could not be measured."""


@dataclass(frozen=True)
class Forecast:
    """The cost of a suite."""

    shares: tuple[Share, ...]
    runs: int
    finished: int
    plan: Plan | None
    """How they would be shared out; None if nothing is to do."""

    @property
    def hours(self) -> float | None:
        """Of all runs, one after the other; None if some could not be measured."""
        known = [share.hours for share in self.shares if share.hours is not None]
        return sum(known) if len(known) == len(self.shares) else None

    @property
    def disk(self) -> int | None:
        """Bytes of all runs to do."""
        known = [share.disk * share.runs for share in self.shares if share.disk is not None]
        return sum(known) if len(known) == len(self.shares) else None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a tree for JSON."""
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
        """Return a table and what it adds up to."""
        todo = sum(share.runs for share in self.shares)
        total = f"{self.runs} runs: {self.finished} finished, {todo} to do"
        if (left := self.runs - self.finished - todo) > 0:
            total += f", {left} left alone"
        if self.plan is None or not todo:
            return total
        rows = [("variant", "games", "runs", "steps", "time a run", "memory a run", "disk a run")]
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
                notes.append(f"{share.variant} was not measured: {share.error}")
            elif not share.fits:
                notes.append(f"{share.variant}: one run alone needs more memory than there is free")
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        if any(share.estimated for share in self.shares):
            notes.append("~ measured on smaller batches and scaled by frames")
        if self.hours is not None:
            total += f"; {duration(3600 * self.hours)} of work, evaluation and checkpoints left out"
            jobs = min(self.plan.jobs, todo) or 1
            if jobs > 1:
                wall = duration(3600 * self.hours / jobs)
                total += f"; {wall} of wall time if {jobs} parallel runs do not slow each other"
        if self.disk is not None:
            total += f"; {size(self.disk)} of disk"
        return "\n".join([*lines, "", *notes, total, f"here: {self.plan.describe()}"])


def forecast(
    cells: Sequence[Cell],
    plan: Plan | None,
    *,
    seconds: float = SECONDS,
    progress: Callable[[str], object] = lambda text: None,
) -> Forecast:
    """Measure what the runs of a suite that are not finished would cost here.

    Every variant is measured once for each shape of observation among its games, with the
    training code (see `drama.calibration`) and the threads that the plan gives it.

    Args:
        cells: All runs of the suite.
        plan: How they would be shared out; None if nothing is to do.
        seconds: About how long all measurements together may take.
        progress: Told what is measured next.

    Raises:
        EnvError: A game cannot be made.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[Cell]] = collections.defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    finished = 0
    for cell in cells:
        finished += cell.status == "finished"
        if cell.status == "finished" or not cell.sound:
            continue
        if cell.game not in shapes:
            env = build_env(cell.game, cell.config.env, 0, life_loss=True)
            shapes[cell.game] = tuple(env.observation_space.shape or ())
            env.close()
        groups[cell.variant.name, shapes[cell.game]].append(cell)
    shares = []
    for name, _ in groups:
        progress(f"measuring variant {name}")
        shares.append(_share(groups[name, _], plan, seconds / len(groups)))
    return Forecast(tuple(shares), len(cells), finished, plan)


def _share(cells: Sequence[Cell], plan: Plan | None, seconds: float) -> Share:
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
    share = Share(
        variant=name,
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
        disk=_disk(cost, first),
        estimated=bool(cost.world_model.estimate or cost.behaviour.estimate),
        fits=memory.fits,
    )


def _hours(cost: PresetCost, cell: Cell) -> float:
    """Hours of what a run has left, those of its warm-up told apart."""
    return cost.hours(cell.config.steps) - (cost.hours(cell.step) if cell.step else 0.0)


def _disk(cost: PresetCost, cell: Cell) -> int:
    """Bytes of a run's directory: checkpoints without gradients, and the rows of the replay."""
    config = cell.config
    # Weights and two moments; `model` counts the gradients as well, a fourth part of about equal
    # size. Every checkpoint has its own; the rows are shared.
    checkpoints = config.training.keep_checkpoints * cost.memory.model * 3 // 4
    # Short episodes add a row each; a ring that is full still has segments it no longer needs all
    # of. Neither changes the order of magnitude.
    rows = min(config.steps, config.replay.capacity) / config.replay.capacity
    return round(checkpoints + rows * cost.memory.replay)


def _size(count: float | None) -> str:
    return "-" if count is None else size(count)
