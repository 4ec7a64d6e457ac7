"""The results page: ``python -m benchmarks.results [SUITE ...]``.

Condenses each given suite directory (of ``drama suite run experiments/NAME.toml``) to
``docs/assets/results/suite-NAME.json``: settings, machine, wall time, evaluation and learning curve
of every run. These files and those of ``benchmarks.baselines`` suffice to make the tables and
figures of ``docs/results.md`` and the table of the README.

Intervals are 95 % bootstrap intervals of the mean over seeds; with three seeds they are too narrow.

One file: tables and figures share the list of benchmarks and the readers of the results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

import drama
from benchmarks import measure
from benchmarks.suites import POINTS, finished, made, thinned, update, width_of
from drama.evaluation import game_of, published
from drama.report.drawing import looks
from drama.report.runs import reference_of

RESULTS = measure.DOCS / "assets" / "results"
NAMES = {
    "ppo": "SB3 PPO",
    "dqn": "SB3 DQN",
    "dqn-short": "SB3 DQN",
    "ppo-atari": "SB3 PPO",
}
RANDOM_EPISODES = {"MinAtar/Breakout-v1": 1000, "MinAtar/Freeway-v1": 100}
"""Episodes of random play for games without a reference score."""
PUBLISHED = ("Drama-XS", "DreamerV3", "STORM", "PPO")
"""Methods whose published scores are shown."""

Array = npt.NDArray[np.float64]


class Row(NamedTuple):
    """One row of a table: a variant of a suite on one game."""

    suite: str
    variant: str
    env: str
    mode: str = "greedy"


class Benchmark(NamedTuple):
    """One table and one figure."""

    title: str
    rows: tuple[Row, ...]


BENCHMARKS = {
    "catch": Benchmark(
        "Catch",
        tuple(
            Row("catch-current", v, "drama/Catch-v0") for v in ("current", "dfs-learnt", "uniform")
        ),
    ),
    "recall": Benchmark(
        "Recall",
        tuple(
            Row(suite, dynamics, f"drama/Recall{gap}-v0")
            for suite, gap in (("memory-backbones", 32), ("memory-backbones-long", 128))
            for dynamics in ("mamba2", "mamba1", "transformer", "gru")
        ),
    ),
    "sparse": Benchmark(
        "Sparse",
        tuple(Row("sparse-samplers", sampler, "drama/Sparse-v0") for sampler in ("dfs", "uniform")),
    ),
    "minatar": Benchmark(
        "MinAtar",
        (
            Row("minatar", "drama", "MinAtar/Breakout-v1"),
            Row("minatar-entropy", "drama", "MinAtar/Freeway-v1", "sampled"),
            Row("minatar-lookahead", "drama", "MinAtar/Freeway-v1"),
        ),
    ),
    "atari": Benchmark(
        "Atari",
        tuple(
            Row(suite, variant, env, mode)
            for env in ("ALE/Boxing-v5", "ALE/Pong-v5")
            for suite, variant in (("atari-motion", "motion10"), ("atari-ratio", "twenty"))
            for mode in ("greedy", "sampled")
        ),
    ),
}
README = (
    BENCHMARKS["catch"].rows[0],
    BENCHMARKS["recall"].rows[0],
    BENCHMARKS["sparse"].rows[0],
    BENCHMARKS["minatar"].rows[0],
    BENCHMARKS["minatar"].rows[2],
    Row("atari-ratio", "twenty", "ALE/Boxing-v5"),
)
"""Rows of the README."""


# ------------------------------------------------------------------------------------ statistics


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean."""
    sampled = np.random.default_rng(seed).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.quantile(sampled.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def baselines_of(env: str, place: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return agent and result of each file of ``benchmarks.baselines`` on an environment."""
    slug = env.replace("/", "-")
    found = []
    for path in sorted(place.glob(f"{slug}-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("env") == env and "agent" in result:
            found.append((result["agent"], result))
    return found


def at_its_best(other: dict[str, Any]) -> tuple[str, list[float]]:
    """Return the better evaluation mode of a baseline and the mean return of each seed."""
    greedy, sampled = ([r[key]["mean"] for r in other["runs"]] for key in ("greedy", "sampled"))
    return (", sampled actions", sampled) if np.mean(sampled) > np.mean(greedy) else ("", greedy)


def band(curves: Sequence[dict[str, list[float]]]) -> tuple[Array, Array, Array, Array]:
    """Return steps, mean, minimum and maximum of curves over their common range."""
    start = max(curve["step"][0] for curve in curves)
    stop = min(curve["step"][-1] for curve in curves)
    grid = np.linspace(start, max(start, stop), POINTS)
    values = np.stack([np.interp(grid, curve["step"], curve["return"]) for curve in curves])
    return grid, values.mean(axis=0), values.min(axis=0), values.max(axis=0)


# --------------------------------------------------------------------------------------- the page


def load(place: Path, suite: str) -> dict[str, Any]:
    """Return the condensed suite of that name."""
    found: dict[str, Any] = json.loads((place / f"suite-{suite}.json").read_text(encoding="utf-8"))
    return found


def label_of(result: dict[str, Any], row: Row) -> str:
    """Return the variant's label, with the evaluation mode if that is not greedy."""
    label: str = result["variants"][row.variant]
    return label + ("" if row.mode == "greedy" else ", sampled actions")


def score_cells(place: Path, row: Row) -> tuple[str, ...]:
    """Return steps, minutes, return, interval, seeds, baseline and random return of a row."""
    result = load(place, row.suite)
    runs = [r for r in finished(result, row.env, row.variant) if row.mode in r["evaluation"]]
    means = [run["evaluation"][row.mode]["mean"] for run in runs]
    low, high = interval(means)
    minutes = float(np.median([run["seconds"] / 60 for run in runs]))
    return (
        made(runs),
        f"{minutes:.0f}",
        f"**{np.mean(means):.2f}**",
        f"{low:.2f} to {high:.2f}" if len(means) > 1 else "",  # one seed has no interval
        str(len(means)),
        baseline_of(row.env, place),
        random_of(row.env, place),
    )


def baseline_of(env: str, place: Path) -> str:
    """Return the best model-free baseline of a game: name and mean return."""
    found = [(float(np.mean(at_its_best(o)[1])), NAMES[n]) for n, o in baselines_of(env, place)]
    return "{1} {0:.2f}".format(*max(found)) if found else ""


def random_of(env: str, place: Path) -> str:
    """Return the mean return of the random policy, published or measured."""
    reference = reference_of(env)
    if reference is not None:
        return f"{reference.floor:.2f}"
    measured = json.loads((place / "random.json").read_text(encoding="utf-8"))
    return f"{measured['returns'][env]:.2f}"


def table(place: Path, rows: Sequence[Row]) -> str:
    """Return the table of a benchmark, or that of the README."""
    header = (
        *("task", "agent", "steps", "minutes", "return", "95 % interval"),
        *("seeds", "baseline", "random"),
    )
    return measure.table(
        header,
        [
            (row.env, label_of(load(place, row.suite), row), *score_cells(place, row))
            for row in rows
        ],
    )


def published_of(env: str) -> list[tuple[str, float]]:
    """Return published mean scores after 100 000 steps of an Atari100k game."""
    if game_of(env) is None:
        return []
    return [
        (method, score.score)
        for method in PUBLISHED
        for score in published(method, env)
        if score.seed is None
    ]


def provenance(place: Path, suites: Sequence[str]) -> str:
    """Return the commands of a table, then machine and versions of its runs."""
    results = [load(place, suite) for suite in suites]
    machines = [run["machine"] for r in results for run in r["runs"] if run["machine"]["torch"]]

    def all_of(key: str) -> str:
        return " and ".join(sorted({str(machine[key]) for machine in machines}))

    commands = "\n".join(
        f"{r['command']}\npython -m benchmarks.results suites/{r['suite']}" for r in results
    )
    return (
        f"```\n{commands}\n```\n\n"
        f"{all_of('device_name')}, threads per run: {all_of('threads')}, {all_of('precision')}, "
        f"Python {all_of('python')}, torch {all_of('torch')}."
    )


def markdown(name: str, place: Path) -> str:
    """Return the block of a benchmark."""
    benchmark = BENCHMARKS[name]
    suites = list(dict.fromkeys(row.suite for row in benchmark.rows))
    envs = list(dict.fromkeys(row.env for row in benchmark.rows))
    scores = [
        f"{env}: " + ", ".join(f"{method} {score:g}" for method, score in published_of(env))
        for env in envs
        if published_of(env)
    ]
    parts = [
        table(place, benchmark.rows),
        f"Published after 100,000 steps: {'; '.join(scores)}." if scores else "",
        f"![Learning curves: {benchmark.title}](assets/results/{name}.png)",
        provenance(place, suites),
    ]
    return "\n\n".join(part for part in parts if part)


def curves_of(place: Path, rows: Sequence[Row]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Return learning curves by game and by label: ours and those of the baselines."""
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        result, panel = load(place, row.suite), found.setdefault(row.env, {})
        panel[result["variants"][row.variant]] = [
            run["curve"]
            for run in result["runs"]
            if (run["env"], run["variant"]) == (row.env, row.variant)
        ]
    for env, panel in found.items():
        panel |= baseline_curves(env, place)
    return found


def baseline_curves(env: str, place: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the learning curves of the baselines of a game."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, other in baselines_of(env, place):
        for run in other["runs"]:
            episodes = run["episodes"]
            columns = (np.array(episodes[key]) for key in ("step", "return"))
            step, ret = thinned(*columns, width_of(env))
            found.setdefault(NAMES.get(name, name), []).append({"step": step, "return": ret})
    return found


def draw(panels: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Draw learning curves, one panel for each game: mean over seeds and their range."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, grid_of_axes = plt.subplots(
        1,
        len(panels),
        figsize=(4.6 * len(panels) + 1.2, 3.2),
        layout="constrained",
        squeeze=False,
    )
    style = looks(list(dict.fromkeys(label for panel in panels.values() for label in panel)))
    handles: dict[str, Any] = {}
    for axes, (env, panel) in zip(grid_of_axes[0], panels.items(), strict=True):
        for label, curves in panel.items():
            curves = [curve for curve in curves if len(curve["step"]) > 1]
            if not curves:
                continue
            grid, mean, low, high = band(curves)
            look = style[label]
            (handles[label],) = axes.plot(grid, mean, color=look.colour, ls=look.dashes, lw=1.5)
            axes.fill_between(grid, low, high, color=look.colour, alpha=0.15, lw=0)
        reference = reference_of(env)
        for level in () if reference is None else (reference.floor, reference.top):
            axes.axhline(level, color="grey", lw=0.8, ls=":")
        axes.set(xlabel="environment steps", title=env)
        axes.title.set_fontsize(10)
        axes.locator_params(axis="x", nbins=5)
        axes.set_ylabel(f"training return, mean of {width_of(env)} episodes", fontsize=9)
    figure.legend(
        handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def random_returns(episodes: dict[str, int], seed: int = 10_000) -> dict[str, Any]:
    """Play the random policy; the seed is that of evaluations."""
    returns = {}
    for env_id, count in episodes.items():
        env, rng, total = drama.make_env(env_id, seed), np.random.default_rng(seed), 0.0
        for _ in range(count):
            env.reset()
            over = False
            while not over:
                action = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
                _, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
        returns[env_id] = round(total / count, 4)
        env.close()
    command = "python -m benchmarks.results --random"
    return {"command": command, "episodes": episodes, "seed": seed, "returns": returns}


def main(argv: Sequence[str] | None = None) -> None:
    """Condense suites, write page and figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", type=Path, help="directories of suites to condense")
    parser.add_argument(
        "--keep", action="store_true", help="keep runs of the file that the suite lacks"
    )
    parser.add_argument("--random", action="store_true", help="measure the random policy again")
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--readme", type=Path, default=measure.ROOT / "README.md")
    args = parser.parse_args(argv)
    place = args.docs / "assets" / "results"
    place.mkdir(parents=True, exist_ok=True)
    update(args.suites, place, keep=args.keep)
    if args.random:
        found = json.dumps(random_returns(RANDOM_EPISODES), indent=2) + "\n"
        (place / "random.json").write_text(found, encoding="utf-8")
    for name, benchmark in BENCHMARKS.items():
        draw(curves_of(place, benchmark.rows), place / f"{name}.png")
        measure.replace_block(args.docs / "results.md", name, markdown(name, place))
    readme = table(place, README)
    measure.replace_block(args.readme, "results", readme)


if __name__ == "__main__":
    main()
