"""Table of training costs: CPU hours, and score for each of them."""

from __future__ import annotations

import statistics

from drama.evaluation.aggregate import mean
from drama.report.runs import Run, game_name, reference_of
from drama.report.summary import Summary, Variant
from drama.report.table import Cell, Table
from drama.report.tables import number


def cost_table(summary: Summary) -> Table | None:
    """Return CPU hours and score per CPU hour by game and variant.

    Returns:
        The table, without runs whose CPU time is not recorded; None if no run has it.
    """
    rows = [
        row
        for env_id in summary.env_ids
        for variant in summary.variants
        if (row := _row(variant, env_id)) is not None
    ]
    if not rows:
        return None
    return Table(
        name="costs",
        title="Training costs",
        header=("Game", "Variant", "CPU hours", "Wall hours", "Score per CPU hour"),
        rows=tuple(rows),
        notes=(
            "Hours of training one run, without its evaluation: median over seeds. CPU hours count "
            "all threads, and on a GPU the host only.",
            "Score per CPU hour: mean return above that of the random policy, divided by the CPU "
            "hours; for games whose random policy is known.",
        ),
    )


def _row(variant: Variant, env_id: str) -> tuple[Cell, ...] | None:
    runs = variant.runs.get(env_id, ())
    cpu = [hours for run in runs if (hours := cpu_hours(run)) is not None]
    if not runs or len(cpu) < len(runs):
        return None
    hours, wall = statistics.median(cpu), statistics.median(run.seconds / 3600 for run in runs)
    reference = reference_of(env_id)
    rate = Cell()
    if reference is not None and hours > 0:
        value = (mean(variant.scores(env_id)).value - reference.floor) / hours
        rate = Cell(number(value), value=value)
    shown = (Cell(f"{each:.2f}", value=each) for each in (hours, wall))
    return (Cell(game_name(env_id)), Cell(variant.name), *shown, rate)


def cpu_hours(run: Run) -> float | None:
    """Return the CPU hours of a run's training; None if they are not recorded."""
    return None if run.cpu is None else float(run.cpu.seconds[-1]) / 3600
