"""Checks that ``training.precision auto`` selects the faster number type on this CPU.

``python -m benchmarks.precision`` times whole training steps of several presets at their own sizes
in float32 and bfloat16, alternately in one process, and writes
``docs/assets/performance/precision.json`` and its block of ``docs/performance.md``.

To measure without bfloat16 units, restrict oneDNN's instruction set:
``ONEDNN_MAX_CPU_ISA=AVX512_CORE python -m benchmarks.precision --print-only``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import measure
from benchmarks.step import NAMES, PHASES, Case, build, measure_cases, small
from drama import presets
from drama.training.device import choose_dtype

CASES = ("quick:drama/Catch-v0", "laptop:ALE/Pong-v5", "xs:ALE/Pong-v5")
PRECISIONS = ("float32", "bfloat16")


def compare(preset: str, env: str, rounds: int) -> dict[str, Any]:
    """Time the phases of a step in both types; ``ratio`` is bfloat16 time / float32 time."""
    config = small(presets.preset(preset), env)
    cases = {}
    for name in PRECISIONS:
        training = replace(config.training, precision=name)
        rows = config.replay.capacity
        cases[name] = Case(build(replace(config, training=training), rows), keep_memory=True)
    samples = measure_cases(cases, rounds)
    phases = (*PHASES, "step")
    return {
        "preset": preset,
        "env": env,
        "seconds": {
            name: {phase: measure.spread(samples[name][phase]) for phase in phases}
            for name in PRECISIONS
        },
        "ratio": {
            phase: measure.quotients(samples["bfloat16"][phase], samples["float32"][phase])
            for phase in phases
        },
    }


def run(cases: list[str], threads: int, rounds: int, command: str) -> dict[str, Any]:
    """Measure all cases; return the content of the published file."""
    torch.set_num_threads(threads)
    dtype, reason = choose_dtype("auto", torch.device("cpu"))
    machine = measure.machine(threads)
    return {
        "command": command,
        "machine": machine,
        "auto": str(dtype).removeprefix("torch."),
        "reason": reason,
        "rows": [compare(*case.split(":", 1), rounds) for case in cases],
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the block of the performance page."""
    auto = result["auto"]
    header = ["bfloat16 time / float32 time", *NAMES.values(), "whole step", "`auto` is faster"]
    rows = []
    for row in result["rows"]:
        ratio = row["ratio"]
        step = ratio["step"]
        faster = (step["median"] < 1.0) == (auto == "bfloat16")
        rows.append(
            [
                f"`{row['preset']}` on `{row['env']}`",
                *(f"{ratio[phase]['median']:.2f}" for phase in PHASES),
                f"**{step['median']:.2f}** ({step['lower']:.2f} to {step['upper']:.2f})",
                "yes" if faster else "**no**",
            ]
        )
    return "\n\n".join(
        [
            f"`auto` selects {auto} here: {result['reason']}.",
            measure.table(header, rows),
            measure.provenance(result),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.precision")
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="PRESET:ENV")
    parser.add_argument("--threads", type=int, default=measure.physical_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--print-only", action="store_true", help="print the block, write no file")
    options = parser.parse_args(arguments)
    for case in options.cases:
        preset, _, env = case.partition(":")
        if preset not in presets.PRESETS or not env:
            parser.error(f"{case} is not PRESET:ENV; presets are {', '.join(presets.PRESETS)}")
    began = time.perf_counter()
    command = f"python -m benchmarks.precision --threads {options.threads}"
    if options.cases != list(CASES):
        command += f" --cases {' '.join(options.cases)}"
    result = run(options.cases, options.threads, options.rounds, command)
    print(markdown(result))
    print(f"{time.perf_counter() - began:.0f} s")
    if not options.print_only:
        measure.publish(options.docs, "precision", result, markdown)


if __name__ == "__main__":
    main()
