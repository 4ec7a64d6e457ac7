"""The figures of a report, each as SVG and PNG, the same bytes from the same runs."""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from drama.evaluation.aggregate import Estimate, performance_profile
from drama.report.runs import Run, game_name, reference_of, running_mean
from drama.report.summary import OURS, Block, Summary
from drama.report.tables import LABELS, interval

Array = npt.NDArray[np.float64]

WIDTH = 5
"""Episodes in a running mean, as in the paper's curves."""
POINTS = 200
"""Points of a drawn curve."""
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A6240")
"""Okabe and Ito's colours, told apart by people with any kind of colour vision; brown in place of
their yellow, which is hard to see on white."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 1.5, 1, 1.5)), (0, (1.5, 1.2)))
"""Lines, so that variants can also be told apart in grey."""
GREY = "#6b6b6b"
STYLE = {
    "svg.hashsalt": "drama",
    "svg.fonttype": "path",
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "text.parse_math": False,  # a label may have a dollar in it
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "path.simplify": True,
}


@dataclass(frozen=True)
class Figure:
    """One drawn figure."""

    name: str
    """Stem of its files."""
    title: str
    caption: str
    """What one sees, for the reader."""
    alt: str
    """What it shows, for those who do not see it: the numbers in words."""
    svg: str
    png: bytes
    width: int
    """Natural width in CSS pixels."""
    height: int


@dataclass(frozen=True)
class Look:
    """How a variant is drawn in every figure."""

    colour: str
    dashes: Any


@dataclass(frozen=True)
class Curve:
    """Returns of one variant in one game against environment steps."""

    steps: Array
    """``(P,)``"""
    mean: Array
    """``(P,)``, over seeds."""
    low: Array
    """``(P,)``, the lowest seed."""
    high: Array
    """``(P,)``, the highest seed."""
    seeds: int


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Return one look for each name, the same for the same names in the same order."""
    return {
        # Once round the colours, the lines are shifted: a colour comes back with another line.
        name: Look(PALETTE[i % len(PALETTE)], DASHES[(i + i // len(PALETTE)) % len(DASHES)])
        for i, name in enumerate(names)
    }


def curve(runs: Sequence[Run], *, width: int = WIDTH, points: int = POINTS) -> Curve | None:
    """Mean, lowest and highest running mean of episodes over the seeds, on one grid of steps.

    At each step a seed counts with the running mean after its latest finished episode. The curve
    covers the steps at which every seed has one, from the latest first one to the earliest last
    one: nowhere does the set of seeds change.

    Args:
        runs: Seeds of one variant in one game; those with fewer than ``width`` episodes are left
            out.
        width: Episodes in a running mean.
        points: Points of the grid at most.

    Returns:
        The curve, or None if no seed has enough episodes or they share no step.
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


def draw_all(summary: Summary) -> list[Figure]:
    """Draw every figure for which there is something to draw, in the order of the page."""
    found = [
        *_curves(summary),
        *(_aggregates(summary, block, i) for i, block in enumerate(summary.blocks, 1)),
        _improvement(summary),
        *(_profile(summary, block, i) for i, block in enumerate(summary.blocks, 1)),
    ]
    return [figure for figure in found if figure is not None]


def ablations(summary: Summary) -> dict[str, list[str]]:
    """Group the variants by the part in which they depart from the first one.

    Returns:
        Names of the variants of each group, the first variant leading each; nothing if there is
        only one.
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
    """Name the part of the agent that some changed settings belong to."""
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


# -- curves ---------------------------------------------------------------------------------------


def _curves(summary: Summary) -> list[Figure | None]:
    groups = ablations(summary)
    first = summary.variants[0].name if summary.variants else ""
    figures = (
        [_curve_figure(summary, "curves", f"Learning curves: {first}", [first])] if first else []
    )
    for title, names in groups.items():
        stem = "ablation-" + title.lower().replace(" ", "-")
        figures.append(_curve_figure(summary, stem, f"Ablation: {title.lower()}", names))
    return figures


def _curve_figure(
    summary: Summary, name: str, title: str, variants: Sequence[str]
) -> Figure | None:
    style = looks([variant.name for variant in summary.variants])
    # The first variant may have played many games more than those compared here.
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
    said: list[str] = []
    drawn: set[tuple[str, str]] = set()
    unfinished = 0
    with _canvas((max(5.2, 3.1 * columns), 2.5 * rows + 0.7)) as canvas:
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
                    said.append(
                        f"{game_name(env_id)}, {variant}: {done.mean[-1]:.4g} after "
                        f"{done.steps[-1]:,.0f} steps ({done.seeds} "
                        f"seed{'s' * (done.seeds > 1)})"
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
        _legend(canvas, handles)
        ends = (
            f" A thin line that ends in a cross is an unfinished run ({unfinished} of them)."
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
            ends += f" Finished seeds of fewer than {WIDTH} episodes are not in it ({short})."
        for run in summary.runs:  # of games that none of the compared variants has played
            if run.env_id not in env_ids and _drawable(run, run.env_id, variants):
                drawn.add((run.env_id, run.variant))
        absent = _not_drawn(summary.env_ids, variants, drawn)
        return _figure(
            canvas,
            name,
            title,
            f"{title}: return of training episodes, running mean of {WIDTH}, against environment "
            "steps. Line: mean over the finished seeds; band: lowest to highest seed. Dotted: "
            f"random policy and {_top(env_ids)}, where they lie within the picture.{ends}{absent}",
            f"{title}. Last running means: "
            + ("; ".join(said) if said else "no run has finished")
            + (f". Unfinished runs drawn: {unfinished}" if unfinished else "")
            + f".{absent}",
        )


def _not_drawn(
    env_ids: Sequence[str], variants: Sequence[str], drawn: Collection[tuple[str, str]]
) -> str:
    """Say of which games and variants there is no curve."""
    absent = []
    for env_id in env_ids:
        lacking = [variant for variant in variants if (env_id, variant) not in drawn]
        if lacking:
            part = f" ({', '.join(lacking)})" if len(lacking) < len(variants) else ""
            absent.append(game_name(env_id) + part)
    if not absent:
        return ""
    return f" No curve yet, for want of episodes: {', '.join(absent)}."


def _drawable(run: Run, env_id: str, variants: Sequence[str]) -> bool:
    return (
        run.env_id == env_id
        and run.variant in variants
        and run.status in ("finished", "interrupted", "failed")
        and len(run.episodes.returns) >= WIDTH
    )


def _references(axes: Axes, env_id: str) -> None:
    """Dot the scores of reference where they are inside the picture already."""
    reference = reference_of(env_id)
    if reference is None:
        return
    low, high = axes.get_ylim()
    room = 0.12 * (high - low)
    for level in (reference.floor, reference.top):
        if low - room <= level <= high + room:
            axes.axhline(level, color=GREY, lw=0.9, ls=":", zorder=1)


def _top(env_ids: Sequence[str]) -> str:
    words = {"human": "human reference", "optimum": "best possible return"}
    names = dict.fromkeys(r.name for e in env_ids if (r := reference_of(e)) is not None)
    return " or ".join(words[name] for name in names) or "reference"


def _steps(value: float, _: int | None = None) -> str:
    """Steps in thousands where that is shorter."""
    if value >= 1000 and value % 100 == 0:
        return f"{value / 1000:g}k"
    return f"{value:g}"


# -- aggregates -----------------------------------------------------------------------------------


def _aggregates(summary: Summary, block: Block, number: int) -> Figure | None:
    style = looks([variant.name for variant in summary.variants])
    # Means over runs have no interval to show; the paper's own are there to compare with.
    ours = summary.published.get(OURS)
    rows = [row for row in block.rows if row.kind != "means" or row.method == ours]
    rows.reverse()  # the first on top
    names = [name for name in LABELS if name != "games_above"]
    with _canvas((10.4, 1.25 + 0.3 * len(rows))) as canvas:
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
            # Bars end at the frame unless it is moved: they count as sticky.
            ends = [end for e in estimates for end in (e.value, e.low, e.high) if end is not None]
            room = 0.06 * (max(ends) - min(ends)) or 0.1 * max(1.0, abs(max(ends)))
            axes.set_xlim(min(ends) - room, max(ends) + room)
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.xaxis.set_major_locator(MaxNLocator(3))
            axes.grid(axis="y", visible=False)
        grid[0].set_yticks(range(len(rows)), [row.method for row in rows])
        count = len(block.env_ids)
        canvas.supxlabel(f"{_unit(block)}-normalised score", fontsize=10)
        games = f"{count} game{'s' * (count > 1)}"
        return _figure(
            canvas,
            f"aggregates-{number}",
            f"Aggregate scores over {games}",
            f"Aggregates over {games}: {', '.join(game_name(e) for e in block.env_ids)}. Line: the "
            "statistic; bar: its 95 % stratified-bootstrap interval, which needs several runs of a "
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
    with _canvas((7.2, 1.2 + 0.34 * len(pairs))) as canvas:
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
        return _figure(
            canvas,
            "improvement",
            "Probability of improvement",
            "Probability that a run of the first scores above a run of the second on a game drawn "
            "at random, over the games that both have. Bar: 95 % stratified-bootstrap interval.",
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
    with _canvas((6.4, 3.4)) as canvas:
        axes = canvas.subplots()
        handles = {}
        said = []
        for name, runs in scores.items():
            look = style[name]
            found = performance_profile(runs, taus, resamples=1000)
            (handles[name],) = axes.plot(
                taus, found.share, color=look.colour, linestyle=look.dashes, lw=1.8
            )
            if found.low is not None and found.high is not None:
                axes.fill_between(taus, found.low, found.high, color=look.colour, alpha=0.15, lw=0)
            half = performance_profile(runs, [0.5], resamples=1).share[0]
            said.append(f"{name}: {100 * half:.0f} % of runs above 0.5")
        axes.set(xlabel=f"{_unit(block)}-normalised score", ylabel="share of runs above it")
        axes.set_ylim(-0.03, 1.03)
        _legend(canvas, handles)
        count = len(block.env_ids)
        return _figure(
            canvas,
            f"profile-{number}",
            f"Performance profile over {count} game{'s' * (count > 1)}",
            "Share of runs that score above each normalised score, every game counting the same. "
            "Band: pointwise 95 % bootstrap interval.",
            "Performance profile. " + "; ".join(said) + ".",
        )


def _unit(block: Block) -> str:
    return "human" if block.reference == "human" else "optimum"


# -- drawing --------------------------------------------------------------------------------------


@contextmanager
def _canvas(size: tuple[float, float]) -> Iterator[Canvas]:
    """A figure in our style, whatever the user's own settings are; no global state is kept."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)  # type: ignore[arg-type]
        yield Canvas(figsize=size, layout="constrained")


def _legend(canvas: Canvas, handles: Mapping[str, Any]) -> None:
    if len(handles) > 1:
        canvas.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper left",  # where a reader on a phone begins
            ncols=min(4, len(handles)),
        )


def _figure(canvas: Canvas, name: str, title: str, caption: str, alt: str) -> Figure:
    svg, png = io.StringIO(), io.BytesIO()
    canvas.draw_without_rendering()  # lays out once for both files
    canvas.set_layout_engine("none")
    # No date and no version: the same runs give the same bytes.
    canvas.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    canvas.savefig(png, format="png", dpi=160, metadata={"Software": None})
    width, height = canvas.get_size_inches()
    return Figure(
        name=name,
        title=title,
        caption=" ".join(caption.split()),
        alt=alt,
        svg=svg.getvalue(),
        png=png.getvalue(),
        width=round(96 * width),
        height=round(96 * height),
    )
