"""Checks and measurements of training on a GPU, in under eight minutes.

``python -m benchmarks.gpu`` needs PyTorch with CUDA and the dependencies of `drama`, but no network
and no compiler (without Triton or a C++ compiler the compiled cases are skipped and listed). It

1. compares results on GPU and CPU, graphs and eager updates, and checks that no update waits for
   the host (`benchmarks/gpu_checks.py`);
2. times each phase of a training step: eager in float32 and bfloat16, as CUDA graphs, compiled;
3. trains on the real environment and measures environment steps per second, for one and for several
   runs on the GPU;
4. lists the kernels with the largest share of an update.

Each section ends with a line on stdout and an entry in ``docs/assets/performance/gpu.json``, which
is written after each section, so that later failures lose nothing. A failed section records its
error. ``--device cpu`` runs everything at small sizes, for tests.

One file: the sections share their settings and one report.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_checks, measure
from drama import Agent, presets
from drama.config import Config
from drama.training.device import device_name, process_settings
from drama.training.trainer import Trainer

GOAL = 60.0
"""Environment steps per second of XS at the paper's batch sizes: 100 000 in under half an hour."""

CASES: dict[str, dict[str, Any]] = {
    "eager, float32": {"precision": "float32", "cuda_graphs": False},
    "eager": {"cuda_graphs": False},
    "graphs": {},
    "compiled": {"compile": True, "cuda_graphs": False},
    "compiled, graphs": {"compile": True},
}
"""Variants of an update, by changed fields of ``training``."""


def configured(device: str, env: str, small: bool, **training: Any) -> Config:
    """Return size XS, or a tiny one, with changed fields of ``training``."""
    config = presets.xs()
    if small:
        quick = presets.quick()
        config = dataclasses.replace(
            quick,
            world_model=dataclasses.replace(quick.world_model, batch_size=2, batch_length=16),
            behaviour=dataclasses.replace(quick.behaviour, batch_size=8, horizon=3),
            training=dataclasses.replace(
                quick.training, warmup_steps=64, world_model_ratio=1.0, behaviour_ratio=1.0
            ),
        )
    return dataclasses.replace(
        config,
        device=device,
        env=dataclasses.replace(config.env, id=env),
        training=dataclasses.replace(config.training, tensorboard=False, **training),
    )


@contextmanager
def trainer(config: Config, rows: int) -> Iterator[Trainer]:
    """Yield a trainer whose replay holds random play; free everything at the end."""
    agent = Agent(config=config)
    with process_settings(config.training, agent.device):
        made = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
        try:
            while made.replay.total < rows:
                made.collect()
            yield made
        finally:
            agent.env.close()
            del made, agent
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# ----------------------------------------------------------------------------------- sections


def ceilings(device: str, small: bool) -> dict[str, float]:
    """Return operations per second of a large product and bytes per second of a large copy."""
    size, count = (256, 3) if small else (8192, 20)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    block = torch.randn(size * size * (1 if small else 16), device=device)
    other = torch.empty_like(block)
    found = {}
    work = {
        "bfloat16": (lambda: a @ b, 2.0 * size**3),
        "memory": (lambda: other.copy_(block), 2.0 * block.numel() * 4),
    }
    for name, (run, amount) in work.items():
        samples = measure.interleaved(
            {name: run}, rounds=count, synchronize=lambda: wait(device), sample_seconds=0.01
        )
        found[name] = amount / measure.spread(samples[name])["median"]
    return found


def phases(device: str, env: str, small: bool, case: str, rounds: int) -> dict[str, Any]:
    """Time both kinds of update in one variant and measure peak memory."""
    config = configured(device, env, small, **CASES[case])
    rows = max(config.training.warmup_steps, config.world_model.batch_length + 1)
    with trainer(config, rows) as made:
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(5):  # kernels are chosen, graphs recorded, functions compiled
            for purpose in made.learner.updates:
                made.update(purpose)
        wait(device)
        warm_up = time.perf_counter() - began
        samples = measure.interleaved(
            {
                purpose: lambda purpose=purpose: made.update(purpose)
                for purpose in made.learner.updates
            },
            rounds=rounds,
            synchronize=lambda: wait(device),
            sample_seconds=0.0 if small else 0.1,
        )
        # The host's share: how long it takes to hand an update over.
        made.clock.flush()
        for purpose in made.learner.updates:
            made.update(purpose)
        queued = {k: v for k, v in made.clock.flush().items() if v > 0}
        wait(device)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    update = {name: measure.spread(values) for name, values in samples.items()}
    return {
        "seconds": update,
        "step": sum(values["median"] for values in update.values()),
        "host seconds": queued,
        "warm-up seconds": warm_up,
        "peak bytes": peak,
    }


def end_to_end(device: str, env: str, small: bool, seconds: float, **training: Any) -> dict:
    """Return environment steps per second of training after warm-up and graph capture."""
    config = configured(device, env, small, **training)
    with trainer(config, config.training.warmup_steps) as made:
        made.run(made.step + 20)
        wait(device)
        begun, before = time.perf_counter(), made.step
        made.clock.flush()
        while time.perf_counter() - begun < seconds:
            made.run(made.step + 10)
        wait(device)
        took = time.perf_counter() - begun
        split = {k: round(v / took, 4) for k, v in made.clock.flush().items()}
        steps = made.step - before
    return {"steps": steps, "seconds": took, "steps_per_second": steps / took, "time": split}


def packed(device: str, env: str, small: bool, seconds: float, count: int, **training: Any) -> dict:
    """Return the same for several parallel processes on one GPU."""
    request = {"device": device, "env": env, "small": small, "seconds": seconds, **training}
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", json.dumps(request)]
    path = os.pathsep.join(filter(None, (str(measure.ROOT), os.environ.get("PYTHONPATH"))))
    env_ = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env_) for _ in range(count)
    ]
    rates = []
    for run in runs:
        text, _ = run.communicate(timeout=60 + 20 * seconds)
        if run.returncode:
            raise RuntimeError(f"one of {count} runs ended with exit code {run.returncode}")
        rates.append(json.loads(text.splitlines()[-1])["steps_per_second"])
    return {"runs": count, "steps_per_second": sum(rates), "of each": rates}


def profile(device: str, env: str, small: bool, case: str, top: int = 15) -> dict[str, Any]:
    """Return kernels by their time in one update of each kind."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = device == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    with trainer(configured(device, env, small, **CASES[case]), 200) as made:
        for _ in range(5):
            for purpose in made.learner.updates:
                made.update(purpose)
        found: dict[str, Any] = {}
        for purpose in made.learner.updates:
            wait(device)
            with record(activities=[activity]) as recorded:
                made.update(purpose)
                wait(device)
            rows = [
                (e.self_device_time_total if cuda else e.self_cpu_time_total, e.count, e.key)
                for e in recorded.key_averages()
            ]
            rows.sort(reverse=True)
            found[purpose] = {
                "microseconds": sum(row[0] for row in rows),
                "launches": sum(row[1] for row in rows),
                "top": [
                    {"microseconds": spent, "count": count, "name": name[:120]}
                    for spent, count, name in rows[:top]
                ],
            }
    return found


# ------------------------------------------------------------------------------------- the run


class Report:
    """The result, written after each section."""

    def __init__(self, path: Path, seconds: float, head: dict[str, Any]) -> None:
        self.path, self.until = path, time.perf_counter() + seconds
        self.began = time.perf_counter()
        self.result: dict[str, Any] = {**head, "sections": {}, "errors": {}}

    def add(self, name: str, run: Callable[[], Any], *, needs: float = 0.0) -> Any:
        """Run a section unless fewer than ``needs`` seconds remain; record result or error."""
        left = self.until - time.perf_counter()
        if left < needs:
            self.result["errors"][name] = f"skipped: {left:.0f} s remain, {needs} s needed"
            print(f"{name}: {self.result['errors'][name]}", flush=True)
            return None
        began, found = time.perf_counter(), None
        try:
            found = run()
            self.result["sections"][name] = found
        except Exception as error:  # the sections after this one are worth having all the same
            traceback.print_exc()
            self.result["errors"][name] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        self.result["seconds"] = round(time.perf_counter() - self.began, 1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.result, indent=2) + "\n", encoding="utf-8")
        return found


def run(device: str, env: str, small: bool, minutes: float, out: Path, command: str) -> dict:
    """Run every section and return the result."""
    head = {
        "command": command,
        "measured": device == "cuda",
        "machine": {
            **measure.machine(torch.get_num_threads()),
            "gpu": device_name(torch.device(device)) if device == "cuda" else "none",
            "cuda": torch.version.cuda or "none",
        },
        "env": env,
        "goal": GOAL,
    }
    report = Report(out, 60.0 * minutes, head)
    seconds = 1.0 if small else 20.0
    rounds = 3 if small else 15
    report.add("ceilings", lambda: ceilings(device, small))
    for name, check in gpu_checks.CHECKS.items():
        config = configured(device, env, True)
        report.add(f"check: {name}", lambda check=check, config=config: check(config))
    for case in ("eager, float32", "eager", "graphs"):
        report.add(
            f"phases: {case}",
            lambda case=case: phases(device, env, small, case, rounds),
            needs=30,
        )
    report.add("profile: eager", lambda: profile(device, env, small, "eager"), needs=30)
    report.add("end to end", lambda: end_to_end(device, env, small, seconds), needs=40)
    report.add(
        "end to end, overlapped",
        lambda: end_to_end(device, env, small, seconds, overlap=True),
        needs=40,
    )
    for count in (1, 2) if small else (2, 4):
        report.add(
            f"packed: {count}",
            lambda count=count: packed(device, env, small, seconds, count),
            needs=70,
        )
    if device == "cuda":  # a minute each to compile: last, and only if there is the time
        for case in ("compiled, graphs", "compiled"):
            report.add(
                f"phases: {case}",
                lambda case=case: phases(device, env, small, case, rounds),
                needs=100,
            )
        report.add(
            "end to end, compiled",
            lambda: end_to_end(device, env, small, seconds, compile=True, overlap=True),
            needs=100,
        )
    return report.result


def markdown(result: dict[str, Any]) -> str:
    """Return the block of the performance page."""
    if not result["measured"]:
        return (
            "Not yet measured: no run on a GPU has been recorded. `python -m benchmarks.gpu` on "
            "one writes this part."
        )
    sections = result["sections"]
    rows = []
    for case in CASES:
        found = sections.get(f"phases: {case}")
        if found is None:
            continue
        update = found["seconds"]
        rows.append(
            [
                case,
                *(measure.milliseconds(update[k]["median"]) for k in ("world_model", "behaviour")),
                measure.milliseconds(found["step"]),
                f"{1.0 / found['step']:.0f}",
                f"{found['peak bytes'] / 1e9:.1f}",
            ]
        )
    header = ["variant", "world model, ms", "behaviour, ms", "both, ms", "most steps/s", "peak GB"]
    parts = [measure.table(header, rows)]
    runs = [
        [name, f"{found['steps_per_second']:.1f}", "yes" if met else "no"]
        for name, found in sections.items()
        if name.startswith(("end to end", "packed"))
        for met in (found["steps_per_second"] >= result["goal"],)
    ]
    parts.append(
        measure.table(["training with environment", "env steps/s", f"≥ {result['goal']:.0f}"], runs)
    )
    checks = [name for name in sections if name.startswith("check: ")]
    failed = [name for name in result["errors"] if name.startswith("check: ")]
    parts.append(f"Checks passed: {len(checks)}; failed: {', '.join(failed) or 'none'}.")
    parts.append(measure.provenance(result))
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.gpu")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--env", default="ALE/Pong-v5")
    parser.add_argument(
        "--minutes", type=float, default=7.5, help="no new section begins after this time"
    )
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--out", type=Path, help="path of the JSON, instead of the docs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(end_to_end(**json.loads(options.child))))
        return 0
    if options.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks.gpu: PyTorch finds no CUDA device", file=sys.stderr)
        return 2
    small = options.device == "cpu"
    out = options.out or options.docs / "assets" / "performance" / "gpu.json"
    command = f"python -m benchmarks.gpu --env {options.env}"
    result = run(options.device, options.env, small, options.minutes, out, command)
    print(markdown({**result, "measured": True}) if not small else "done")
    if result["measured"] and options.out is None:
        measure.publish(options.docs, "gpu", result, markdown)
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
