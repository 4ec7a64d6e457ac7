"""What every benchmark needs: time, peak memory, the machine, and the way into the docs.

A benchmark measures into one dictionary, which :func:`publish` writes to
``docs/assets/performance/NAME.json``, and from that file alone makes the Markdown of its block in
``docs/performance.md``.
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
    """Time several callables in turn, so that a change of the machine's load meets all alike.

    Args:
        cases: What to time, by name.
        rounds: Samples of each. In every round each case is timed once, in an order drawn anew.
        warmup: Calls of each before the first sample.
        sample_seconds: A sample is the mean of as many calls as take that long, judged by one call.
        budget_seconds: No new round begins after that long, if there were ``least``.
        least: Rounds made whatever they take.
        synchronize: Waits for an accelerator's pending work; called around every sample.

    Returns:
        Seconds per call, one entry per round: entries of one index belong to one round.
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
    """Median and quartiles of samples."""
    if len(values) == 1:
        return dict.fromkeys(("median", "lower", "upper"), values[0])
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "lower": lower, "upper": upper}


def quotients(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratio, taken within each round, so that drift cancels."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


# -------------------------------------------------------------------------------------- memory


class PeakMemory:
    """The process's peak of resident memory since it was made, over what was resident then.

    The libraries should have been used once before (threads started, buffers made), in a process
    that did nothing larger.
    """

    def __init__(self) -> None:
        self._meter = memory.PeakMemory(torch.device("cpu"))
        self._meter.start()

    def read(self) -> int:
        """Bytes of the peak; where the mark cannot be reset, those beyond all ever used."""
        return self._meter.read() or 0


# Has glibc return what is freed at once. Kept, it would be there before a pass, and hide its use.
_RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def in_child(function: str, threads: int, *, for_memory: bool = False, **arguments: Any) -> Any:
    """Call a function in a fresh process and return what it returned.

    Args:
        function: ``"package.module:name"``.
        threads: Threads that torch gets there.
        for_memory: Have the process return freed memory at once, so that its peak is that of what
            was alive. Slower: not for times.
        arguments: Keyword arguments of the function; they and the result travel as JSON.

    Raises:
        RuntimeError: The process failed; its errors are on stderr.
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
    """Cores this process may use, hyper-threads not counted where the system tells them apart."""
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
    """Facts that a number depends on."""
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
    """Operations per second of a large matrix product: a multiplication and an addition are two."""
    a, b, out = (torch.ones(size, size, dtype=dtype) for _ in range(3))
    scope = {"torch": torch, "a": a, "b": b, "out": out}
    timer = Timer("torch.mm(a, b, out=out)", globals=scope, num_threads=threads)
    return 2 * size**3 / timer.blocked_autorange(min_run_time=seconds).median


def bandwidth(working_set: int, threads: int, *, seconds: float) -> float:
    """Bytes per second of ``out = a + 2 b`` on three arrays of ``working_set`` bytes together.

    Two arrays are read and one is written, 12 bytes an element, as STREAM's triad counts. A working
    set that fits a cache moves faster than one that does not, hence the argument; it is capped at
    768 MiB, beyond which nothing changes.
    """
    elements = max(min(working_set, 768 * MIB) // 12, 1)
    a, b, out = (torch.ones(elements) for _ in range(3))
    scope = {"torch": torch, "a": a, "b": b, "out": out}
    timer = Timer("torch.add(a, b, alpha=2.0, out=out)", globals=scope, num_threads=threads)
    return 12 * elements / timer.blocked_autorange(min_run_time=seconds).median


def rates(threads: int, *, seconds: float) -> dict[str, float]:
    """Limits of the machine: operations and bytes per second, each measured for ``seconds``."""
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
    """Put ``text`` between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.

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
    """Seconds as milliseconds, with about three digits."""
    value = 1e3 * seconds
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, marks, *rows))


def provenance(result: Mapping[str, Any]) -> str:
    """Say in a line or two where the numbers of a result come from."""
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
