"""The table of the README and of each part of the results page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure
from benchmarks.comparison import baseline_of, interval, random_of
from benchmarks.suites import asked, finished, made


class Row(NamedTuple):
    """One row of a table: a variant of a suite on one game."""

    suite: str
    variant: str
    env: str
    mode: str = "greedy"


def load(place: Path, suite: str) -> dict[str, Any]:
    """Return the condensed suite of that name."""
    found: dict[str, Any] = json.loads((place / f"suite-{suite}.json").read_text(encoding="utf-8"))
    return found


def label_of(result: dict[str, Any], row: Row) -> str:
    """Return the variant's label, with the evaluation mode if that is not greedy."""
    label: str = result["variants"][row.variant]
    return label + ("" if row.mode == "greedy" else ", sampled actions")


def score_cells(place: Path, row: Row) -> tuple[str, ...]:
    """Return steps, minutes, return, interval, seeds, baseline and random return of a row."""
    result = load(place, row.suite)
    runs = [r for r in finished(result, row.env, row.variant) if row.mode in r["evaluation"]]
    means = [run["evaluation"][row.mode]["mean"] for run in runs]
    low, high = interval(means)
    minutes = float(np.median([run["seconds"] / 60 for run in runs]))
    return (
        made(runs),
        f"{minutes:.0f}",
        f"**{np.mean(means):.2f}**",
        f"{low:.2f} to {high:.2f}" if len(means) > 1 else "",  # one seed has no interval
        str(len(means)),
        baseline_of(row.env, place, asked(result, row.env)),
        random_of(row.env, place),
    )


def table(place: Path, rows: Sequence[Row]) -> str:
    """Return the table of a benchmark, or that of the README."""
    header = (
        *("task", "agent", "steps", "minutes", "return", "95 % interval"),
        *("seeds", "baseline", "random"),
    )
    return measure.table(
        header,
        [
            (row.env, label_of(load(place, row.suite), row), *score_cells(place, row))
            for row in rows
        ],
    )
