"""What was learnt, for ``docs/results.md``: ``python -m benchmarks.results [SUITE ...]``.

Each suite directory given (made by ``drama suite run experiments/NAME.toml``) is condensed to
``docs/assets/results/suite-NAME.json``: settings, machine, wall time, evaluation and learning curve
of every run. From these files, and from those of ``benchmarks.baselines`` on the same games, the
blocks of the page and their pictures are made, with or without the suites at hand.

Intervals are 95 % bootstrap intervals of the mean over seeds: with three seeds no more than a hint.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

import drama
from benchmarks import measure
from drama.config import Config
from drama.evaluation import game_of, published
from drama.report.drawing import looks
from drama.report.runs import read_run, reference_of, running_mean
from drama.settings import flat
from drama.suite import read_suite
from drama.suite.layout import Cell

RESULTS = measure.DOCS / "assets" / "results"
WIDTH = 20
"""Training episodes in a running mean."""
WIDTHS = {"MinAtar/Freeway-v1": 5}
"""The same for games of which a whole run has fewer than that: 19 episodes of 2500 steps."""
POINTS = 120
"""Points kept of a run's learning curve."""
MACHINE = ("device_name", "threads", "precision", "python", "torch")
"""What ``run.json`` says of where a run was made, as far as the page tells it."""
NAMES = {
    "ppo": "SB3 PPO",
    "dqn": "SB3 DQN",
    "dqn-short": "SB3 DQN, short schedule",
    "ppo-atari": "SB3 PPO",
}

PUBLISHED = ("Drama-XS", "DreamerV3", "STORM", "PPO")
"""Methods whose published scores stand beside ours."""

Array = npt.NDArray[np.float64]


# ------------------------------------------------------------------------------ from directories


def condense(directory: Path) -> dict[str, Any]:
    """Everything the page needs of one suite."""
    suite = read_suite(directory)
    labels = {variant.name: variant.label or variant.name for variant in suite.spec.variants}
    return {
        "suite": suite.spec.name,
        "title": suite.spec.title or suite.spec.name,
        "command": f"drama suite run experiments/{suite.spec.name}.toml",
        "variants": labels,
        "games": list(suite.spec.games),
        "settings": {c.variant.name: settings(c.config) for c in reversed(suite.cells)},
        "runs": [one_run(cell) for cell in suite.cells],
    }


def joined(here: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The runs made here and the evaluated ones of an earlier file: of two, the one further on.

    So seeds may be made on several machines. Raises SystemExit where a variant's settings differ.
    """

    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        return run["variant"], run["env"], run["seed"]

    def standing(run: dict[str, Any]) -> tuple[bool, int]:
        return bool(run["evaluation"]), run["steps"]

    kept = {key(run): run for run in before["runs"] if run["evaluation"]}
    for run in here["runs"]:
        if key(run) in kept and standing(run) >= standing(kept[key(run)]):
            del kept[key(run)]
    for variant in {run["variant"] for run in kept.values()} & here["settings"].keys():
        if before["settings"][variant] != here["settings"][variant]:
            sys.exit(f"{here['suite']}: the runs of {variant!r} kept so far had other settings")
    variants = here["variants"] | {
        name: label for name, label in before["variants"].items() if name not in here["variants"]
    }
    games = list(dict.fromkeys([*here["games"], *before["games"]]))
    runs = [run for run in here["runs"] if key(run) not in kept] + list(kept.values())
    order = list(variants)
    runs.sort(key=lambda r: (order.index(r["variant"]), games.index(r["env"]), r["seed"]))
    settings = before["settings"] | here["settings"]
    return {**here, "variants": variants, "games": games, "settings": settings, "runs": runs}


def settings(config: Config) -> dict[str, Any]:
    """The settings that are not the paper's, by their dotted names; not what tells runs apart."""
    given, default = (flat(json.loads(c.to_json())) for c in (config, Config()))
    told_apart = ("env.id", "seed")
    unused = () if config.behaviour.algorithm == "ppo" else ("behaviour.ppo.",)
    return {
        k: v
        for k, v in given.items()
        if v != default[k] and k not in told_apart and not k.startswith(unused)
    }


def so_far(cell: Cell) -> dict[str, Any]:
    """What ``drama eval`` found of the last checkpoint of a run that was stopped; else nothing."""
    path = cell.path / "eval.json"
    if cell.status != "interrupted" or not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {k: v for k, v in found.items() if v["protocol"]["train_steps"] == cell.step}


def one_run(cell: Cell) -> dict[str, Any]:
    """One run: where it stands, its evaluation, and its learning curve thinned out."""
    run = read_run(cell)
    steps, returns = thinned(run.episodes.steps, run.episodes.returns, width_of(run.env_id))
    start = run.starts[-1] if run.starts else {}
    # Logs may go on behind the last checkpoint, and a run at its end is the suite's to judge.
    early = so_far(cell) if 0 < cell.step < run.steps_asked else {}
    return {
        "variant": run.variant,
        "env": run.env_id,
        "seed": run.seed,
        "status": run.status,
        "steps": cell.step if early else run.steps,
        "steps_asked": run.steps_asked,
        "seconds": round(run.seconds, 1),
        "starts": len(run.starts),
        "evaluation": {
            mode: {
                "mean": found["mean"],
                "returns": [episode["return"] for episode in found["episodes"]],
            }
            for mode, found in (run.evaluation or early).items()
        },
        "curve": {"step": steps, "return": returns},
        "machine": {key: start.get(key) for key in MACHINE},
    }


def width_of(env: str) -> int:
    """Training episodes in a running mean of a game."""
    return WIDTHS.get(env, WIDTH)


def thinned(steps: Array, returns: Array, width: int) -> tuple[list[int], list[float]]:
    """Running means of ``width`` episodes at no more than :data:`POINTS` steps."""
    means = running_mean(returns, width)
    at = steps[width - 1 :]
    keep = np.unique(np.linspace(0, len(means) - 1, POINTS).astype(int)) if len(means) else []
    return [int(at[i]) for i in keep], [round(float(means[i]), 4) for i in keep]


# ------------------------------------------------------------------------------------ statistics


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    drawn = np.random.default_rng(seed).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def steps_to_reach(curve: dict[str, list[float]], level: float) -> int | None:
    """First step at which a learning curve is at ``level`` or above; None if it never is."""
    return next(
        (int(s) for s, r in zip(curve["step"], curve["return"], strict=True) if r >= level), None
    )


def finished(result: dict[str, Any], env: str, variant: str) -> list[dict[str, Any]]:
    """Runs of a cell that were evaluated: at their end, or by hand where they stand."""
    return [
        run
        for run in result["runs"]
        if run["env"] == env and run["variant"] == variant and "greedy" in run["evaluation"]
    ]


def baselines_of(env: str, place: Path) -> dict[str, dict[str, Any]]:
    """What ``benchmarks.baselines`` left of an environment, by agent."""
    slug = env.replace("/", "-")
    found = {}
    for path in sorted(place.glob(f"{slug}-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("env") == env and "agent" in result:
            found[result["agent"]] = result
    return found


# --------------------------------------------------------------------------------------- the page


def score_table(result: dict[str, Any], place: Path) -> str:
    """Evaluation of every variant on every game, with drawn actions too where there is one."""
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
                for mode, how in (("greedy", ""), ("sampled", ", drawn actions")):
                    if all(mode in run["evaluation"] for run in runs):
                        means = [run["evaluation"][mode]["mean"] for run in runs]
                        rows.append(score_row(label + how, means, made(runs), took))
            if open_:
                rows.append((label, "", "", f"{open_} not finished", "", ""))
        for name, other in baselines_of(env, place).items():
            how, means = at_its_best(other)
            minutes = [run["wall_seconds"] / 60 for run in other["runs"]]
            label, steps = NAMES.get(name, name) + how, f"{other['steps']:,}"
            rows.append(score_row(label, means, steps, float(np.median(minutes))))
        reference = reference_of(env)
        if reference is not None:
            rows.append(("random policy", f"{reference.floor:.2f}", "", "", "", ""))
            rows.append((reference.name, f"{reference.top:.2f}", "", "", "", ""))
        rows += published_rows(env)
        parts.append(f"**{env}**\n\n{measure.table(header, rows)}")
    return "\n\n".join(parts)


def published_rows(env: str) -> list[tuple[str, ...]]:
    """Mean scores of others after 100 000 steps of an Atari100k game, by their papers."""
    if game_of(env) is None:
        return []
    return [
        (f"{method}, published", f"{score.score:.2f}", "", "", "100,000", "")
        for method in PUBLISHED
        for score in published(method, env)
        if score.seed is None
    ]


def at_its_best(other: dict[str, Any]) -> tuple[str, list[float]]:
    """How a baseline acted where it did better, and each seed's mean return so."""
    greedy, drawn = ([run[key]["mean"] for run in other["runs"]] for key in ("greedy", "sampled"))
    return (", drawn actions", drawn) if np.mean(drawn) > np.mean(greedy) else ("", greedy)


def made(runs: Sequence[dict[str, Any]]) -> str:
    """Steps of the evaluated checkpoints, and of what if that was not the end."""
    steps = " and ".join(f"{step:,}" for step in sorted({run["steps"] for run in runs}))
    asked = runs[0]["steps_asked"]
    return steps if all(run["steps"] == asked for run in runs) else f"{steps} of {asked:,}"


def score_row(label: str, means: Sequence[float], steps: str, minutes: float) -> tuple[str, ...]:
    low, high = interval(means)
    # One seed tells nothing of others.
    between = f"{low:.2f} to {high:.2f}" if len(means) > 1 else ""
    each = ", ".join(f"{mean:.2f}" for mean in means)
    mean = f"**{np.mean(means):.2f}**"
    return (label, mean, between, each, steps, f"{minutes:.0f}")


def reach_table(result: dict[str, Any], place: Path) -> str:
    """Steps at which the variants stand where a baseline stood at its end; empty without any.

    Against the steps at which the baseline first stood there itself: one that has stopped learning
    early is not charged with the rest of its run.
    """
    rows = []
    for env in result["games"]:
        for name, other in baselines_of(env, place).items():
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


def where_it_ended(other: dict[str, Any], width: int) -> tuple[float, float | None]:
    """Mean last return of a baseline's seeds, and the median step at which each first had its own.

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


def draw(result: dict[str, Any], place: Path, path: Path) -> None:
    """Learning curves, one panel for each game: mean over seeds and their range."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    games = result["games"]
    figure, panels = plt.subplots(
        1, len(games), figsize=(4.6 * len(games) + 1.2, 3.2), layout="constrained", squeeze=False
    )
    others = [NAMES.get(name, name) for env in games for name in baselines_of(env, place)]
    style = looks(list(dict.fromkeys([*result["variants"].values(), *NAMES.values(), *others])))
    for axes, env in zip(panels[0], games, strict=True):
        curves: dict[str, list[dict[str, list[float]]]] = {}
        for run in result["runs"]:
            if run["env"] == env and len(run["curve"]["step"]) > 1:
                curves.setdefault(result["variants"][run["variant"]], []).append(run["curve"])
        for name, other in baselines_of(env, place).items():
            for run in other["runs"]:
                episodes = run["episodes"]
                step, ret = thinned(
                    np.array(episodes["step"]), np.array(episodes["return"]), width_of(env)
                )
                if len(step) > 1:
                    curve: dict[str, list[float]] = {"step": list(step), "return": ret}
                    curves.setdefault(NAMES.get(name, name), []).append(curve)
        for name, found in curves.items():
            grid, mean, low, high = band(found)
            look = style[name]
            axes.plot(grid, mean, color=look.colour, linestyle=look.dashes, lw=1.5, label=name)
            axes.fill_between(grid, low, high, color=look.colour, alpha=0.15, lw=0)
        reference = reference_of(env)
        if reference is not None:
            for level in (reference.floor, reference.top):
                axes.axhline(level, color="grey", lw=0.8, ls=":")
        axes.set(xlabel="environment steps", title=env)
        axes.title.set_fontsize(10)
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(f"training return, mean of {width_of(env)} episodes", fontsize=9)
    handles: dict[str, Any] = {}
    for axes in panels[0]:
        handles |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def band(curves: Sequence[dict[str, list[float]]]) -> tuple[Array, Array, Array, Array]:
    """Mean, lowest and highest of several curves where all of them are."""
    start = max(curve["step"][0] for curve in curves)
    stop = min(curve["step"][-1] for curve in curves)
    grid = np.linspace(start, max(start, stop), POINTS)
    values = np.stack([np.interp(grid, curve["step"], curve["return"]) for curve in curves])
    return grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


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


def text(result: dict[str, Any]) -> str:
    """JSON to be read by people too, each run on a line of its own."""
    lines = ",\n".join("    " + json.dumps(run) for run in result["runs"])
    whole = json.dumps({**result, "runs": []}, indent=2)
    return whole.replace('"runs": []', f'"runs": [\n{lines}\n  ]') + "\n"


def blocks(page: Path) -> list[str]:
    """Names of the blocks of ``page`` that are made here."""
    return re.findall(r"<!-- begin suite-([\w.-]+) -->", page.read_text(encoding="utf-8"))


def render(docs: Path) -> None:
    """Make every block anew whose file of numbers is there."""
    place = docs / "assets" / "results"
    for name in blocks(docs / "results.md"):
        path = place / f"suite-{name}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text(encoding="utf-8"))
        draw(result, place, path.with_suffix(".png"))
        picture = f"assets/results/{path.stem}.png"
        measure.replace_block(
            docs / "results.md", f"suite-{name}", markdown(result, place, picture)
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Condense suites, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", type=Path, help="directories of suites to condense")
    parser.add_argument(
        "--keep", action="store_true", help="keep runs that the file has and the suite has not"
    )
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    args = parser.parse_args(argv)
    place = args.docs / "assets" / "results"
    place.mkdir(parents=True, exist_ok=True)
    for directory in args.suites:
        result = condense(directory) | {"drama": drama.__version__}
        path = place / f"suite-{result['suite']}.json"
        if args.keep and path.is_file():
            result = joined(result, json.loads(path.read_text(encoding="utf-8")))
        path.write_text(text(result), encoding="utf-8")
        print(f"{directory}: {path}")
    render(args.docs)


if __name__ == "__main__":
    main()
