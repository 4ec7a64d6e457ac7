"""The content of a report as data: comparable runs, aggregates and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drama.evaluation import departures, game_of
from drama.evaluation.aggregate import Aggregate, Improvement
from drama.report.runs import Run, reference_of

Mode = Literal["greedy", "sampled"]
OURS = "Drama-XS"
"""Published method that this package reproduces."""


@dataclass(frozen=True)
class LeftOut:
    """A finished run that is excluded from every average, and why."""

    run: Run
    reason: str


@dataclass(frozen=True)
class Variant:
    """Finished runs of one variant under one protocol."""

    name: str
    runs: Mapping[str, tuple[Run, ...]]
    """Runs by environment id, in the order of the suite; games without runs are absent."""
    protocol: Mapping[str, Any]
    """Common protocol of the runs, without the steps; empty without runs."""
    left_out: tuple[LeftOut, ...]
    mode: Mode

    @property
    def steps(self) -> dict[str, int | None]:
        """Environment steps of the evaluated agents by game; None where it is not recorded."""
        return {env_id: train_steps(runs[0], self.mode) for env_id, runs in self.runs.items()}

    def scores(self, env_id: str) -> list[float]:
        """Return the raw mean evaluation return of each run of a game, by seed."""
        return [float(run.evaluation[self.mode]["mean"]) for run in self.runs.get(env_id, ())]

    def normalised(self, env_ids: Iterable[str]) -> dict[str, list[float]]:
        """Return normalised scores by game, if measured under the reference's protocol."""
        found: dict[str, list[float]] = {}
        for env_id in env_ids:
            reference = reference_of(env_id)
            if reference is not None and self.has_normalised(env_id):
                found[env_id] = [reference.normalise(score) for score in self.scores(env_id)]
        return found

    def has_normalised(self, env_id: str) -> bool:
        """Whether a game has normalised scores."""
        return env_id in self.runs and not self.not_normalised(env_id)

    def not_normalised(self, env_id: str) -> tuple[str, ...]:
        """Return why a game with a reference has no normalised scores; empty if it has."""
        if reference_of(env_id) is None:
            return ()
        protocols = [run.evaluation[self.mode]["protocol"] for run in self.runs.get(env_id, ())]
        found = dict.fromkeys(why for p in protocols for why in departures(self.mode, p))
        return tuple(found)


def train_steps(run: Run, mode: Mode) -> int | None:
    """Return the environment steps of the evaluated agent; None if they are not recorded."""
    steps = run.evaluation[mode]["protocol"].get("train_steps")
    return steps if isinstance(steps, int) else None


@dataclass(frozen=True)
class Row:
    """Aggregates of one method in a block."""

    method: str
    """Display name, see :func:`~drama.report.summarise.published_label`."""
    numbers: Aggregate
    kind: Literal["variant", "runs", "means"]
    """Variant of the suite, published method with single runs, or published method with means
    only."""


@dataclass(frozen=True)
class Block:
    """Methods compared on the same games."""

    env_ids: tuple[str, ...]
    reference: str
    """``human`` or ``optimum``."""
    rows: tuple[Row, ...]

    def variant(self, name: str) -> Row | None:
        """Return the row of a variant, or None if it has not finished all these games."""
        return next((r for r in self.rows if r.kind == "variant" and r.method == name), None)

    def published(self, label: str) -> Row | None:
        """Return the row of a published method, or None."""
        return next((r for r in self.rows if r.kind != "variant" and r.method == label), None)


@dataclass(frozen=True)
class Pair:
    """Probability that one method beats another on their common games."""

    method: str
    other: str
    improvement: Improvement


@dataclass(frozen=True)
class Summary:
    """Content of a report."""

    directory: Path
    name: str
    runs: tuple[Run, ...]
    env_ids: tuple[str, ...]
    """Games of the suite, in its order."""
    mode: Mode
    variants: tuple[Variant, ...]
    """Variants in the order of the suite; the first is the baseline."""
    published: Mapping[str, str]
    """Published methods and their labels; empty unless every game is one of Atari100k."""
    blocks: tuple[Block, ...]
    pairs: tuple[Pair, ...]
    differences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings in which each other variant differs from the first."""

    @property
    def atari(self) -> bool:
        """Whether every game is one of Atari100k."""
        return bool(self.env_ids) and all(game_of(env_id) for env_id in self.env_ids)

    @property
    def finished(self) -> int:
        """Number of finished runs, evaluated or not."""
        return sum(run.status == "finished" for run in self.runs)

    @property
    def untrained(self) -> tuple[Run, ...]:
        """Finished runs that never updated the world model or the policy."""
        return tuple(run for run in self.runs if run.untrained)
