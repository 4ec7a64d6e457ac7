"""Runs of a suite, read from disk and validated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drama.config import Config
from drama.envs import score_range
from drama.errors import CheckpointError
from drama.evaluation import game_of, human_score, random_score
from drama.files import as_number, read_json
from drama.suite import Cell
from drama.suite.status import Status
from drama.text import one_line
from drama.training.schedule import NAMES, updates_due, why_no_update

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Episodes:
    """Finished training episodes of one run, in order."""

    steps: Array
    """``(E,)``, environment steps at the end of each episode; non-decreasing."""
    returns: Array
    """``(E,)``, undiscounted returns."""


@dataclass(frozen=True)
class CpuTime:
    """CPU time of one run's training."""

    steps: Array
    """``(R,)``, environment steps at the rows of ``metrics.jsonl``; non-decreasing."""
    seconds: Array
    """``(R,)``, CPU seconds until then."""

    def at(self, steps: Array) -> Array:
        """Return the CPU seconds until each of some environment steps, interpolated."""
        found: Array = np.interp(steps, [0.0, *self.steps], [0.0, *self.seconds])
        return found


@dataclass(frozen=True)
class Reference:
    """Reference scores that normalise an environment's scores."""

    name: str
    """Meaning of a normalised score of 1: ``human`` or ``optimum``."""
    floor: float
    """Score of the random policy."""
    top: float
    """Score of the human reference, or the best possible return."""

    def normalise(self, score: float) -> float:
        """Return the normalised score: 0 for the random policy, 1 for the reference."""
        return (score - self.floor) / (self.top - self.floor)


@dataclass(frozen=True)
class Run:
    """One run of a suite with the content of its directory."""

    variant: str
    env_id: str
    seed: int
    path: Path
    status: Status
    reason: str = ""
    """Why it is not finished; empty if it is."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Its configuration, as in ``config.json``."""
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Evaluation results by mode, as in ``eval.json``."""
    episodes: Episodes = field(default_factory=lambda: Episodes(np.zeros(0), np.zeros(0)))
    starts: tuple[Mapping[str, Any], ...] = ()
    """Entries of ``run.json``, one per start or resume."""
    steps: int = 0
    """Environment steps made, from checkpoint and logs."""
    seconds: float = 0.0
    """Wall time of training in seconds, from ``metrics.jsonl``."""
    cpu: CpuTime | None = None
    """CPU time of training; None if a row of ``metrics.jsonl`` lacks it, as those of old runs."""
    notes: tuple[str, ...] = ()
    """Parts of its logs that could not be read."""
    untrained: str = ""
    """Updates that a finished run never made, and why; empty if it was trained."""

    @property
    def name(self) -> str:
        """Variant, game and seed."""
        return f"{self.variant} / {game_name(self.env_id)} / seed {self.seed}"

    @property
    def steps_asked(self) -> int | None:
        """Environment steps requested; None if its configuration has no number."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None


def read_run(cell: Cell, variant: str | None = None) -> Run:
    """Read the directory of one run; damage is reported in the result, never raised.

    Args:
        cell: The run as the suite found it.
        variant: Label of its variant; its name if None.
    """
    run = Run(
        variant=cell.variant.name if variant is None else variant,
        env_id=cell.game,
        seed=cell.seed,
        path=cell.path,
        status=cell.status,
        reason=cell.reason,
        config=json.loads(cell.config.to_json()),
        steps=cell.step,
    )
    if run.status in ("missing", "foreign"):
        return run
    notes: list[str] = []
    try:
        evaluation = _evaluation(run.path / "eval.json") if run.status == "finished" else {}
        episodes = _episodes(run.path / "episodes.jsonl", notes)
        rows = _rows(run.path / "metrics.jsonl", notes)
        starts = _starts(run.path / "run.json", notes)
    except (CheckpointError, OSError) as error:
        return replace(run, status="failed", reason=one_line(error))
    steps = [int(step) for row in rows if (step := as_number(row.get("step"))) is not None]
    seconds = [as_number(row.get("time/wall_seconds")) or 0.0 for row in rows]
    return replace(
        run,
        evaluation=evaluation,
        episodes=episodes,
        starts=starts,
        steps=max(run.steps, *steps, 0, *(int(step) for step in episodes.steps[-1:])),
        seconds=sum(seconds),
        cpu=_cpu_time(rows),
        notes=tuple(notes),
        untrained=_untrained(cell.config, cell.step) if run.status == "finished" else "",
    )


def _cpu_time(rows: Iterable[Mapping[str, Any]]) -> CpuTime | None:
    pairs = [(as_number(r.get("step")), as_number(r.get("time/cpu_seconds"))) for r in rows]
    known = [(step, cpu) for step, cpu in pairs if step is not None and cpu is not None]
    if not known or len(known) < len(pairs):
        return None
    steps, seconds = np.array(known).T
    return CpuTime(steps, np.cumsum(seconds))


def _untrained(config: Config, steps: int) -> str:
    """Return which updates a run of ``steps`` steps never made, and why; empty if none."""
    due = updates_due(config.training, steps)
    without = [kind for kind, count in due.items() if not count]
    if not without:
        return ""
    which = "" if len(without) == len(due) else f" of the {NAMES[without[0]]}"
    return f"no update{which}: {why_no_update(config, steps, without[0])}"


def reference_of(env_id: str) -> Reference | None:
    """Return the reference scores of an environment.

    Args:
        env_id: A Gymnasium id.

    Returns:
        Random and human scores of an Atari100k game; random and best returns of a built-in game;
        None for other environments.
    """
    name = game_of(env_id)
    if name is not None:
        return Reference("human", random_score(name), human_score(name))
    known = score_range(env_id)
    return None if known is None else Reference("optimum", known.random, known.best)


def game_name(env_id: str) -> str:
    """Return the display name: the title of an Atari100k game, else the id."""
    return game_of(env_id) or env_id


def running_mean(values: Array, width: int) -> Array:
    """Return the running mean: ``(E,)`` to ``(E - width + 1,)``, empty if ``E < width``."""
    if len(values) < width:
        return np.zeros(0)
    means: Array = np.lib.stride_tricks.sliding_window_view(values, width).mean(axis=1)
    return means


def _starts(path: Path, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(dict(entry) for entry in read_json(path)["starts"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        notes.append(f"{path.name} cannot be read: machine and versions are unknown")
        return ()


def _evaluation(path: Path) -> dict[str, Any]:
    """Read the evaluations of a finished run."""
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} is damaged: it is not a JSON object")
    for mode, result in tree.items():
        try:
            valid = as_number(result["mean"]) is not None
            valid = valid and isinstance(result["protocol"]["env"], dict)
        except (KeyError, TypeError):
            valid = False
        if not valid:
            raise CheckpointError(f"{path} is damaged: {mode} has no mean or no protocol")
    return tree


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Read the lines of a log up to the first damaged one; a killed run may leave half a line."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            notes.append(f"{path.name}: line {number} and later lines could not be read")
            break
        rows.append(row)
    return rows


def _episodes(path: Path, notes: list[str]) -> Episodes:
    steps: list[float] = []
    returns: list[float] = []
    for number, row in enumerate(_rows(path, notes), 1):
        step, ret = as_number(row.get("step")), as_number(row.get("return"))
        if step is None or ret is None or (steps and step < steps[-1]):
            notes.append(f"{path.name}: line {number} and later lines are invalid")
            break
        steps.append(step)
        returns.append(ret)
    return Episodes(np.array(steps), np.array(returns))


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return the runs of each variant, in order of first appearance."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found
