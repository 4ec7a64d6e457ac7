"""Learning curves: the first variant, and ablations that change one component of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from drama.report.drawing import GREY, Figure, finished, legend, looks, new_canvas
from drama.report.runs import Run, game_name, reference_of, running_mean
from drama.report.summary import Summary
from drama.text import plural

Array = npt.NDArray[np.float64]

WIDTH = 5
"""Window of the running mean in episodes, as in the paper's curves."""
POINTS = 200
"""Maximum number of points of a curve."""


@dataclass(frozen=True)
class Curve:
    """Return against environment steps of one variant on one game."""

    steps: Array
    """``(P,)``, environment steps."""
    mean: Array
    """``(P,)``, mean over seeds."""
    low: Array
    """``(P,)``, lowest seed."""
    high: Array
    """``(P,)``, highest seed."""
    seeds: int


def curve_figures(
    summary: Summary, progress: Callable[[str], object] = lambda text: None
) -> list[Figure | None]:
    """Draw the first variant alone, and each group of :func:`ablations` compared with it.

    Args:
        summary: Summary of the suite.
        progress: Called with the name of the next figure.
    """
    groups = ablations(summary)
    first = summary.variants[0].name if summary.variants else ""
    figures: list[Figure | None] = []
    if first:
        progress("drawing curves")
        figures.append(_curve_figure(summary, "curves", f"Learning curves: {first}", [first]))
    for title, names in groups.items():
        stem = "ablation-" + title.lower().replace(" ", "-")
        progress(f"drawing {stem}")
        figures.append(_curve_figure(summary, stem, f"Ablation: {title.lower()}", names))
    return figures


def _curve_figure(
    summary: Summary, name: str, title: str, variants: Sequence[str]
) -> Figure | None:
    style = looks([variant.name for variant in summary.variants])
    # The first variant may have run on more games than the ablations.
    compared = variants[1:] or variants
    env_ids = [
        env_id
        for env_id in summary.env_ids
        if any(_drawable(run, env_id, compared) for run in summary.runs)
    ]
    if not env_ids:
        return None
    columns = min(len(env_ids), 3 if len(env_ids) in (5, 6) else 4)
    rows = math.ceil(len(env_ids) / columns)
    finals: list[str] = []
    drawn: set[tuple[str, str]] = set()
    unfinished = 0
    with new_canvas((max(5.2, 3.1 * columns), 2.5 * rows + 0.7)) as canvas:
        grid = canvas.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(env_ids) :]:
            axes.remove()
        handles: dict[str, Any] = {}
        for env_id, axes in zip(env_ids, grid.flat, strict=False):
            for variant in variants:
                runs = [run for run in summary.runs if _drawable(run, env_id, (variant,))]
                look = style[variant]
                done = curve([run for run in runs if run.status == "finished"])
                if done is not None:
                    (line,) = axes.plot(
                        done.steps, done.mean, color=look.colour, linestyle=look.dashes, lw=1.8
                    )
                    handles.setdefault(variant, line)
                    drawn.add((env_id, variant))
                    if done.seeds > 1:
                        axes.fill_between(
                            done.steps, done.low, done.high, color=look.colour, alpha=0.18, lw=0
                        )
                    finals.append(
                        f"{game_name(env_id)}, {variant}: {done.mean[-1]:.4g} after "
                        f"{done.steps[-1]:,.0f} steps "
                        f"({plural(done.seeds, 'seed')})"
                    )
                for run in runs:
                    if run.status != "finished" and (part := curve([run])) is not None:
                        unfinished += 1
                        (line,) = axes.plot(
                            part.steps, part.mean, color=look.colour, lw=0.8, alpha=0.8
                        )
                        axes.plot(part.steps[-1:], part.mean[-1:], "x", color=look.colour, ms=6)
                        handles.setdefault(variant, line)
                        drawn.add((env_id, variant))
            _references(axes, env_id)
            axes.set_title(game_name(env_id))
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.xaxis.set_major_formatter(_steps)
            axes.set_xlim(left=0)
        canvas.supxlabel("environment steps", fontsize=10)
        canvas.supylabel(f"return, mean of {WIDTH} episodes", fontsize=10)
        legend(canvas, handles)
        ends = (
            f" Thin line with a cross at its end: unfinished run ({unfinished} of them)."
            if unfinished
            else ""
        )
        short = sum(
            run.status == "finished"
            and (run.env_id, run.variant) in drawn
            and len(run.episodes.returns) < WIDTH
            for run in summary.runs
            if run.variant in variants
        )
        if short:
            ends += f" Excluded: finished seeds with fewer than {WIDTH} episodes ({short})."
        for run in summary.runs:  # games that no compared variant has run on
            if run.env_id not in env_ids and _drawable(run, run.env_id, variants):
                drawn.add((run.env_id, run.variant))
        absent = _not_drawn(summary.env_ids, variants, drawn)
        return finished(
            canvas,
            name,
            title,
            f"{title}: return of training episodes, running mean of {WIDTH}, against environment "
            "steps. Line: mean over the finished seeds; band: lowest to highest seed. Dotted: "
            f"random policy and {_top(env_ids)}, if within the axes.{ends}{absent}",
            f"{title}. Last running means: "
            + ("; ".join(finals) if finals else "no run has finished")
            + (f". Unfinished runs drawn: {unfinished}" if unfinished else "")
            + f".{absent}",
        )


def _not_drawn(
    env_ids: Sequence[str], variants: Sequence[str], drawn: Collection[tuple[str, str]]
) -> str:
    """Return a sentence on games and variants without a curve."""
    absent = []
    for env_id in env_ids:
        lacking = [variant for variant in variants if (env_id, variant) not in drawn]
        if lacking:
            part = f" ({', '.join(lacking)})" if len(lacking) < len(variants) else ""
            absent.append(game_name(env_id) + part)
    if not absent:
        return ""
    return f" No curve yet, too few episodes: {', '.join(absent)}."


def _drawable(run: Run, env_id: str, variants: Sequence[str]) -> bool:
    return (
        run.env_id == env_id
        and run.variant in variants
        and run.status in ("finished", "interrupted", "failed")
        and len(run.episodes.returns) >= WIDTH
    )


def _references(axes: Axes, env_id: str) -> None:
    """Draw dotted lines at the reference scores that lie within the axes."""
    reference = reference_of(env_id)
    if reference is None:
        return
    low, high = axes.get_ylim()
    margin = 0.12 * (high - low)
    for level in (reference.floor, reference.top):
        if low - margin <= level <= high + margin:
            axes.axhline(level, color=GREY, lw=0.9, ls=":", zorder=1)


def _top(env_ids: Sequence[str]) -> str:
    words = {"human": "human reference", "optimum": "best possible return"}
    names = dict.fromkeys(r.name for e in env_ids if (r := reference_of(e)) is not None)
    return " or ".join(words[name] for name in names) or "reference"


def _steps(value: float, _: int | None = None) -> str:
    """Return a step count, in thousands if that is shorter."""
    if value >= 1000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:g}"


def curve(runs: Sequence[Run], *, width: int = WIDTH, points: int = POINTS) -> Curve | None:
    """Compute mean, lowest and highest running mean over seeds on one grid of steps.

    Each seed contributes the running mean after its latest finished episode. The curve covers the
    steps at which every seed has one, so the set of seeds is the same everywhere.

    Args:
        runs: Seeds of one variant on one game; seeds with fewer than ``width`` episodes are
            excluded.
        width: Window of the running mean in episodes.
        points: Maximum number of grid points.

    Returns:
        The curve, or None if no seed has enough episodes or the seeds share no step.
    """
    found = []
    for run in runs:
        means = running_mean(run.episodes.returns, width)
        if len(means):
            found.append((run.episodes.steps[width - 1 :], means))
    if not found:
        return None
    start, stop = max(s[0] for s, _ in found), min(s[-1] for s, _ in found)
    if start > stop:
        return None
    grid = np.unique(np.concatenate([s[(s >= start) & (s <= stop)] for s, _ in found]))
    if len(grid) > points:
        grid = np.linspace(start, stop, points)
    values = np.stack([m[np.searchsorted(s, grid, side="right") - 1] for s, m in found])
    return Curve(grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0), len(found))


def ablations(summary: Summary) -> dict[str, list[str]]:
    """Group the variants by the component in which they differ from the first one.

    Returns:
        Variant names by group, the first variant leading each; empty with a single variant.
    """
    groups: dict[str, list[str]] = {}
    if len(summary.variants) < 2:
        return groups
    first, *others = (variant.name for variant in summary.variants)
    for name in others:
        settings = [text.split(" ")[0] for text in summary.differences.get(name, ())]
        groups.setdefault(_part(settings), [first]).append(name)
    return groups


def _part(settings: Sequence[str]) -> str:
    """Return the component of the agent that the changed settings belong to."""
    parts = (
        ("world_model.dynamics.name", "Sequence model"),
        ("behaviour.algorithm", "Behaviour"),
        ("world_model.filters", "Model size"),
        ("world_model.dynamics.", "Model size"),
        ("world_model.", "World model"),
        ("replay.", "Replay sampling"),
        ("behaviour.", "Behaviour"),
    )
    for prefix, name in parts:
        if any(setting.startswith(prefix) for setting in settings):
            return name
    return "Other variants"
