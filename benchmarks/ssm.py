"""Benchmarks of the Mamba layers: other implementations, the floor, early and late steps.

``python -m benchmarks.ssm`` measures every row and writes ``docs/assets/performance/ssm.json`` and
the tables of ``docs/performance.md``; ``--only ROW ...`` measures these rows and prints them only.

Rows are a forward and a backward pass (gradients of the input and of every parameter), except
``step``. Compared layers have the same weights and must give the same output and gradient;
otherwise the run ends with an error.

**The floor** of a row is ``operations / rate + bytes / bandwidth``: the time of the matrix products
at the rate of a 2048×2048 product in the same number type, plus one sequential pass over memory for
everything between them. Rate and bandwidth are measured in the same run, the latter on as many
bytes as the row moves.

- Operations of a projection with W weights on n = B·T steps: 2 n W forward, twice that backward.
- Operations of Mamba-2's scan, per step: 4 H P N (write to the state, read from it) or, with all
  of the window in one quadratic product, T (G N + H P), the causal half of C·Bᵀ and of its
  product with x: the smaller one forward, twice that backward.
- Operations of Mamba-1's scan, per step, channel and state: 7 forward (Δ A, exp, Δ x B, a h + …,
  C h summed) and 15 backward (adjoint, and the gradients of B, C, Δ x, Δ and A).
- Bytes: the input, the output and their gradients once each; the weights and their gradients once
  each; and of the two tensors on either side of the scan, the output of ``in_proj`` and the input
  of ``out_proj``, five times: written and read forward, read again backward, their gradients
  written and read. 4 bytes per element; under autocast 2 for tensors between the products.
- ``step``: 2 operations per weight and 5 per element of the state, for each sequence; weights are
  read, the state is read and written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import measure
from benchmarks.measure import MIB, milliseconds
from drama.ssm import Mamba1, Mamba2

Run = Callable[[], object]


@dataclass(frozen=True)
class Plan:
    """Sizes of a run; the defaults are those of the published table."""

    width: int = 512
    batch: int = 16
    length: int = 128
    long: int = 4096
    lengths: tuple[int, ...] = (128, 256, 512, 1024)
    step_batches: tuple[int, ...] = (1, 1024)
    early: int = 10
    late: int = 10_000
    drama: tuple[int, int, int] = (16, 128, 64)
    """State size, head size and chunk of Drama's configuration."""
    default: tuple[int, int, int] = (128, 64, 256)
    """The same for the usual defaults of the layer."""
    their_chunk: int = 256
    """Default chunk of the other implementation."""
    chunks: tuple[int, ...] = (64, 128)
    """Further chunks to measure it with, besides ours."""
    memory: tuple[str, ...] = ("mamba1", "mamba2-drama", "mamba2-default")
    """Rows whose peak memory is measured."""
    row_seconds: float = 30.0
    """Time limit of a row in seconds, after at least three rounds."""
    rate_seconds: float = 0.3
    """Measurement time of each rate of the machine, in seconds."""


SMOKE = Plan(
    width=32,
    batch=2,
    length=16,
    long=64,
    lengths=(16,),
    step_batches=(8,),
    late=50,
    drama=(4, 16, 8),
    default=(8, 8, 16),
    their_chunk=16,
    chunks=(8,),
    memory=("mamba1",),
    rate_seconds=0.01,
)

# ------------------------------------------------------------------------------- measured work


def ours(layer: str, width: int, sizes: Sequence[int] = ()) -> nn.Module:
    """Return our layer with fixed weights."""
    torch.manual_seed(0)
    if layer == "mamba1":
        return Mamba1(width)
    d_state, headdim, chunk = sizes
    return Mamba2(width, d_state, headdim=headdim, chunk_size=chunk)


def theirs(layer: str, width: int, sizes: Sequence[int] = ()) -> nn.Module:
    """Return the layer of mambapy (Mamba-1) or transformers (Mamba-2) with our weights."""
    if layer == "mamba1":
        from mambapy.mamba import MambaBlock, MambaConfig

        module = MambaBlock(MambaConfig(d_model=width, n_layers=1, pscan=True))
    else:
        from transformers import Mamba2Config
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

        d_state, headdim, chunk = sizes
        config = Mamba2Config(
            hidden_size=width,
            num_heads=2 * width // headdim,
            head_dim=headdim,
            state_size=d_state,
            n_groups=1,
            conv_kernel=4,
            expand=2,
            chunk_size=chunk,
            num_hidden_layers=1,
        )
        module = Mamba2Mixer(config, layer_idx=0)
    module.load_state_dict(ours(layer, width, sizes).state_dict())
    return cast("nn.Module", module)


def window(batch: int, length: int, width: int) -> tuple[Tensor, Tensor]:
    """Return an input and a gradient of the output, both ``(B, T, D)``."""
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(batch, length, width, generator=generator) for _ in range(2))
    return x.requires_grad_(), dy


def training_pass(
    module: nn.Module, x: Tensor, dy: Tensor, *, bf16: bool = False
) -> Callable[[], tuple[Tensor, ...]]:
    """Return output, gradient of the input and gradients of the parameters."""
    wanted = [x, *module.parameters()]

    def run() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            y = module(x)
        y = y[0] if isinstance(y, tuple) else y
        return y.detach(), *torch.autograd.grad(y, wanted, dy.to(y.dtype))

    return run


def difference(
    run: Callable[[], tuple[Tensor, ...]], other: Callable[[], tuple[Tensor, ...]], *, bf16: bool
) -> float:
    """Return the largest relative difference of output and input gradient.

    Raises:
        ValueError: It is more than rounding: what would be compared is not the same work.
    """
    pairs = zip(run()[:2], other()[:2], strict=True)
    found = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in pairs)
    if not found <= (2e-2 if bf16 else 1e-5):
        raise ValueError(f"outputs or gradients differ by {found:.1e}: not the same work")
    return found


def training_memory(
    kind: str, layer: str, width: int, sizes: Sequence[int], batch: int, length: int
) -> int:
    """Return peak bytes of a training pass minus weights and input; needs a new process."""
    module = (ours if kind == "ours" else theirs)(layer, width, sizes)
    training_pass(module, *window(1, 2, width))()
    run = training_pass(module, *window(batch, length, width))
    meter = measure.PeakMemory()
    run()
    return meter.read()


def projections_pass(layer: Any, x: Tensor, dy: Tensor) -> Run:
    """Return ``in_proj`` and ``out_proj`` alone, forward and backward."""
    first, last = layer.in_proj.weight, layer.out_proj.weight
    inner = torch.randn(*x.shape[:2], last.shape[1], requires_grad=True)
    dwide = torch.randn(*x.shape[:2], first.shape[0])

    def run() -> None:
        torch.autograd.grad(F.linear(x, first), [x, first], dwide)
        torch.autograd.grad(F.linear(inner, last), [inner, last], dy)

    return run


def state_after(layer: Any, steps: int, batch: int) -> Any:
    """Return the state after ``steps`` steps of up to 8 sequences, repeated to ``batch``.

    The window pass gives it, which equals single steps, as the tests of the layers show.
    """
    from drama.dynamics import map_state

    rows = min(batch, 8)
    generator = torch.Generator().manual_seed(2)
    state = layer.init_state(rows)
    for begin in range(0, steps, 500):
        x = torch.randn(rows, min(500, steps - begin), layer.d_model, generator=generator)
        _, state = layer(x, None, state)
    return map_state(lambda t: t.repeat(batch // rows, *[1] * (t.dim() - 1)), state)


# ----------------------------------------------------------------------------------- the floors


def work(
    layer: str, width: int, sizes: Sequence[int], batch: int, length: int, *, bf16: bool = False
) -> tuple[float, float]:
    """Return operations and bytes of a training pass by the formulas of the module docstring."""
    steps, inner = batch * length, 2 * width
    if layer == "mamba1":
        d_state, rank = 16, -(-width // 16)
        wide = 2 * inner
        weights = width * wide + inner * (rank + 2 * d_state) + rank * inner + inner * width
        scan = inner * d_state * (7 + 15)
    else:
        d_state, headdim, _ = sizes
        wide = 2 * inner + 2 * d_state + inner // headdim
        weights = width * wide + inner * width
        scan = 3 * min(4 * inner * d_state, length * (d_state + inner))
    size = 2 if bf16 else 4
    moved = size * steps * (4 * width + 5 * (wide + inner)) + 4 * 2 * weights
    return steps * (6 * weights + scan), moved


def step_work(layer: str, width: int, sizes: Sequence[int], batch: int) -> tuple[float, float]:
    """Return operations and bytes of a step."""
    inner = 2 * width
    d_state = 16 if layer == "mamba1" else sizes[0]
    weights = sum(p.numel() for p in ours(layer, width, sizes).parameters())
    state = batch * inner * d_state
    return 2 * batch * weights + 5 * state, 4 * (weights + 2 * state)


# ------------------------------------------------------------------------------------- the rows


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
                "benchmarks.ssm:training_memory",
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


# ------------------------------------------------------------------------------------- the page

TABLES = {
    "others": (
        "Other implementations with default settings, forward and backward",
        ("ours, ms", "other, ms", "other layer"),
    ),
    "tuned": (
        "Other implementations with their fastest chunk, forward and backward",
        ("ours, ms", "other, ms", "other layer"),
    ),
    "projections": (
        "Layer vs its two projections, forward and backward",
        ("layer, ms", "projections, ms"),
    ),
    "step": ("Late vs early step, no gradients", ("late, ms", "early, ms")),
    "generations": (
        "Mamba-2 vs Mamba-1, both ours, forward and backward, float32",
        ("Mamba-2, ms", "Mamba-1, ms"),
    ),
}


def lines(rows: Sequence[dict[str, Any]], name: str) -> str:
    """Return one table in Markdown; empty without rows."""
    title, columns = TABLES[name]
    mine = [row for row in rows if row["table"] == name]
    if not mine:
        return ""
    if name == "step":
        late, early = mine[0]["steps"]
        columns = (f"step {late}, ms", f"step {early}, ms")
    cells = []
    for row in mine:
        ratio = row["ratio"]
        cells.append(
            [
                row["title"],
                milliseconds(row["measured"]["median"]),
                milliseconds(row["compared"]["median"]),
                *([row["against"]] if "against" in row else []),
                f"**{ratio['median']:.2f}** ({ratio['lower']:.2f} to {ratio['upper']:.2f})",
                f"≤ {row['target']:.2f}",
                "yes" if row["met"] else "**no**",
                milliseconds(row["floor"]["seconds"]),
                f"{row['over_floor']:.1f}",
                f"{at_floor(row):.2f}",
            ]
        )
    ends = ("floor, ms", "over floor", "ratio at floor")
    header = ("", *columns, "ratio (quartiles)", "target", "met", *ends)
    return f"**{title}**\n\n{measure.table(header, cells)}"


def at_floor(row: Mapping[str, Any]) -> float:
    """Return the ratio of a layer at its floor, the lower bound on this machine."""
    return float(row["floor"]["seconds"] / row["compared"]["median"])


def memory_lines(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of peak memory; empty if none was measured."""
    cells = [
        [
            row["title"],
            f"{row['memory']['ours'] / MIB:.1f}",
            f"{row['memory']['theirs'] / MIB:.1f}",
            row["against"],
            f"**{row['memory']['ratio']:.2f}**",
            "" if row["memory"]["target"] is None else f"≤ {row['memory']['target']:.2f}",
            {None: "", True: "yes", False: "**no**"}[row["memory"]["met"]],
        ]
        for row in rows
        if "memory" in row
    ]
    if not cells:
        return ""
    header = ("", "ours, MiB", "other, MiB", "other layer", "ratio", "target", "met")
    title = "Peak memory of a forward and backward pass, without weights and input"
    return f"**{title}**\n\n{measure.table(header, cells)}"


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line per missed target."""
    found = []
    for row in rows:
        kind = TABLES[row["table"]][0].split(",")[0].lower()
        if row["met"] is False:
            text = f"{row['ratio']['median']:.3g}, target {row['target']:.2f}"
            text += f", floor {at_floor(row):.2f}"
            found.append(f"{row['title']} ({kind}): {text}")
        memory = row.get("memory")
        if memory is not None and memory["met"] is False:
            found.append(
                f"{row['title']} (peak memory): {memory['ratio']:.2f}, "
                f"target {memory['target']:.2f}"
            )
    return found


def markdown(result: dict[str, Any]) -> str:
    """Return the block of ``docs/performance.md``."""
    rows, rates = result["rows"], result["rates"]
    not_met = missed(rows)
    parts = [
        measure.provenance(result),
        f"Limits of the machine measured in the same run: matrix products "
        f"{rates['float32'] / 1e9:.0f} GFLOP/s in float32 and {rates['bfloat16'] / 1e9:.0f} in "
        f"bfloat16; memory {rates['memory'] / 1e9:.1f} GB/s.",
        *(lines(rows, name) for name in TABLES),
        memory_lines(rows),
        "**Missed targets**\n\n" + "\n".join(f"- {text}" for text in not_met)
        if not_met
        else "All targets are met.",
    ]
    return "\n\n".join(part for part in parts if part)


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
