"""What a suite has on disk, read without trusting any of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import load_env_creator

from drama.envs.toy import PixelGame, register_games
from drama.errors import CheckpointError
from drama.evaluation import game_of, human_score, random_score
from drama.files import as_number, read_json
from drama.suite import Cell
from drama.suite.verdict import Status
from drama.text import one_line

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Episodes:
    """Whole training episodes of one run, in the order in which they ended."""

    steps: Array
    """``(E,)``, environment steps made when each ended; they never fall."""
    returns: Array
    """``(E,)``"""


@dataclass(frozen=True)
class Reference:
    """What normalises the scores of an environment."""

    name: str
    """What a normalised score of 1 is: ``human`` or ``optimum``."""
    floor: float
    """Score of the random policy."""
    top: float
    """Score that is normalised to 1."""

    def normalise(self, score: float) -> float:
        """Return 0 for the random policy, 1 for the reference."""
        return (score - self.floor) / (self.top - self.floor)


@dataclass(frozen=True)
class Run:
    """One cell of a suite and what its directory holds."""

    variant: str
    env_id: str
    seed: int
    path: Path
    status: Status
    reason: str = ""
    """Why it is not finished, in words; empty if it is."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """What it is, or would be, made with, as in ``config.json``."""
    evaluation: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """``eval.json``: result by mode."""
    episodes: Episodes = field(default_factory=lambda: Episodes(np.zeros(0), np.zeros(0)))
    starts: tuple[Mapping[str, Any], ...] = ()
    """Entries of ``run.json``."""
    steps: int = 0
    """Environment steps known to be made, from the logs."""
    seconds: float = 0.0
    """Wall seconds of training, from ``metrics.jsonl``."""
    notes: tuple[str, ...] = ()
    """What of it could not be read although the rest could."""

    @property
    def name(self) -> str:
        """Variant, game and seed."""
        return f"{self.variant} / {game_name(self.env_id)} / seed {self.seed}"

    @property
    def steps_asked(self) -> int | None:
        """Environment steps that it is to make; None if its configuration does not say."""
        steps = self.config.get("steps")
        return steps if isinstance(steps, int) else None


def read_run(cell: Cell, variant: str | None = None) -> Run:
    """Read the directory of one cell; what is spoilt is told of, never raised.

    Args:
        cell: Where it is and what the suite knows of it.
        variant: How to call its variant; its name if None.
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
        notes=tuple(notes),
    )


def reference_of(env_id: str) -> Reference | None:
    """Return what normalises the scores of an environment.

    Args:
        env_id: A Gymnasium id.

    Returns:
        Random and human scores of an Atari100k game; random and best returns of a built-in game;
        None for anything else.
    """
    name = game_of(env_id)
    if name is not None:
        return Reference("human", random_score(name), human_score(name))
    if not env_id.startswith("drama/"):
        return None
    register_games()
    spec = gym.registry.get(env_id)
    entry = None if spec is None else spec.entry_point
    game = load_env_creator(entry) if isinstance(entry, str) else entry
    if not (isinstance(game, type) and issubclass(game, PixelGame)):
        return None
    return Reference("optimum", game.random_return, game.optimum)


def game_name(env_id: str) -> str:
    """Return how the report calls an environment: Atari100k games by name, others by id."""
    return game_of(env_id) or env_id


def running_mean(values: Array, width: int) -> Array:
    """Mean of the latest ``width`` values: ``(E,)`` to ``(E - width + 1,)``, empty if too few."""
    if len(values) < width:
        return np.zeros(0)
    means: Array = np.lib.stride_tricks.sliding_window_view(values, width).mean(axis=1)
    return means


def _starts(path: Path, notes: list[str]) -> tuple[Mapping[str, Any], ...]:
    try:
        return tuple(dict(entry) for entry in read_json(path)["starts"])
    except (CheckpointError, KeyError, TypeError, ValueError):
        notes.append(f"{path.name} cannot be read: machine and versions are not known")
        return ()


def _evaluation(path: Path) -> dict[str, Any]:
    """Read the evaluations of a finished run, which the suite has looked at already."""
    tree = read_json(path)
    if not isinstance(tree, dict):
        raise CheckpointError(f"{path} is damaged: it is not a JSON object")
    for mode, result in tree.items():
        try:
            sound = as_number(result["mean"]) is not None
            sound = sound and isinstance(result["protocol"]["env"], dict)
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise CheckpointError(f"{path} is damaged: {mode} lacks a mean or its protocol")
    return tree


def _rows(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Rows of a log up to the first that is not whole: a killed run may end in half a row."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            notes.append(f"{path.name}: line {number} and all after it could not be read")
            break
        rows.append(row)
    return rows


def _episodes(path: Path, notes: list[str]) -> Episodes:
    steps: list[float] = []
    returns: list[float] = []
    for number, row in enumerate(_rows(path, notes), 1):
        step, ret = as_number(row.get("step")), as_number(row.get("return"))
        if step is None or ret is None or (steps and step < steps[-1]):
            notes.append(f"{path.name}: line {number} and all after it make no sense")
            break
        steps.append(step)
        returns.append(ret)
    return Episodes(np.array(steps), np.array(returns))


def by_variant(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs of each variant, in the order in which the variants first appear."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return found
