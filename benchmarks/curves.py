"""Learning curves of the results page, against environment steps or CPU hours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

from benchmarks.comparison import NAMES, baselines_of
from benchmarks.suites import POINTS, asked, thinned, width_of
from drama.report.drawing import looks
from drama.report.runs import reference_of

Array = npt.NDArray[np.float64]
Panels = dict[str, dict[str, list[dict[str, Any]]]]
"""Learning curves by game and label."""
AXES = {"step": "environment steps", "cpu_hours": "CPU hours"}
"""Columns of a curve that it may be drawn against."""
COLUMNS = 3
"""Maximum number of panels side by side."""


def panels_of(result: dict[str, Any], place: Path) -> Panels:
    """Return the learning curves of a suite, those of the baselines last."""
    return {
        env: {
            label: [r["curve"] for r in result["runs"] if (r["env"], r["variant"]) == (env, name)]
            for name, label in result["variants"].items()
        }
        | baseline_curves(env, place, asked(result, env))
        for env in result["games"]
    }


def baseline_curves(env: str, place: Path, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Return the learning curves of a game's baselines of so many steps."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, other in baselines_of(env, place, steps):
        for run in other["runs"]:
            episodes = run["episodes"]
            columns = (np.array(episodes[key]) for key in ("step", "return"))
            step, ret = thinned(*columns, width_of(env))
            curve: dict[str, Any] = {"step": step, "return": ret}
            if (cpu := run.get("cpu_seconds")) is not None:
                # Their updates are spread evenly over the run.
                curve["cpu_hours"] = [cpu / 3600 * s / run["environment_steps"] for s in step]
            found.setdefault(NAMES.get(name, name), []).append(curve)
    return found


def band(
    curves: Sequence[dict[str, list[float]]], by: str = "step"
) -> tuple[Array, Array, Array, Array]:
    """Return abscissa, mean, minimum and maximum of curves over their common range."""
    start = max(curve[by][0] for curve in curves)
    stop = min(curve[by][-1] for curve in curves)
    grid = np.linspace(start, max(start, stop), POINTS)
    values = np.stack([np.interp(grid, curve[by], curve["return"]) for curve in curves])
    return grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


def draw(panels: Panels, path: Path, by: str = "step") -> None:
    """Draw learning curves, one panel for each game: mean over seeds and their range.

    Args:
        panels: Learning curves by game and label.
        path: Output file.
        by: Abscissa, a name in :data:`AXES`; curves without this column are left out.
    """
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, grid_of_axes = plt.subplots(
        rows,
        columns,
        figsize=(4.6 * columns + 1.2, 3.2 * rows),
        layout="constrained",
        squeeze=False,
    )
    for axes in grid_of_axes.flat[len(panels) :]:
        axes.remove()
    style = looks(list(dict.fromkeys(label for panel in panels.values() for label in panel)))
    handles: dict[str, Any] = {}
    for axes, (env, panel) in zip(grid_of_axes.flat, panels.items(), strict=False):
        for label, curves in panel.items():
            curves = [curve for curve in curves if len(curve.get(by, ())) > 1]
            if not curves:
                continue
            grid, mean, low, high = band(curves, by)
            look = style[label]
            (handles[label],) = axes.plot(grid, mean, color=look.colour, ls=look.dashes, lw=1.5)
            axes.fill_between(grid, low, high, color=look.colour, alpha=0.15, lw=0)
        reference = reference_of(env)
        for level in () if reference is None else (reference.floor, reference.top):
            axes.axhline(level, color="grey", lw=0.8, ls=":")
        axes.set(xlabel=AXES[by], title=env)
        axes.title.set_fontsize(10)
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(f"training return, mean of {width_of(env)} episodes", fontsize=9)
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
