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
from typing import NamedTuple

from benchmarks import measure, suite_page
from benchmarks.comparison import RANDOM_EPISODES, published_line, random_returns
from benchmarks.curves import Panels, baseline_curves, draw
from benchmarks.suites import asked, update
from benchmarks.tables import Row, load, table

RESULTS = measure.DOCS / "assets" / "results"


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


def readme_rows(place: Path) -> list[Row]:
    """Return the rows of the README: those of the built-in suites, then of further tasks."""
    rows = [row for name in suite_page.SUITES for row in suite_page.rows_of(name, place)]
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
