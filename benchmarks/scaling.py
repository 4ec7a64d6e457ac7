"""Time and memory by sequence length, for every backbone at one width.

``python -m benchmarks.scaling`` writes ``docs/assets/performance/scaling.json`` and ``.png`` and
the block of ``docs/performance.md``. Each series is timed in a separate process, with batch 1, so
that the longest sequence fits into memory and the cost depends on T only.

**Training** is a forward and a backward pass of the backbone over T steps. Time is the median of
``--rounds`` passes, with alternating lengths (fewer passes for slow ones). Memory is the peak of
one pass in a new process, minus weights and input.

**Imagination** is T recurrent calls of ``step`` without gradients. One rollout gives the elapsed
time and the peak of memory at each T.

``transformer`` attends to its last ``context`` steps: the configured context, or ``context = T``,
full causal attention as in the comparison of the Drama paper. In the latter case every T is a
different model whose cache has full size from the first step, so that all steps cost the same:
``FULL_STEPS`` are timed and extrapolated to T. (A cache growing to T would need half the work.)

**Budget.** Lengths that are expected to need more than ``SECONDS`` or ``BYTES`` of memory,
extrapolated from the previous lengths, are not run and are listed in the result.

One file: measurement, fit, figure and table share the form of the measured points.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from benchmarks import measure
from benchmarks.measure import MIB, milliseconds
from drama.dynamics import DynamicsConfig, make_dynamics

SECONDS = 60.0
BYTES = 4096 * MIB
FIT_FROM = 512
"""Minimum length of slope fits; fixed costs dominate below it."""
TARGET = 1.1
RESOLUTION = MIB // 4
"""Resolution of resident memory in bytes: the kernel counts pages in batches."""
LENGTHS = tuple(64 * 2**k for k in range(9))
LAYERS = 2
FULL_STEPS = 16
"""Timed steps of a transformer with full attention."""

SERIES: dict[str, dict[str, Any]] = {
    "Mamba-2": {"name": "mamba2", "full": False},
    "Mamba-1": {"name": "mamba1", "full": False},
    "GRU": {"name": "gru", "full": False},
    "Transformer, window": {"name": "transformer", "full": False},
    "Transformer, full": {"name": "transformer", "full": True},
}

# --------------------------------------------------------------- work in separate processes


def build(name: str, width: int, full: bool, length: int) -> Any:
    """Return a backbone of two layers; with ``full``, attending to ``length`` steps."""
    torch.manual_seed(0)
    context = length if full else DynamicsConfig().context
    return make_dynamics(DynamicsConfig(name=name, width=width, layers=LAYERS, context=context))


def training_pass(name: str, width: int, full: bool, length: int) -> Callable[[], object]:
    """Return a forward and backward pass over one sequence."""
    model = build(name, width, full, length)
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(1, length, width, generator=generator) for _ in range(2))
    wanted = [x.requires_grad_(), *model.parameters()]
    return lambda: torch.autograd.grad(model(x)[0], wanted, dy)


def training_once(name: str, width: int, length: int, full: bool) -> dict[str, Any]:
    """Return peak memory and time of the first pass of a process."""
    training_pass(name, width, full, 2)()  # libraries load and threads start
    run = training_pass(name, width, full, length)
    meter = measure.PeakMemory()
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    return _point(length, seconds, meter.read(), seconds)


def training_times(
    name: str, width: int, lengths: Sequence[int], rounds: int, full: bool
) -> list[dict[str, float]]:
    """Return median and quartiles of the time of a pass by length, and the number of passes."""
    passes = {str(length): training_pass(name, width, full, length) for length in lengths}
    passes[str(lengths[0])]()
    samples = measure.interleaved(passes, rounds=rounds, warmup=0, budget_seconds=30.0, least=1)
    made = [samples[str(length)] for length in lengths]
    return [{**measure.spread(times), "rounds": len(times)} for times in made]


@torch.no_grad()
def imagination(name: str, width: int, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Return peak memory and time of one rollout at each length within the budget."""
    model = build(name, width, False, 1)
    list(rollout(model, width, [4]))  # libraries load and threads start
    points: list[dict[str, Any]] = []
    meter = measure.PeakMemory()
    marks = rollout(model, width, lengths)
    for length in lengths:
        if skipped := beyond_budget(points, length):
            points.append(skipped)
            break
        spent = next(marks)
        points.append(_point(length, spent, meter.read(), spent))
    return points


@torch.no_grad()
def imagination_full(name: str, width: int, length: int) -> dict[str, Any]:
    """Return the same for one length, extrapolated from a few steps with full attention."""
    list(rollout(build(name, width, True, 4), width, [4]))
    model, steps = build(name, width, True, length), min(FULL_STEPS, length)
    meter = measure.PeakMemory()
    [spent] = rollout(model, width, [steps])
    return _point(length, spent * length / steps, meter.read(), spent)


@torch.no_grad()
def rollout(model: Any, width: int, marks: Sequence[int]) -> Iterator[float]:
    """Step recurrently; yield the elapsed seconds at given numbers of steps."""
    state = model.init_state(1)
    x = torch.randn(1, width)
    taken, spent = 0, 0.0
    for mark in marks:
        began = time.perf_counter()
        for _ in range(taken, mark):
            x, state = model.step(x, state)
        spent += time.perf_counter() - began
        taken = mark
        yield spent


def series(
    mode: str, label: str, width: int, lengths: Sequence[int], rounds: int, threads: int
) -> list[dict[str, Any]]:
    """Return the points of a series within the budget, and the first beyond it."""
    backbone = {**SERIES[label], "width": width}
    full = backbone.pop("full")

    def child(function: str, **arguments: Any) -> Any:
        return measure.in_child(f"benchmarks.scaling:{function}", threads, **backbone, **arguments)

    if mode == "imagination" and not full:
        rolled: list[dict[str, Any]] = child("imagination", lengths=lengths)
        return rolled
    points: list[dict[str, Any]] = []
    for length in lengths:
        if skipped := beyond_budget(points, length):
            points.append(skipped)
            break
        # A fresh process each: what earlier passes leave in the heap changes where later ones put
        # their tensors.
        if mode == "imagination":
            points.append(child("imagination_full", length=length))
        else:
            points.append(child("training_once", for_memory=True, length=length, full=full))
    if mode == "training":
        done = _run(points)
        used = [point["length"] for point in done]
        times = child("training_times", lengths=used, rounds=rounds, full=full)
        for point, timed in zip(done, times, strict=True):
            point.update(seconds=timed["median"], timed=timed)
    return points


def beyond_budget(points: Sequence[dict[str, Any]], length: int) -> dict[str, Any] | None:
    """Return the expected cost of a length beyond the budget; None if it is within.

    Time and memory are taken to grow as they last did, though by no more than four times: what
    grows with the square of the length does not grow faster, and the first points are small enough
    for noise to look like growth.
    """
    if len(points) < 2:
        return None
    before, last = points[-2:]
    seconds, size, spent = (
        last[key] * min(last[key] / max(before[key], 1e-9), 4.0)
        for key in ("seconds", "bytes", "spent")
    )
    if spent <= SECONDS and size <= BYTES:
        return None
    return {**_point(length, seconds, size, spent), "skipped": True}


def _point(length: int, seconds: float, size: float, spent: float) -> dict[str, Any]:
    """Return a point of a series; ``spent`` is the measurement time of ``seconds``."""
    return {"length": length, "seconds": seconds, "bytes": round(size), "spent": spent}


def _run(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [point for point in points if not point.get("skipped")]


# ------------------------------------------------------------------------- interpretation


def slope(points: Sequence[dict[str, Any]], key: str, fit_from: int) -> float | None:
    """Return the exponent k of ``key ∝ T^k``: the least-squares slope on logarithmic axes.

    Points below ``fit_from`` and points that were not run do not count; None if fewer than three
    are left. Memory below ``RESOLUTION`` counts as that.
    """
    used = [point for point in _run(points) if point["length"] >= fit_from]
    if len(used) < 3:
        return None
    x = [math.log(point["length"]) for point in used]
    y = [math.log(max(point[key], RESOLUTION if key == "bytes" else 0)) for point in used]
    return statistics.linear_regression(x, y).slope


def summarise(label: str, points: list[dict[str, Any]], fit_from: int) -> dict[str, Any]:
    """Return a series with its slopes and whether they meet its target."""
    slopes = {key: slope(points, key, fit_from) for key in ("seconds", "bytes")}
    target = TARGET if label.startswith("Mamba") else None
    met = None
    if target is not None:
        met = all(value is not None and value <= target for value in slopes.values())
    return {"points": points, "slope": slopes, "target": target, "met": met}


COLOURS = {  # Okabe and Ito's, distinguishable for colour-blind readers; markers differ too
    "Mamba-2": ("#0072B2", "o"),
    "Mamba-1": ("#E69F00", "s"),
    "GRU": ("#009E73", "^"),
    "Transformer, window": ("#CC79A7", "D"),
    "Transformer, full": ("#D55E00", "v"),
}
UNITS = {"seconds": ("time, s", 1.0), "bytes": ("peak memory, MiB", MIB)}


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw time and memory of both modes; crosses are extrapolated points."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, grid = plt.subplots(2, 2, figsize=(6.4, 7.2), layout="constrained", sharex=True)
    for axes_of_mode, (mode, entries) in zip(grid, result["series"].items(), strict=True):
        for axes, (key, (unit, scale)) in zip(axes_of_mode, UNITS.items(), strict=True):
            for label, entry in entries.items():
                colour, mark = COLOURS[label]
                run = _run(entry["points"])
                axes.plot(
                    [p["length"] for p in run],
                    [p[key] / scale for p in run],
                    color=colour,
                    marker=mark,
                    markersize=5,
                    linewidth=1.5,
                    label=label,
                )
                ends = [run[-1], *entry["points"][len(run) :]]
                axes.plot(
                    [p["length"] for p in ends],
                    [p[key] / scale for p in ends],
                    color=colour,
                    linestyle=":",
                    linewidth=1.2,
                )
                axes.plot(
                    [p["length"] for p in ends[1:]],
                    [p[key] / scale for p in ends[1:]],
                    color=colour,
                    linestyle="none",
                    marker="x",
                    markersize=8,
                )
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_title(f"{mode}: {unit}", fontsize=12)
            axes.grid(color="0.9", linewidth=0.7)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=11)
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xticks([n for i, n in enumerate(result["lengths"]) if i % 2 == 0])
            axes.xaxis.set_major_formatter(FuncFormatter(_short))
    for axes in grid[1]:
        axes.set_xlabel("steps T", fontsize=12)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _short(length: float, _: object) -> str:
    return f"{length / 1024:.0f}k" if length >= 1024 else f"{length:.0f}"


def markdown(result: dict[str, Any]) -> str:
    """Return the block of ``docs/performance.md``."""
    lengths = result["lengths"]
    shown = [n for n in lengths if n >= result["fit_from"]]
    shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    parts = [
        measure.provenance(result),
        "![Time and peak memory by number of steps, on logarithmic axes, for training and "
        "imagination](assets/performance/scaling.png)",
    ]
    missed, not_run = [], []
    for mode, entries in result["series"].items():
        rows = []
        for label, entry in entries.items():
            points = {point["length"]: point for point in _run(entry["points"])}
            slopes = entry["slope"]
            rows.append(
                [
                    label,
                    *(_slope(slopes[key]) for key in ("seconds", "bytes")),
                    "" if entry["target"] is None else f"≤ {entry['target']:.1f}",
                    {None: "", True: "yes", False: "**no**"}[entry["met"]],
                    *(milliseconds(points[n]["seconds"]) if n in points else "" for n in shown),
                    *(f"{points[n]['bytes'] / MIB:.1f}" if n in points else "" for n in shown),
                ]
            )
            if entry["met"] is False:
                missed.append(f"{label}, {mode}")
            for point in entry["points"][len(points) :]:
                not_run.append(
                    f"{label}, {mode}, T = {point['length']} and longer (expected at that length: "
                    f"{point['spent']:.0f} s, {point['bytes'] / MIB:.0f} MiB)"
                )
        header = (
            "",
            "slope of time",
            "slope of memory",
            "target",
            "met",
            *(f"ms at {n}" for n in shown),
            *(f"MiB at {n}" for n in shown),
        )
        parts.append(f"**{mode.capitalize()}**\n\n{measure.table(header, rows)}")
    if not_run:
        budget = f"{result['budget']['seconds']:.0f} s or {result['budget']['bytes'] / MIB:.0f} MiB"
        parts.append(f"Not run (more than {budget} expected): {'; '.join(not_run)}.")
    parts.append(f"Missed targets: {'; '.join(missed)}." if missed else "All targets are met.")
    return "\n\n".join(parts)


def _slope(value: float | None) -> str:
    return "" if value is None else f"**{round(value, 2) + 0.0:.2f}**"  # no minus before a zero


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all series, draw and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=measure.physical_cores())
    parser.add_argument("--rounds", type=int, default=3, help="timed passes per length")
    parser.add_argument("--docs", type=Path, default=measure.DOCS, help="output directory")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for tests")
    args = parser.parse_args(argv)
    width, lengths, fit_from, labels = 512, LENGTHS, FIT_FROM, list(SERIES)
    if args.smoke:
        width, lengths, fit_from, labels = 128, (4, 8, 16), 4, ["Mamba-2"]

    result: dict[str, Any] = {
        "command": f"python -m benchmarks.scaling --threads {args.threads} --rounds {args.rounds}",
        "machine": measure.machine(args.threads),
        "width": width,
        "layers": LAYERS,
        "batch": 1,
        "lengths": lengths,
        "fit_from": fit_from,
        "budget": {"seconds": SECONDS, "bytes": BYTES},
        "series": {"training": {}, "imagination": {}},
    }
    for mode, entries in result["series"].items():
        for label in labels:
            points = series(mode, label, width, lengths, args.rounds, args.threads)
            entries[label] = summarise(label, points, fit_from)
            last = _run(points)[-1]
            print(
                f"{mode}, {label}, {last['length']} steps: {milliseconds(last['seconds'])} ms, "
                f"{last['bytes'] / MIB:.1f} MiB; slopes {entries[label]['slope']}",
                flush=True,
            )
    draw(result, args.docs / "assets" / "performance" / "scaling.png")
    measure.publish(args.docs, "scaling", result, markdown)


if __name__ == "__main__":
    main()
