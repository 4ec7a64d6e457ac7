"""Sections of the results page for the built-in suites, written once a suite has results.

Scores are greedy evaluations at the end of a run. Baselines are those of ``benchmarks.baselines``
at the same steps, in the better of their two evaluation modes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure
from benchmarks.comparison import (
    NAMES,
    at_its_best,
    baselines_of,
    interval,
    published_line,
    random_return,
)
from benchmarks.curves import AXES, Panels, draw, panels_of
from benchmarks.suites import asked, finished, made, shared_settings
from benchmarks.tables import Row, table
from drama.evaluation.aggregate import aggregate
from drama.evaluation.bootstrap import Estimate
from drama.report.runs import reference_of
from drama.suite import BUILT_IN, load_spec

SUITES = ("small", "atari-laptop")
"""Built-in suites with a section."""
DQN = "SB3 DQN"
"""Baseline whose mean return divides those of MinAtar's games, which have no reference score."""
UNITS = {
    "optimum": "0 is the random policy, 1 the best return",
    "human": "0 is the random policy, 1 the human reference",
    DQN: f"MinAtar: return divided by {DQN}'s mean return",
}
"""How scores are normalised, by reference."""


class Scores(NamedTuple):
    """Results of one agent on one game."""

    env: str
    agent: str
    steps: str
    means: Sequence[float]
    """Mean evaluation return of each seed."""
    cpu_hours: float | None
    """Median over seeds; None if not recorded."""


def load(name: str, place: Path) -> dict[str, Any] | None:
    """Return the condensed suite if one of its runs is evaluated, else None."""
    path = place / f"suite-{name}.json"
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result if any("greedy" in run["evaluation"] for run in result["runs"]) else None


def rows_of(name: str, place: Path) -> list[Row]:
    """Return the rows of a suite in the README: its games and variants with results."""
    if (result := load(name, place)) is None:
        return []
    return [
        Row(name, variant, env)
        for env in result["games"]
        for variant in result["variants"]
        if finished(result, env, variant)
    ]


def scores_of(result: dict[str, Any], place: Path) -> list[Scores]:
    """Return the results of every variant and baseline, by game."""
    found = []
    for env in result["games"]:
        mine = []
        for variant, label in result["variants"].items():
            if runs := finished(result, env, variant):
                means = [run["evaluation"]["greedy"]["mean"] for run in runs]
                mine.append(Scores(env, label, made(runs), means, cpu_hours(runs)))
        if not mine:
            continue
        found += mine
        for name, other in baselines_of(env, place, asked(result, env)):
            how, means = at_its_best(other)
            steps = f"{other['steps']:,}"
            label = NAMES.get(name, name) + how
            found.append(Scores(env, label, steps, means, cpu_hours(other["runs"])))
    return found


def cpu_hours(runs: Iterable[dict[str, Any]]) -> float | None:
    """Return the median CPU time of some runs; None if one lacks it."""
    seconds = [run.get("cpu_seconds") for run in runs]
    return None if None in seconds else float(np.median(np.array(seconds, float))) / 3600


def score_table(scores: Sequence[Scores], place: Path) -> str:
    """Return scores, intervals and costs per game, ours first."""
    header = (
        *("task", "agent", "steps", "return", "95 % interval", "seeds"),
        *("CPU hours", "per CPU hour"),
    )
    rows = []
    for env in dict.fromkeys(score.env for score in scores):
        group = [score for score in scores if score.env == env]
        best = max(float(np.mean(score.means)) for score in group)
        floor = random_return(env, place)
        for score in group:
            mean, (low, high) = float(np.mean(score.means)), interval(score.means)
            hours, rate = score.cpu_hours, ""
            if hours and floor is not None:
                rate = f"{(mean - floor) / hours:.3g}"
            rows.append(
                (
                    *(env, score.agent, score.steps),
                    f"**{mean:.2f}**" if mean == best else f"{mean:.2f}",
                    # One seed gives no interval.
                    f"{low:.2f} to {high:.2f}" if len(score.means) > 1 else "",
                    str(len(score.means)),
                    "" if hours is None else f"{hours:.2f}",
                    rate,
                )
            )
        if floor is not None:
            rows.append((env, "random policy", "", f"{floor:.2f}", "", "", "", ""))
    return measure.table(header, rows)


def aggregate_table(scores: Sequence[Scores]) -> str:
    """Return the interquartile means of normalised scores, one row per reference and agent."""
    rows = []
    for unit, explained in UNITS.items():
        normalised = normalise(scores, unit)
        games = list(dict.fromkeys(env for runs in normalised.values() for env in runs))
        for agent, runs in normalised.items():
            if agent == unit or len(games) < 2 or len(runs) < len(games):
                continue  # aggregates compare agents on the same games
            found = aggregate(runs)
            rows.append(
                (
                    explained,
                    str(len(games)),
                    agent,
                    f"**{found.iqm.value:.2f}**",
                    between(found.iqm),
                    f"{found.mean.value:.2f}",
                    between(found.mean),
                )
            )
    header = ("normalised score", "games", "agent", "IQM", "95 % interval", "mean", "95 % interval")
    return measure.table(header, rows) if rows else ""


def between(estimate: Estimate) -> str:
    """Return the interval of an estimate; empty if it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def normalise(scores: Sequence[Scores], unit: str) -> dict[str, dict[str, list[float]]]:
    """Return the normalised scores by agent and game, of the games that have this reference."""
    divisors = {s.env: float(np.mean(s.means)) for s in scores if plain(s.agent) == DQN}
    found: dict[str, dict[str, list[float]]] = {}
    for score in scores:
        reference = reference_of(score.env)
        if reference is not None and reference.name == unit:
            values = [reference.normalise(mean) for mean in score.means]
        elif unit == DQN and score.env.startswith("MinAtar/") and divisors.get(score.env, 0) > 0:
            values = [mean / divisors[score.env] for mean in score.means]
        else:
            continue
        found.setdefault(plain(score.agent), {})[score.env] = values
    return found


def plain(agent: str) -> str:
    """Return an agent's label without its evaluation mode."""
    return agent.removesuffix(", sampled actions")


def changed(result: dict[str, Any]) -> str:
    """Return a sentence on settings that the built-in suite no longer has; empty if it has all."""
    spec = load_spec(result["suite"])
    found = []
    for variant in spec.variants:
        old = result["settings"].get(variant.name)
        now = shared_settings(spec.config(variant, spec.games[0], spec.seeds[0]), spec)
        if old is None:
            continue
        names = sorted(k for k in old.keys() | now.keys() if old.get(k) != now.get(k))
        names = [name for name in names if name != "steps"]  # shown in the table
        if names:
            found.append(f"`{variant.preset}` has changed since in {', '.join(names)}")
    return f"Measured before the last change: {'; '.join(found)}." if found else ""


def pictures(name: str) -> dict[str, str]:
    """Return the file names of a suite's figures by their abscissa."""
    return {"step": f"{name}.png", "cpu_hours": f"{name}-hours.png"}


def drawable(result: dict[str, Any], place: Path, by: str) -> Panels:
    """Return the learning curves of the games on which a variant has one with this abscissa."""
    ours = list(result["variants"].values())
    return {
        env: panel
        for env, panel in panels_of(result, place).items()
        if any(len(curve.get(by, ())) > 1 for label in ours for curve in panel[label])
    }


def draw_all(name: str, place: Path) -> None:
    """Draw the figures of a suite, if it has results."""
    if (result := load(name, place)) is not None:
        for by, file in pictures(name).items():
            if panels := drawable(result, place, by):
                draw(panels, place / file, by)


def provenance(result: dict[str, Any]) -> str:
    """Return the commands of a section, then machine and versions of its runs."""
    machines = [run["machine"] for run in result["runs"] if run["machine"]["torch"]]

    def all_of(key: str) -> str:
        return " and ".join(sorted({str(machine[key]) for machine in machines}))

    name = result["suite"]
    commands = (
        result["command"],
        f"python -m benchmarks.baselines --suite {name}",
        f"python -m benchmarks.results suites/{name}",
    )
    return (
        "```\n" + "\n".join(commands) + "\n```\n\n"
        f"{all_of('device_name')}, threads per run: {all_of('threads')}, {all_of('precision')}, "
        f"Python {all_of('python')}, torch {all_of('torch')}."
    )


def markdown(name: str, place: Path) -> str:
    """Return the section of a suite with its heading; empty without results."""
    if (result := load(name, place)) is None:
        return ""
    assert name in BUILT_IN
    scores = scores_of(result, place)
    presets = ", ".join(f"`{v.preset}`" for v in load_spec(name).variants)
    total = len(result["runs"])
    done = sum("greedy" in run["evaluation"] for run in result["runs"])
    parts = [
        f"## {result['title']}",
        f"Preset {presets} on every task, no other setting. CPU hours: training of one run, median "
        "over seeds. Per CPU hour: return above the random policy's, divided by these hours."
        + (f" {done} of {total} runs are evaluated." if done < total else ""),
        changed(result),
        table(place, rows_of(name, place)),
        "Every agent, with the cost of its training:",
        score_table(scores, place),
        aggregate_table(scores),
        published_line(list(dict.fromkeys(score.env for score in scores))),
        *(
            f"![Return against {AXES[by]}: {result['title']}](assets/results/{file})"
            for by, file in pictures(name).items()
            if drawable(result, place, by)
        ),
        provenance(result),
    ]
    return "\n\n".join(part for part in parts if part)
