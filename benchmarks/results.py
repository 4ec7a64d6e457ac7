"""The results page: ``python -m benchmarks.results [SUITE ...]``.

Condenses each given suite directory (of ``drama suite run experiments/NAME.toml``, or of a built-in
suite) to ``docs/assets/results/suite-NAME.json``: settings, machine, wall and CPU time, evaluation
and learning curve of every run. These files and those of ``benchmarks.baselines`` suffice to make
the tables and figures of ``docs/results.md`` and the table of the README. A built-in suite has a
section there from its first evaluated run on (``benchmarks.suite_page``).

Intervals are 95 % bootstrap intervals of the mean over seeds; with three seeds they are too narrow.

One file: tables and figures share the list of benchmarks and the readers of the results.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure, suite_page
from benchmarks.comparison import (
    RANDOM_EPISODES,
    baseline_of,
    interval,
    published_line,
    random_of,
    random_returns,
)
from benchmarks.curves import Panels, baseline_curves, draw
from benchmarks.suites import asked, finished, made, update

RESULTS = measure.DOCS / "assets" / "results"


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
"""Rows of the README for tasks that no suite with results covers."""


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
        baseline_of(row.env, place, asked(result, row.env)),
        random_of(row.env, place),
    )


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


def readme_rows(place: Path) -> list[Row]:
    """Return the rows of the README: those of the built-in suites, then of further tasks."""
    rows = [
        Row(name, variant, env)
        for name in suite_page.SUITES
        if (result := suite_page.load(name, place)) is not None
        for env in result["games"]
        for variant in result["variants"]
        if finished(result, env, variant)
    ]
    covered = {row.env for row in rows}
    return rows + [row for row in README if row.env not in covered]


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
    parts = [
        table(place, benchmark.rows),
        published_line(envs),
        f"![Learning curves: {benchmark.title}](assets/results/{name}.png)",
        provenance(place, suites),
    ]
    return "\n\n".join(part for part in parts if part)


def curves_of(place: Path, rows: Sequence[Row]) -> Panels:
    """Return learning curves by game and by label: ours and those of the baselines."""
    found: Panels = {}
    steps: dict[str, int] = {}
    for row in rows:
        result, panel = load(place, row.suite), found.setdefault(row.env, {})
        panel[result["variants"][row.variant]] = [
            run["curve"]
            for run in result["runs"]
            if (run["env"], run["variant"]) == (row.env, row.variant)
        ]
        steps[row.env] = asked(result, row.env)
    for env, panel in found.items():
        panel |= baseline_curves(env, place, steps[env])
    return found


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
    for name in suite_page.SUITES:
        suite_page.draw_all(name, place)
        block = suite_page.markdown(name, place)
        measure.replace_block(args.docs / "results.md", f"suite-{name}", block)
    for name, benchmark in BENCHMARKS.items():
        draw(curves_of(place, benchmark.rows), place / f"{name}.png")
        measure.replace_block(args.docs / "results.md", name, markdown(name, place))
    measure.replace_block(args.readme, "results", table(place, readme_rows(place)))


if __name__ == "__main__":
    main()
