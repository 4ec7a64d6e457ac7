"""Time of an action and of a start: exported agents in ONNX Runtime beside PyTorch.

Writes ``docs/assets/performance/export.json`` and its block of ``docs/performance.md``. Agents are
untrained, which does not change the times.

    python -m benchmarks.export
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import measure
from drama import Agent, presets
from drama.export import export_onnx
from drama.runtime import OnnxAgent

CASES = ("quick:drama/Catch-v0", "laptop:ALE/Pong-v5", "xs:ALE/Pong-v5")
STARTS = {
    "torch": "import sys, drama; agent = drama.Agent.load(sys.argv[1], device='cpu')",
    "onnx": "import sys; from drama.runtime import OnnxAgent; agent = OnnxAgent(sys.argv[1])",
}
FIRST_ACTION = "; import numpy as np; agent.predict(np.load(sys.argv[2]), deterministic=True)"


def case(preset: str, env: str, threads: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Measure one preset; times in seconds."""
    config = presets.preset(preset)
    small = replace(config.replay, capacity=max(1000, 2 * config.world_model.batch_length))
    agent = Agent(env, replace(config, replay=small), device="cpu")
    run, file, frame = folder / "run", folder / "agent.onnx", folder / "obs.npy"
    agent.save(run, replay=False)
    export_onnx(agent, file)
    other = OnnxAgent(file, threads=threads)
    obs, _ = agent.env.reset()
    np.save(frame, obs)
    states: dict[str, Any] = {}

    def step(name: str, own: Agent | OnnxAgent) -> None:
        _, states[name] = own.predict(obs, states.get(name), deterministic=True)

    samples = measure.interleaved(
        {"torch": lambda: step("torch", agent), "onnx": lambda: step("onnx", other)},
        rounds=rounds,
        warmup=5,
        sample_seconds=0.2,
    )
    agent.env.close()
    starts = {"torch": [start("torch", run, frame, threads) for _ in range(3)]}
    starts["onnx"] = [start("onnx", file, frame, threads) for _ in range(3)]
    return {
        "preset": preset,
        "env": env,
        "step": {name: measure.spread(values) for name, values in samples.items()},
        "ratio": measure.quotients(samples["torch"], samples["onnx"]),
        "start": {name: statistics.median(values) for name, values in starts.items()},
        "bytes": file.stat().st_size,
    }


def start(kind: str, path: Path, frame: Path, threads: int) -> float:
    """Time a process from its start to its end, after the first action."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", STARTS[kind] + FIRST_ACTION, str(path), str(frame)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    return time.perf_counter() - began


def run(cases: list[str], threads: int, rounds: int, command: str) -> dict[str, Any]:
    """Measure all cases; return the content of the published file."""
    torch.set_num_threads(threads)
    rows = []
    machine = measure.machine(threads, ("onnxruntime",))
    for name in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(case(*name.split(":", 1), threads, rounds, Path(folder)))
    return {"command": command, "machine": machine, "rows": rows}


def markdown(result: dict[str, Any]) -> str:
    """Return the block of the performance page."""
    header = ["greedy action, one environment", "PyTorch", "ONNX Runtime", "speed-up"]
    header += ["start: PyTorch", "ONNX Runtime", "file"]
    rows = []
    for row in result["rows"]:
        step, begun, ratio = row["step"], row["start"], row["ratio"]
        rows.append(
            [
                f"`{row['preset']}` on `{row['env']}`",
                *(f"{measure.milliseconds(step[name]['median'])} ms" for name in ("torch", "onnx")),
                f"{ratio['median']:.1f} ({ratio['lower']:.1f} to {ratio['upper']:.1f})",
                *(f"{begun[name]:.1f} s" for name in ("torch", "onnx")),
                f"{row['bytes'] / 1e6:.1f} MB",
            ]
        )
    return f"{measure.table(header, rows)}\n\n{measure.provenance(result)}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.export")
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="PRESET:ENV")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--print-only", action="store_true", help="print the block, write no file")
    options = parser.parse_args(arguments)
    command = f"python -m benchmarks.export --threads {options.threads}"
    if options.cases != list(CASES):
        command += f" --cases {' '.join(options.cases)}"
    result = run(options.cases, options.threads, options.rounds, command)
    print(markdown(result))
    if not options.print_only:
        measure.publish(options.docs, "export", result, markdown)


if __name__ == "__main__":
    main()
