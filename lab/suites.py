"""Tables of whole suites in the log: ``python -m lab.suites [SUITE ...]``.

Condenses each suite directory to ``lab/assets/suite-NAME.json``, as ``benchmarks.results`` does for
the suites of the results page, whose files are read too. Then writes the blocks ``suite-NAME`` of
``lab/log.md`` and their figures from these files and the baselines.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import measure
from benchmarks.comparison import NAMES, at_its_best, baselines_of, interval, published_of
from benchmarks.curves import draw, panels_of
from benchmarks.results import RESULTS
from benchmarks.suites import asked, finished, made, update, width_of

from drama.report.runs import reference_of, running_mean
from lab import LAB, LOG


def score_table(result: dict[str, Any], place: Path) -> str:
    """Evaluation of every variant on every game, with sampled actions where they were evaluated."""
    header = ("", "mean", "95 % interval", "each seed", "steps", "minutes a run")
    parts = []
    for env in result["games"]:
        rows = []
        for variant, label in result["variants"].items():
            runs = finished(result, env, variant)
            open_ = sum(r["env"] == env and r["variant"] == variant for r in result["runs"])
            open_ -= len(runs)
            if runs:
                took = float(np.median([run["seconds"] / 60 for run in runs]))
                for mode, how in (("greedy", ""), ("sampled", ", sampled actions")):
                    if all(mode in run["evaluation"] for run in runs):
                        means = [run["evaluation"][mode]["mean"] for run in runs]
                        rows.append(score_row(label + how, means, made(runs), took))
            if open_:
                rows.append((label, "", "", f"{open_} not finished", "", ""))
        for name, other in baselines_of(env, place, asked(result, env)):
            how, means = at_its_best(other)
            minutes = [run["wall_seconds"] / 60 for run in other["runs"]]
            label, steps = NAMES.get(name, name) + how, f"{other['steps']:,}"
            rows.append(score_row(label, means, steps, float(np.median(minutes))))
        reference = reference_of(env)
        if reference is not None:
            rows.append(("random policy", f"{reference.floor:.2f}", "", "", "", ""))
            rows.append((reference.name, f"{reference.top:.2f}", "", "", "", ""))
        rows += [
            (f"{method}, published", f"{score:.2f}", "", "", "100,000", "")
            for method, score in published_of(env)
        ]
        parts.append(f"**{env}**\n\n{measure.table(header, rows)}")
    return "\n\n".join(parts)


def score_row(label: str, means: Sequence[float], steps: str, minutes: float) -> tuple[str, ...]:
    low, high = interval(means)
    # One seed gives no interval.
    between = f"{low:.2f} to {high:.2f}" if len(means) > 1 else ""
    each = ", ".join(f"{mean:.2f}" for mean in means)
    mean = f"**{np.mean(means):.2f}**"
    return (label, mean, between, each, steps, f"{minutes:.0f}")


def reach_table(result: dict[str, Any], place: Path) -> str:
    """Steps at which variants reach the final training return of a baseline; empty without any.

    The ratio is to the steps at which the baseline first reached it, so that steps of a baseline
    after its plateau do not count.
    """
    rows = []
    for env in result["games"]:
        for name, other in baselines_of(env, place, asked(result, env)):
            level, took = where_it_ended(other, width_of(env))
            if took is None:
                continue
            for variant, label in result["variants"].items():
                curves = [
                    run["curve"]
                    for run in result["runs"]
                    if run["env"] == env and run["variant"] == variant and run["curve"]["step"]
                ]
                if not curves:
                    continue
                found = [steps_to_reach(curve, level) for curve in curves]
                reached = [step for step in found if step is not None]
                each = ", ".join("not reached" if s is None else f"{s:,}" for s in found)
                ratio = f"{np.median(reached) / took:.2f}" if reached else "none"
                if 0 < len(reached) < len(found):
                    ratio += f" ({len(reached)} of {len(found)} seeds)"
                their = f"{took:,.0f}"
                rows.append((env, NAMES.get(name, name), f"{level:.2f}", their, label, each, ratio))
    if not rows:
        return ""
    header = ("", "baseline", "last return", "its steps", "agent", "steps", "ratio")
    title = "Steps to reach the training return with which a baseline ended"
    return f"**{title}**\n\n{measure.table(header, rows)}"


def steps_to_reach(curve: dict[str, list[float]], level: float) -> int | None:
    """First step at which a learning curve is at ``level`` or above; None if it never is."""
    return next(
        (int(s) for s, r in zip(curve["step"], curve["return"], strict=True) if r >= level), None
    )


def where_it_ended(other: dict[str, Any], width: int) -> tuple[float, float | None]:
    """Mean final return of a baseline's seeds, and the median step at which each first reached it.

    The step is None if no seed has enough episodes.
    """
    lasts, took = [], []
    for run in other["runs"]:
        means = running_mean(np.array(run["episodes"]["return"], float), width)
        if len(means):
            lasts.append(float(means[-1]))
            took.append(run["episodes"]["step"][width - 1 + int(np.argmax(means >= means[-1]))])
    return (float(np.mean(lasts)), float(np.median(took))) if took else (0.0, None)


def provenance(result: dict[str, Any]) -> str:
    """Command, machine and versions."""
    machines = [run["machine"] for run in result["runs"] if run["machine"]["torch"]]

    if not machines:
        return f"`{result['command']}`: no run has begun."

    def all_of(key: str) -> str:
        return " and ".join(sorted({str(machine[key]) for machine in machines}))

    return (
        f"`{result['command']}`: {all_of('device_name')}, threads a run: {all_of('threads')}, "
        f"{all_of('precision')}, python {all_of('python')}, torch {all_of('torch')}."
    )


def markdown(result: dict[str, Any], place: Path, picture: str) -> str:
    """The block of one suite."""
    return "\n\n".join(
        part
        for part in (
            provenance(result),
            f"![Learning curves: {result['title']}]({picture})",
            score_table(result, place),
            reach_table(result, place),
        )
        if part
    )


def blocks(page: Path) -> list[str]:
    """Names of the blocks of ``page`` that this script writes."""
    return re.findall(r"<!-- begin suite-([\w.-]+) -->", page.read_text(encoding="utf-8"))


def render(lab: Path) -> None:
    """Rewrite every block of the log whose file of numbers exists."""
    for name in blocks(lab / LOG):
        place = lab / "assets"
        path = find(name, place)
        if path is None:
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        picture = place / f"suite-{name}.png"
        draw(panels_of(result, RESULTS), picture)
        block = markdown(result, RESULTS, f"assets/{picture.name}")
        measure.replace_block(lab / LOG, f"suite-{name}", block)


def find(name: str, place: Path) -> Path | None:
    """Return the file of a suite, of the log or of the results page; None if neither has it."""
    paths = (place / f"suite-{name}.json", RESULTS / f"suite-{name}.json")
    return next((path for path in paths if path.is_file()), None)


def main(argv: Sequence[str] | None = None) -> None:
    """Condense suites, rewrite their blocks of the log."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", type=Path, help="directories of suites to condense")
    parser.add_argument(
        "--keep", action="store_true", help="keep runs of the file that the suite lacks"
    )
    parser.add_argument("--lab", type=Path, default=LAB, help="directory of the log")
    args = parser.parse_args(argv)
    place = args.lab / "assets"
    place.mkdir(parents=True, exist_ok=True)
    update(args.suites, place, keep=args.keep, experiments="lab/experiments")
    render(args.lab)


if __name__ == "__main__":
    main()
