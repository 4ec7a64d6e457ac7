"""Figures of a report as SVG and PNG; the same runs give the same bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.ticker import MaxNLocator

from drama.evaluation.aggregate import performance_profile
from drama.evaluation.bootstrap import Estimate
from drama.report.curves import curve_figures
from drama.report.drawing import GREY, Figure, finished, legend, looks, new_canvas
from drama.report.runs import game_name
from drama.report.summary import OURS, Block, Summary
from drama.report.tables import LABELS, interval
from drama.text import plural


def draw_all(
    summary: Summary, progress: Callable[[str], object] = lambda text: None
) -> list[Figure]:
    """Draw every figure that has data, in the order of the page.

    Args:
        summary: Summary of the suite.
        progress: Called with the name of the next figure.
    """
    found = curve_figures(summary, progress)
    for i, block in enumerate(summary.blocks, 1):
        progress(f"drawing aggregates-{i}")
        found.append(_aggregates(summary, block, i))
    progress("drawing improvement")
    found.append(_improvement(summary))
    for i, block in enumerate(summary.blocks, 1):
        progress(f"drawing profile-{i}")
        found.append(_profile(summary, block, i))
    return [figure for figure in found if figure is not None]


def _aggregates(summary: Summary, block: Block, number: int) -> Figure | None:
    style = looks([variant.name for variant in summary.variants])
    # Methods with published means only have no interval; the paper's own is kept as a reference.
    ours = summary.published.get(OURS)
    rows = [row for row in block.rows if row.kind != "means" or row.method == ours]
    rows.reverse()  # the first row on top
    names = [name for name in LABELS if name != "games_above"]
    with new_canvas((10.4, 1.25 + 0.3 * len(rows))) as canvas:
        grid = canvas.subplots(1, len(names), sharey=True)
        for axes, name in zip(grid, names, strict=True):
            estimates: list[Estimate] = [getattr(row.numbers, name) for row in rows]
            for y, (row, estimate) in enumerate(zip(rows, estimates, strict=True)):
                colour = style[row.method].colour if row.kind == "variant" else GREY
                if estimate.low is not None and estimate.high is not None:
                    axes.barh(
                        y,
                        estimate.high - estimate.low,
                        left=estimate.low,
                        height=0.6,
                        color=colour,
                        alpha=0.35,
                        lw=0,
                    )
                axes.plot(
                    [estimate.value, estimate.value], [y - 0.3, y + 0.3], color=colour, lw=2.2
                )
            better = "lower" if name == "optimality_gap" else "higher"
            axes.set_title(f"{LABELS[name]}\n({better} is better)", fontsize=9)
            # Matplotlib adds no margin at the ends of bars.
            ends = [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
            margin = 0.06 * (max(ends) - min(ends)) or 0.1 * max(1.0, abs(max(ends)))
            axes.set_xlim(min(ends) - margin, max(ends) + margin)
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.grid(axis="y", visible=False)
        grid[0].set_yticks(range(len(rows)), [row.method for row in rows])
        count = len(block.env_ids)
        canvas.supxlabel(f"{_unit(block)}-normalised score", fontsize=10)
        games = plural(count, "game")
        return finished(
            canvas,
            f"aggregates-{number}",
            f"Aggregate scores over {games}",
            f"Aggregates over {games}: {', '.join(game_name(e) for e in block.env_ids)}. Line: the "
            "statistic; bar: 95 % stratified-bootstrap interval, which needs several runs per "
            "game. "
            + ("Grey: published scores." if any(r.kind != "variant" for r in rows) else ""),
            f"Aggregates over {games}. "
            + "; ".join(
                f"{row.method}: mean {interval(row.numbers.mean, 3)}, median "
                f"{interval(row.numbers.median, 3)}, IQM {interval(row.numbers.iqm, 3)}, "
                f"optimality gap {interval(row.numbers.optimality_gap, 3)}"
                for row in block.rows
                if row in rows
            )
            + ".",
        )


def _improvement(summary: Summary) -> Figure | None:
    if not summary.pairs:
        return None
    pairs = summary.pairs[::-1]
    style = looks([variant.name for variant in summary.variants])
    with new_canvas((7.2, 1.2 + 0.34 * len(pairs))) as canvas:
        axes = canvas.subplots()
        axes.axvline(0.5, color=GREY, lw=1, ls="--")
        for y, pair in enumerate(pairs):
            estimate = pair.improvement.probability
            look = style.get(pair.other)
            colour = look.colour if look is not None else GREY
            if estimate.low is not None and estimate.high is not None:
                axes.barh(
                    y,
                    estimate.high - estimate.low,
                    left=estimate.low,
                    height=0.6,
                    color=colour,
                    alpha=0.35,
                    lw=0,
                )
            axes.plot([estimate.value] * 2, [y - 0.3, y + 0.3], color=colour, lw=2.2)
        axes.set_yticks(range(len(pairs)), [f"{pair.method} > {pair.other}" for pair in pairs])
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.6, len(pairs) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("probability of improvement")
        return finished(
            canvas,
            "improvement",
            "Probability of improvement",
            "Probability that a run of the first method scores above a run of the second on a "
            "random game, over their common games. Bar: 95 % stratified-bootstrap interval.",
            "Probability of improvement. "
            + "; ".join(
                f"{p.method} over {p.other}: {interval(p.improvement.probability, 2)}, "
                f"{len(p.improvement.games)} games"
                for p in summary.pairs
            )
            + ".",
        )


def _profile(summary: Summary, block: Block, number: int) -> Figure | None:
    style = looks([variant.name for variant in summary.variants])
    variants = [v for v in summary.variants if block.variant(v.name) is not None]
    scores = {v.name: v.normalised(block.env_ids) for v in variants}
    everything = [s for runs in scores.values() for values in runs.values() for s in values]
    if len(everything) < 2:
        return None
    low, high = min(0.0, *everything), max(1.0, *everything)
    taus = np.linspace(low, min(high, 8.0), 161)
    with new_canvas((6.4, 3.4)) as canvas:
        axes = canvas.subplots()
        handles = {}
        shares = []
        for name, runs in scores.items():
            look = style[name]
            found = performance_profile(runs, taus, resamples=1000)
            (handles[name],) = axes.plot(
                taus, found.share, color=look.colour, linestyle=look.dashes, lw=1.8
            )
            if found.low is not None and found.high is not None:
                axes.fill_between(taus, found.low, found.high, color=look.colour, alpha=0.15, lw=0)
            half = performance_profile(runs, [0.5], resamples=1).share[0]
            shares.append(f"{name}: {100 * half:.0f} % of runs above 0.5")
        axes.set(xlabel=f"{_unit(block)}-normalised score", ylabel="share of runs above it")
        axes.set_ylim(-0.03, 1.03)
        legend(canvas, handles)
        count = len(block.env_ids)
        return finished(
            canvas,
            f"profile-{number}",
            f"Performance profile over {plural(count, 'game')}",
            "Share of runs above each normalised score; every game has the same weight. "
            "Band: pointwise 95 % bootstrap interval.",
            "Performance profile. " + "; ".join(shares) + ".",
        )


def _unit(block: Block) -> str:
    return "human" if block.reference == "human" else "optimum"
