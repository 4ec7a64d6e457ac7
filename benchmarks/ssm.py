"""Benchmarks of the Mamba layers: other implementations, the floor, early and late steps.

``python -m benchmarks.ssm`` measures every row and writes ``docs/assets/performance/ssm.json`` and
the tables of ``docs/performance.md``; ``--only ROW ...`` measures these rows and prints them only.

Rows are a forward and a backward pass (gradients of the input and of every parameter), except
``step``. Compared layers have the same weights and must give the same output and gradient;
otherwise the run ends with an error.

Sizes, passes and floors are in ``benchmarks/ssm_work.py``, tables in ``benchmarks/ssm_page.py``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.measure import milliseconds
from benchmarks.ssm_page import markdown
from benchmarks.ssm_work import (
    SMOKE,
    Plan,
    Run,
    difference,
    ours,
    projections_pass,
    state_after,
    step_work,
    theirs,
    training_pass,
    window,
    work,
)


class Bench:
    """Measures the rows of a plan; the cases of a group run alternately."""

    def __init__(self, plan: Plan, threads: int, rounds: int) -> None:
        self.plan, self.threads, self.rounds = plan, threads, rounds
        self.rates = measure.rates(threads, seconds=plan.rate_seconds)
        configurations = {"drama": plan.drama, "default": plan.default}
        self.groups: dict[str, Callable[[], list[dict[str, Any]]]] = {}
        for label, sizes in configurations.items():
            name = f"mamba2-{label}"
            self._add(name, self.training, "mamba2", sizes, plan.batch, plan.length)
            self._add(f"{name}-bf16", self.training, "mamba2", sizes, plan.batch, plan.length, True)
            self._add(f"{name}-long", self.training, "mamba2", sizes, 1, plan.long)
            self._add(f"{name}-projections", self.projections, sizes)
        self._add("mamba1", self.training, "mamba1", (), plan.batch, plan.length)
        for batch in plan.step_batches:
            for label, sizes in configurations.items():
                self._add(f"step-mamba2-{label}-batch{batch}", self.step, "mamba2", sizes, batch)
            self._add(f"step-mamba1-batch{batch}", self.step, "mamba1", (), batch)
        for length in plan.lengths:
            self._add(f"generations-{length}", self.generations, configurations, length)

    def _add(self, name: str, method: Callable[..., list[dict[str, Any]]], *args: Any) -> None:
        self.groups[name] = lambda: method(name, *args)

    def time(self, cases: Mapping[str, Run], **options: Any) -> dict[str, list[float]]:
        options = {"rounds": self.rounds, "budget_seconds": self.plan.row_seconds, **options}
        return measure.interleaved(cases, **options)

    def row(
        self,
        name: str,
        table: str,
        title: str,
        mine: list[float],
        other: list[float],
        *,
        target: float | None,
        limit: dict[str, float],
        **more: Any,
    ) -> dict[str, Any]:
        """Return a row: times in seconds, ratio, target and floor."""
        ratio = measure.quotients(mine, other)
        return {
            "row": name,
            "table": table,
            "title": title,
            "rounds": len(mine),
            "measured": measure.spread(mine),
            "compared": measure.spread(other),
            "ratio": ratio,
            "target": target,
            "met": None if target is None else ratio["median"] <= target,
            "floor": limit,
            "over_floor": measure.spread(mine)["median"] / limit["seconds"],
            **more,
        }

    def training(
        self,
        name: str,
        layer: str,
        sizes: tuple[int, ...],
        batch: int,
        length: int,
        bf16: bool = False,
    ) -> list[dict[str, Any]]:
        """Compare a layer with another implementation, at its default and its best chunk."""
        width = self.plan.width
        x, dy = window(batch, length, width)
        mine = training_pass(ours(layer, width, sizes), x, dy, bf16=bf16)
        if layer == "mamba1":
            title, target = "Mamba-1", 0.35
            others: dict[str, tuple[int, ...]] = {"mambapy": ()}
        else:
            title, target = _mamba2(sizes), 0.35 if bf16 else 0.75
            chunks = dict.fromkeys([self.plan.their_chunk, sizes[2], *self.plan.chunks])
            others = {f"transformers, chunk {c}": (*sizes[:2], c) for c in chunks}
        cases: dict[str, Run] = {"ours": mine}
        largest = 0.0
        for label, other_sizes in others.items():
            other = training_pass(theirs(layer, width, other_sizes), x, dy, bf16=bf16)
            largest = max(largest, difference(mine, other, bf16=bf16))
            cases[label] = other
        times = self.time(cases)
        title += f", {batch}×{length}×{width}, " + ("bf16 autocast" if bf16 else "float32")
        limit = self.floor(*work(layer, width, sizes, batch, length, bf16=bf16), bf16=bf16)

        def against(other: str, name: str, table: str) -> dict[str, Any]:
            return self.row(
                name,
                table,
                title,
                times["ours"],
                times[other],
                target=target,
                limit=limit,
                against=other,
                all_compared={label: measure.spread(times[label]) for label in others},
                difference=largest,
            )

        best = min(others, key=lambda label: measure.spread(times[label])["median"])
        rows = [against(next(iter(others)), name, "others")]
        if len(others) > 1:
            rows.append(against(best, f"{name}-tuned", "tuned"))
        if name in self.plan.memory:
            rows[-1]["memory"] = self.memory(layer, sizes, others[best], batch, length)
        return rows

    def memory(
        self,
        layer: str,
        sizes: tuple[int, ...],
        other_sizes: tuple[int, ...],
        batch: int,
        length: int,
    ) -> dict[str, Any]:
        """Return peak bytes of both implementations, each in a new process."""
        peaks = {
            kind: measure.in_child(
                "benchmarks.ssm_work:training_memory",
                self.threads,
                for_memory=True,
                kind=kind,
                layer=layer,
                width=self.plan.width,
                sizes=use,
                batch=batch,
                length=length,
            )
            for kind, use in (("ours", sizes), ("theirs", other_sizes))
        }
        ratio = peaks["ours"] / peaks["theirs"]
        target = 0.5 if layer == "mamba1" else None
        met = None if target is None else ratio <= target
        return {**peaks, "ratio": ratio, "target": target, "met": met}

    def projections(self, name: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
        """Compare a Mamba-2 layer with its two projections alone."""
        plan = self.plan
        layer = ours("mamba2", plan.width, sizes)
        x, dy = window(plan.batch, plan.length, plan.width)
        cases = {
            "ours": training_pass(layer, x, dy),
            "projections": projections_pass(layer, x, dy),
        }
        times = self.time(cases)
        title = f"{_mamba2(sizes)}, {plan.batch}×{plan.length}×{plan.width}, float32"
        return [
            self.row(
                name,
                "projections",
                title,
                times["ours"],
                times["projections"],
                target=1.4,
                limit=self.floor(*work("mamba2", plan.width, sizes, plan.batch, plan.length)),
            )
        ]

    @torch.no_grad()
    def step(
        self, name: str, layer: str, sizes: tuple[int, ...], batch: int
    ) -> list[dict[str, Any]]:
        """Compare a late step of a sequence with an early one."""
        plan = self.plan
        module: Any = ours(layer, plan.width, sizes)
        x = torch.randn(batch, plan.width)

        def at(step: int) -> Run:
            state = state_after(module, step - 1, batch)
            return lambda: module.step(x, state)

        # Short samples, and many of them: the two differ by less than most loads do.
        cases = {"late": at(plan.late), "early": at(plan.early)}
        times = self.time(cases, rounds=10 * self.rounds, sample_seconds=0.02)
        title = "Mamba-1" if layer == "mamba1" else _mamba2(sizes)
        return [
            self.row(
                name,
                "step",
                f"{title}, batch {batch}",
                times["late"],
                times["early"],
                target=1.1,
                limit=self.floor(*step_work(layer, plan.width, sizes, batch)),
                steps=[plan.late, plan.early],
            )
        ]

    def generations(
        self, name: str, configurations: dict[str, tuple[int, int, int]], length: int
    ) -> list[dict[str, Any]]:
        """Compare our Mamba-2 with our Mamba-1."""
        plan = self.plan
        x, dy = window(plan.batch, length, plan.width)
        cases = {
            label: training_pass(ours("mamba2", plan.width, sizes), x, dy)
            for label, sizes in configurations.items()
        }
        cases["mamba1"] = training_pass(ours("mamba1", plan.width), x, dy)
        times = self.time(cases)
        return [
            self.row(
                f"{name}-{label}",
                "generations",
                f"{_mamba2(sizes)}, {plan.batch}×{length}×{plan.width}",
                times[label],
                times["mamba1"],
                target=0.5,
                limit=self.floor(*work("mamba2", plan.width, sizes, plan.batch, length)),
            )
            for label, sizes in configurations.items()
        ]

    def floor(self, operations: float, moved: float, *, bf16: bool = False) -> dict[str, float]:
        """Return seconds of work at the measured rates, and the terms."""
        bandwidth = measure.bandwidth(int(moved), self.threads, seconds=self.plan.rate_seconds)
        seconds = operations / self.rates["bfloat16" if bf16 else "float32"] + moved / bandwidth
        return {
            "seconds": seconds,
            "operations": operations,
            "bytes": moved,
            "bandwidth": bandwidth,
        }


def _mamba2(sizes: Sequence[int]) -> str:
    return f"Mamba-2, state {sizes[0]}, head {sizes[1]}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=measure.physical_cores())
    parser.add_argument("--rounds", type=int, default=15, help="samples per case")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="print these rows, write no file")
    parser.add_argument("--docs", type=Path, default=measure.DOCS, help="output directory")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, for tests")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    facts = measure.machine(args.threads, ("transformers", "mambapy"))
    bench = Bench(SMOKE if args.smoke else Plan(), args.threads, args.rounds)
    unknown = set(args.only or ()) - set(bench.groups)
    if unknown:
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(bench.groups)}")

    rows = []
    for name in args.only or bench.groups:
        for row in bench.groups[name]():
            rows.append(row)
            print(
                f"{row['row']}: {milliseconds(row['measured']['median'])} ms against "
                f"{milliseconds(row['compared']['median'])}, ratio {row['ratio']['median']:.2f}",
                flush=True,
            )
    command = f"python -m benchmarks.ssm --threads {args.threads} --rounds {args.rounds}"
    result = {"command": command, "machine": facts, "rates": bench.rates, "rows": rows}
    if args.only:
        print(markdown(result))
    else:
        measure.publish(args.docs, "ssm", result, markdown)


if __name__ == "__main__":
    main()
