"""Learning curve of the quickstart: ``python -m benchmarks.quickstart``.

Trains the ``quick`` preset on Catch with each seed, sequentially in separate processes, evaluates
100 greedy episodes, and writes ``docs/assets/quickstart.json`` and ``.png``. Finished runs under
``--runs`` are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

import drama
from drama import presets

ENV = "drama/Catch-v0"
ASSETS = Path(__file__).resolve().parent.parent / "docs" / "assets"


def train(run_dir: Path, seed: int) -> None:
    """Train one seed unless its evaluation exists; record the wall time."""
    if (run_dir / "eval.json").is_file():
        return
    command = [sys.executable, "-m", "drama", "train", "quick", "--env", ENV]
    began = time.perf_counter()
    subprocess.run([*command, "--seed", str(seed), "--run-dir", str(run_dir)], check=True)
    (run_dir / "wall_seconds.json").write_text(json.dumps(time.perf_counter() - began))


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean of the last ``width`` values, fewer at the beginning."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    means: np.ndarray = (sums[stop] - sums[start]) / (stop - start)
    return means


def main() -> None:
    """Train, collect and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/quickstart-curve"))
    args = parser.parse_args()

    rows, curves = [], {}
    for seed in args.seeds:
        run_dir = args.runs / f"seed-{seed}"
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        train(run_dir, seed)
        episodes = [json.loads(line) for line in (run_dir / "episodes.jsonl").open()]
        returns = running_mean(np.array([e["return"] for e in episodes]), 20)
        # The first means cover too few episodes.
        curves[seed] = (np.array([e["step"] for e in episodes])[19:], returns[19:])
        greedy = json.loads((run_dir / "eval.json").read_text())["greedy"]
        rows.append(
            {
                "seed": seed,
                "greedy_mean": greedy["mean"],
                "episodes": len(greedy["episodes"]),
                "wall_seconds": json.loads((run_dir / "wall_seconds.json").read_text()),
            }
        )
    result = {
        "env": ENV,
        "preset": "quick",
        "command": "python -m benchmarks.quickstart",
        "versions": {"drama": drama.__version__, "torch": torch.__version__},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": presets.quick().training.threads,
        "runs": rows,
    }
    ASSETS.mkdir(parents=True, exist_ok=True)
    (ASSETS / "quickstart.json").write_text(json.dumps(result, indent=2) + "\n")

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    for seed, (steps, returns) in curves.items():
        axes.plot(steps, returns, label=f"seed {seed}", linewidth=1.5)
    axes.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(-0.75, color="grey", linewidth=0.8, linestyle=":")
    axes.text(0, 1.0, "optimum", va="bottom", fontsize=8, color="grey")
    axes.text(5000, -0.75, "random policy", va="bottom", ha="right", fontsize=8, color="grey")
    axes.set(xlabel="environment steps", ylabel="return, mean of 20 episodes", ylim=(-1.05, 1.15))
    axes.set_title("drama train quick --env drama/Catch-v0", fontsize=10)
    axes.legend(frameon=False, fontsize=8, loc="center right")
    figure.savefig(ASSETS / "quickstart.png", dpi=120)
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
