"""Shared parts of benchmarks: time, peak memory, facts of the machine, blocks of the docs.

A benchmark returns one dictionary. :func:`publish` writes it to
``docs/assets/performance/NAME.json`` and makes the block of ``docs/performance.md`` from that file.
"""

from __future__ import annotations

import json
import math
import os
import pkgutil
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.utils.benchmark import Timer

from drama.training import memory

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MIB = 2**20

# ---------------------------------------------------------------------------------------- time


def interleaved(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    sample_seconds: float = 0.0,
    budget_seconds: float = float("inf"),
    least: int = 3,
    synchronize: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time several callables alternately, so that changes of load affect all of them.

    Args:
        cases: Callables by name.
        rounds: Samples per case. Every round times each case once, in random order.
        warmup: Calls per case before the first sample.
        sample_seconds: Duration of a sample, the mean of several calls; estimated from one call.
        budget_seconds: No new round begins after this time, if ``least`` are done.
        least: Minimum number of rounds.
        synchronize: Waits for pending work of an accelerator; called around every sample.

    Returns:
        Seconds per call, one entry per round.
    """
    calls = dict.fromkeys(cases, 1)
    for name, run in cases.items():
        for _ in range(warmup):
            run()
        if sample_seconds > 0:
            synchronize()
            began = time.perf_counter()
            run()
            synchronize()
            calls[name] = math.ceil(sample_seconds / (time.perf_counter() - began))
    order = list(cases)
    shuffle = random.Random(0).shuffle
    samples: dict[str, list[float]] = {name: [] for name in cases}
    began = time.perf_counter()
    for index in range(rounds):
        if index >= least and time.perf_counter() - began > budget_seconds:
            break
        shuffle(order)
        for name in order:
            run = cases[name]
            synchronize()
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            synchronize()
            samples[name].append((time.perf_counter() - start) / calls[name])
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of samples."""
    if len(values) == 1:
        return dict.fromkeys(("median", "lower", "upper"), values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper}


def quotients(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Return median and quartiles of the ratio within each round, so that drift cancels."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


# -------------------------------------------------------------------------------------- memory


class PeakMemory:
    """Peak of the process's resident memory, minus the resident memory at construction.

    Use the libraries once before (to start threads and allocate buffers), in a process without
    larger work.
    """

    def __init__(self) -> None:
        self._meter = memory.PeakMemory(torch.device("cpu"))
        self._meter.start()

    def read(self) -> int:
        """Return bytes of the peak; if it cannot be reset, those above the process's maximum."""
        return self._meter.read() or 0


# Have glibc return freed memory at once: kept memory would hide the use of a pass.
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def in_child(function: str, threads: int, *, for_memory: bool = False, **arguments: Any) -> Any:
    """Call a function in a new process and return its result.

    Args:
        function: ``"package.module:name"``.
        threads: Threads of torch in that process.
        for_memory: Return freed memory at once, so that the peak is that of live tensors; too slow
            for times.
        arguments: Keyword arguments of the function; they and the result are passed as JSON.

    Raises:
        RuntimeError: The process failed; its output is on stderr.
    """
    request = {"function": function, "threads": threads, "arguments": arguments}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.measure"],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": str(threads),
            **(_RETURN_MEMORY if for_memory else {}),
        },
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{function} with {arguments} ended with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def _child() -> None:
    """Serve one :func:`in_child`."""
    request = json.loads(sys.stdin.read())
    torch.set_num_threads(request["threads"])
    result = pkgutil.resolve_name(request["function"])(**request["arguments"])
    print(json.dumps(result))


# --------------------------------------------------------------------------------- the machine


def physical_cores() -> int:
    """Return the physical cores that this process may use; logical ones if unknown."""
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return usable
    cores = set(re.findall(r"^physical id\s*: (\d+)$.*?^core id\s*: (\d+)$", text, re.M | re.S))
    return min(usable, len(cores) or usable)


def machine(threads: int, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts of the machine that measurements depend on."""
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        names = []
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": physical_cores(),
        "threads": threads,
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version(name) for name in packages},
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def matmul_rate(dtype: torch.dtype, threads: int, *, size: int = 2048, seconds: float) -> float:
    """Return operations per second of a large matrix product, two per multiply-add."""
    a, b, out = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    scope = {"torch": torch, "a": a, "b": b, "out": out}
    timer = Timer("torch.mm(a, b, out=out)", globals=scope, num_threads=threads)
    return 2 * size**3 / timer.blocked_autorange(min_run_time=seconds).median


def bandwidth(working_set: int, threads: int, *, seconds: float) -> float:
    """Return bytes per second of ``out = a + 2 b`` on three arrays, ``working_set`` in total.

    Two arrays are read and one is written, 12 bytes per element, as in STREAM's triad. The working
    set decides whether caches are used; it is capped at 768 MiB, above which the rate is constant.
    """
    elements = max(min(working_set, 768 * MIB) // 12, 1)
    a, b, out = (torch.ones(elements) for _ in range(3))
    scope = {"torch": torch, "a": a, "b": b, "out": out}
    timer = Timer("torch.add(a, b, alpha=2.0, out=out)", globals=scope, num_threads=threads)
    return 12 * elements / timer.blocked_autorange(min_run_time=seconds).median


def rates(threads: int, *, seconds: float) -> dict[str, float]:
    """Return limits of the machine in operations and bytes per second, each timed ``seconds``."""
    return {
        "float32": matmul_rate(torch.float32, threads, seconds=seconds),
        "bfloat16": matmul_rate(torch.bfloat16, threads, seconds=seconds),
        "memory": bandwidth(768 * MIB, threads, seconds=seconds),
    }


# ------------------------------------------------------------------------------------ the docs


def publish(
    docs: Path, name: str, result: Mapping[str, Any], markdown: Callable[[Any], str]
) -> None:
    """Write ``NAME.json`` under ``docs`` and the block ``NAME`` of ``performance.md`` from it."""
    path = docs / "assets" / "performance" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    text = markdown(json.loads(path.read_text(encoding="utf-8")))
    replace_block(docs / "performance.md", name, text)


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace the text between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

    Raises:
        ValueError: The page does not have each mark once, in this order.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    whole = page.read_text(encoding="utf-8")
    head, _, rest = whole.partition(begin)
    _, closed, tail = rest.partition(end)
    if not closed or whole.count(begin) != 1 or whole.count(end) != 1:
        raise ValueError(f"{page} must have {begin} and {end}, once each and in this order")
    page.write_text(f"{head}{begin}\n{text.strip()}\n{end}{tail}", encoding="utf-8")


def milliseconds(seconds: float) -> str:
    """Return seconds as milliseconds with about three digits."""
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, the first column left-aligned, the others right-aligned."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, marks, *rows))


def provenance(result: Mapping[str, Any]) -> str:
    """Return command, date, machine, versions and load of a result, as a sentence."""
    facts = dict(result["machine"])
    cores, threads = (_count(facts.pop(key), key.removesuffix("s")) for key in ("cores", "threads"))
    date, cpu, system = facts.pop("date"), facts.pop("cpu"), facts.pop("platform")
    load = facts.pop("load_before")
    parts = [cpu, cores, threads, system, *(f"{name} {value}" for name, value in facts.items())]
    busy = "" if load is None else f" Load before the run: {load:.1f}."
    return f"`{result['command']}`, {date}: {', '.join(parts)}.{busy}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


if __name__ == "__main__":
    _child()
