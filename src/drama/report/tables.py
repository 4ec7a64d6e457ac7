"""Tables of a report: scores, aggregates, comparisons, progress, and ``runs.csv``."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from drama.evaluation import departures, game_of, human_score, published, random_score
from drama.evaluation.aggregate import Aggregate, mean
from drama.evaluation.bootstrap import RESAMPLES, Estimate
from drama.report.protocol import (
    ATARI100K_STEPS,
    STARTS,
    cut_short,
    differences_between,
    differences_from_published,
    not_normalised,
    steps_of,
)
from drama.report.runs import game_name, reference_of
from drama.report.summary import Block, Summary, Variant
from drama.report.table import Cell, Table, csv_text
from drama.text import plural

LABELS = {
    "mean": "Mean",
    "median": "Median",
    "iqm": "IQM",
    "optimality_gap": "Optimality gap",
    "games_above": "Games above human",
}
"""Aggregates in display order, and their headings."""
DIGITS = {"mean": 3, "median": 3, "iqm": 3, "optimality_gap": 3, "games_above": 0}
"""Decimal places."""


def score_table(summary: Summary) -> Table:
    """Return scores per game of the variants and, on Atari, of published methods."""
    shown = summary.variants
    header = ["Game"]
    references = {env_id: reference_of(env_id) for env_id in summary.env_ids}
    known = {reference.name for reference in references.values() if reference is not None}
    if summary.atari:
        header += ["Random", "Human"]
    elif known:
        header += ["Random", *(name.capitalize() for name in sorted(known))]
    header += list(summary.published.values())
    header += [column_name(variant) for variant in shown]

    rows = []
    for env_id in summary.env_ids:
        game = game_of(env_id)
        cells = [Cell(game_name(env_id))]
        reference = references[env_id]
        if summary.atari and game is not None:
            cells += [_number_cell(random_score(game)), _number_cell(human_score(game))]
        elif known:
            cells.append(Cell() if reference is None else _number_cell(reference.floor))
            cells += [
                _number_cell(reference.top)
                if reference is not None and reference.name == name
                else Cell()
                for name in sorted(known)
            ]
        found = [_number_cell(published(m, game)[0].score) for m in summary.published]
        found += [_score(variant, env_id, intervals=not summary.atari) for variant in shown]
        rows.append((*cells, *_best(found)))
    split = len(rows)
    references_shown = len(header) - 1 - len(summary.published) - len(shown)
    if summary.blocks:
        rows += _aggregate_rows(summary.blocks[0], summary, shown, references_shown)
    return Table(
        name="scores",
        title=f"Scores per game ({summary.mode} evaluation)",
        header=tuple(header),
        rows=tuple(rows),
        notes=tuple(_score_notes(summary, shown)),
        split=split if len(rows) > split else 0,
    )


def aggregate_table(block: Block, number_: int) -> Table:
    """Return the aggregates of every method over one set of games, with intervals.

    Args:
        block: Methods and games.
        number_: Index from 1, part of the file names.
    """
    names = statistics(block)
    rows = []
    for row in block.rows:
        cells = [_interval_cell(getattr(row.numbers, n), DIGITS[n]) for n in names]
        # A published mean is one number, but not one run.
        counts = "means only" if row.kind == "means" else _counts(row.numbers)
        rows.append((Cell(row.method), *cells, Cell(counts)))
    one = "the human reference" if block.reference == "human" else "the best possible return"
    notes = [
        f"Games: {', '.join(game_name(env_id) for env_id in block.env_ids)}.",
        f"Normalised: 0 is the random policy, 1 is {one}. In brackets: 95 % percentile intervals "
        f"of {RESAMPLES:,} bootstrap resamples of the runs within each game.",
    ]
    if single := [r.method for r in block.rows if r.kind != "means" and r.numbers.single]:
        notes.append(
            "Intervals are too narrow for methods with a single run on some games, which cannot be "
            f"resampled: {', '.join(single)}."
        )
    if any(row.kind == "means" for row in block.rows):
        notes.append(
            "Methods without intervals published only means over runs; their IQM is computed from "
            "these means, which vary less than runs."
        )
    if any(row.kind != "variant" for row in block.rows):
        notes.append(
            "Normalised with the random and human scores of the Drama paper, rounded to whole "
            "points: aggregates may differ by about 1 % from those published elsewhere."
        )
        notes.append(STARTS)
    return Table(
        name=f"aggregates-{number_}",
        title=f"Aggregates over {plural(len(block.env_ids), 'game')}",
        header=("Method", *(LABELS[name] for name in names), "Runs per game"),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def improvement_table(summary: Summary) -> Table:
    """Return the probability of improvement of the first variant over the others."""
    rows = [
        (
            Cell(f"{pair.method} > {pair.other}"),
            _interval_cell(pair.improvement.probability, 2),
            Cell(str(len(pair.improvement.games))),
        )
        for pair in summary.pairs
    ]
    return Table(
        name="improvement",
        title="Probability of improvement",
        header=("Comparison", "Probability", "Games"),
        rows=tuple(rows),
        notes=(
            "Probability that a run of the first method scores above a run of the second on a "
            "random game; ties count half. Over their common games.",
            *differences_between(summary),
            *((STARTS,) if summary.published else ()),
        ),
    )


def progress_table(summary: Summary) -> Table:
    """Return finished and requested runs per game and variant."""
    names = [variant.name for variant in summary.variants]
    rows = []
    for env_id in summary.env_ids:
        cells = [Cell(game_name(env_id))]
        for name in names:
            runs = [r for r in summary.runs if r.variant == name and r.env_id == env_id]
            done = sum(run.status == "finished" for run in runs)
            cells.append(Cell(f"{done} of {len(runs)}") if runs else Cell())
        rows.append(tuple(cells))
    return Table("progress", "Finished runs", ("Game", *names), tuple(rows))


def runs_csv(summary: Summary) -> str:
    """Return every run with score and protocol as CSV."""
    rows: list[list[object]] = [
        [
            *("variant", "env_id", "seed", "status", "used", "steps", "wall_seconds"),
            "cpu_seconds",
            *("mode", "score", "normalised", "path", "reason", "protocol"),
        ]
    ]
    used = {id(r) for v in summary.variants for runs in v.runs.values() for r in runs}
    reasons = {id(left.run): left.reason for v in summary.variants for left in v.left_out}
    for run in summary.runs:
        result = run.evaluation.get(summary.mode)
        score = None if result is None else float(result["mean"])
        reference = reference_of(run.env_id)
        normalised = None
        if (
            reference is not None
            and result is not None
            and not departures(summary.mode, result["protocol"])
        ):
            normalised = reference.normalise(float(result["mean"]))
        rows.append(
            [
                *(run.variant, run.env_id, run.seed, run.status, int(id(run) in used), run.steps),
                *(round(run.seconds, 1), "" if run.cpu is None else round(run.cpu.seconds[-1], 1)),
                "" if result is None else summary.mode,
                *("" if score is None else score, "" if normalised is None else normalised),
                *(str(run.path), reasons.get(id(run), run.reason)),
                "" if result is None else json.dumps(result["protocol"], sort_keys=True),
            ]
        )
    return csv_text(rows)


def statistics(block: Block) -> tuple[str, ...]:
    """Return the aggregates that apply to a block: no score exceeds an optimum."""
    return tuple(n for n in LABELS if n != "games_above" or block.reference == "human")


def column_name(variant: Variant) -> str:
    """Return the name of a variant, with its steps if fewer than the benchmark's."""
    if not cut_short(variant):
        return variant.name
    known = [steps for steps in variant.steps.values() if steps is not None]
    low, high = min(known), max(known)
    return f"{variant.name} ({low:,}{f' to {high:,}' if high > low else ''} steps)"


def number(value: float) -> str:
    """Return a number with at most four significant digits, as an integer from 1000 on."""
    if abs(value) >= 1000:
        return f"{value:.0f}"
    text = f"{value:.4g}"
    return "0" if text == "-0" else text


def interval(estimate: Estimate, digits: int) -> str:
    """Return ``value [low, high]``, or the value alone without an interval."""
    text = f"{estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"


def _number_cell(value: float) -> Cell:
    return Cell(number(value), value=value)


def _interval_cell(estimate: Estimate, digits: int) -> Cell:
    return Cell(interval(estimate, digits), value=estimate.value, more=_ends(estimate))


def _ends(estimate: Estimate) -> dict[str, float]:
    if estimate.low is None or estimate.high is None:
        return {}
    return {"low": estimate.low, "high": estimate.high}


def _score(variant: Variant, env_id: str, *, intervals: bool) -> Cell:
    values = variant.scores(env_id)
    if not values:
        return Cell()
    estimate = mean(values)
    text = number(estimate.value)
    ends = _ends(estimate)
    if intervals and ends:
        text += f" [{number(ends['low'])}, {number(ends['high'])}]"
    text += f" ({len(values)})"
    return Cell(text, value=estimate.value, more={**ends, "seeds": len(values)})


def _best(cells: Sequence[Cell], better: Callable[[list[float]], float] = max) -> list[Cell]:
    """Set the best values in bold if there are at least two values."""
    values = [cell.value for cell in cells if cell.value is not None]
    best = better(values) if len(values) > 1 else None
    return [replace(cell, bold=cell.value is not None and cell.value == best) for cell in cells]


def _aggregate_rows(
    block: Block, summary: Summary, shown: Sequence[Variant], references: int
) -> list[tuple[Cell, ...]]:
    part = len(block.env_ids) < len(summary.env_ids)
    over = f" ({len(block.env_ids)} of {len(summary.env_ids)} games)" if part else ""
    rows = []
    for statistic in statistics(block):
        cells = [Cell(f"{LABELS[statistic]}{over}"), *[Cell("")] * references]
        found = [block.published(label) for label in summary.published.values()]
        found += [block.variant(variant.name) for variant in shown]
        values = [None if r is None else getattr(r.numbers, statistic).value for r in found]
        digits = DIGITS[statistic]
        entries = [Cell() if v is None else Cell(f"{v:.{digits}f}", value=v) for v in values]
        cells += _best(entries, min if statistic == "optimality_gap" else max)
        rows.append(tuple(cells))
    return rows


def _score_notes(summary: Summary, shown: Sequence[Variant]) -> list[str]:
    notes = []
    if any(variant.runs for variant in shown):
        what = "mean over seeds of the mean return"
        brackets = "" if summary.atari else "; in brackets, the 95 % bootstrap interval"
        notes.append(
            f"Variants of this suite: {what} of the evaluation, number of seeds in "
            f"parentheses{brackets}. Bold: best of the row."
        )
    if absent := [variant.name for variant in summary.variants if not variant.runs]:
        notes.append(f"No results yet: {', '.join(absent)}.")
    if any(summary.published):
        notes.append(
            "Published columns, random and human scores: Drama paper, Table 1, rounded to whole "
            "points."
        )
    for variant in shown:
        if len(set(variant.steps.values())) > 1:
            notes.append(f"{variant.name} was trained for {steps_of(variant)} environment steps.")
        for steps, where in cut_short(variant).items():
            notes.append(
                f"{variant.name} stopped at {steps:,} environment steps{where}; the published "
                f"scores are after {ATARI100K_STEPS:,}."
            )
        notes += not_normalised(variant)
    notes += differences_between(summary) + differences_from_published(summary)
    if summary.blocks:
        block = summary.blocks[0]
        lacking = [v.name for v in shown if v.runs and block.variant(v.name) is None]
        games = ", ".join(game_name(env_id) for env_id in block.env_ids)
        if len(block.env_ids) < len(summary.env_ids):
            notes.append(
                f"Aggregates cover only {plural(len(block.env_ids), 'game')}, in every column: "
                f"{games}."
            )
        if lacking:
            notes.append(
                f"No aggregate in this table for {', '.join(lacking)}: some of these games are not "
                "finished or not normalised."
            )
    return notes


def _counts(aggregate: Aggregate) -> str:
    low, high = min(aggregate.runs.values()), max(aggregate.runs.values())
    return str(low) if low == high else f"{low} to {high}"
