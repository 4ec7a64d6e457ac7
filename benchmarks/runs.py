"""Time split of a run, and comparison with the measurements of ``drama doctor``.

``python -m benchmarks.runs`` trains a preset, reads the logs of the run, times the trainer of
``drama doctor`` and a trainer in training alternately, and writes
``docs/assets/performance/runs.json`` and its block of ``docs/runs.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from drama import Agent, presets
from drama.machine.measurement import Measurement
from drama.training.clock import PHASES
from drama.training.device import process_settings
from drama.training.trainer import Trainer

NAMES = {
    "env": "environment steps and resets",
    "acting": "model inference on one frame per action",
    "replay": "writing and sampling transitions",
    "world_model": "world-model updates",
    "imagination": "imagined rollouts",
    "behaviour": "actor-critic updates",
    "logging": "`metrics.jsonl`, `episodes.jsonl`, TensorBoard",
    "callbacks": "progress display, user callbacks",
    "checkpoint": "checkpoints",
    "other": "the training loop and all time not listed above",
}


def drama(*args: str) -> str:
    """Run a drama command and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "drama", *args], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def after_warmup(rows: Sequence[dict[str, Any]], warmup: int) -> dict[str, float]:
    """Return environment steps per second, and seconds per phase and step, after the warm-up.

    Args:
        rows: Rows of ``metrics.jsonl``.
        warmup: Steps before the first update; rows that begin earlier are left out.
    """
    seconds = dict.fromkeys(PHASES, 0.0)
    steps = 0
    for before, row in zip([{"step": 0}, *rows], rows, strict=False):
        if before["step"] >= warmup:
            steps += row["step"] - before["step"]
            for phase in PHASES:
                seconds[phase] += row[f"time/{phase}"] * row["time/wall_seconds"]
    return {
        "env_steps_per_second": steps / sum(seconds.values()),
        **{phase: value / steps for phase, value in seconds.items()},
    }


def in_turn(preset: str, env: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return median seconds per phase of the doctor's trainer and of a trained one.

    Both run alternately in one process, so that other load on the machine affects both. The
    doctor's replay is full, the other holds what was collected.
    """
    config = presets.preset(preset)
    agents = [Agent(env, config), Agent(env, config)]
    with process_settings(config.training, agents[0].device):
        doctor = Measurement(preset, agents[0]).trainer
        real = Trainer(config, agents[1].env, agents[1].world_model, agents[1].behaviour)
        real.run(config.training.warmup_steps + 100)
        doctor.collector.step = real.step
        samples: dict[str, list[dict[str, float]]] = {"doctor": [], "training": []}
        for number in range(rounds + 3):
            for name, trainer in (("doctor", doctor), ("training", real)):
                trainer.clock.flush()
                for _ in range(5):
                    trainer.collect()
                seconds = {phase: value / 5 for phase, value in trainer.clock.flush().items()}
                trainer.update("world_model")
                trainer.update("behaviour")
                seconds |= {
                    phase: value
                    for phase, value in trainer.clock.flush().items()
                    if phase in ("world_model", "imagination", "behaviour")
                }
                if number >= 3:
                    samples[name].append(seconds)
    phases = ("env", "acting", "world_model", "imagination", "behaviour")
    return {
        name: {phase: statistics.median(r[phase] for r in found) for phase in phases}
        for name, found in samples.items()
    }


def run(preset: str, env: str, steps: int, rounds: int, command: str) -> dict[str, Any]:
    """Train, read the logs of the run, and compare with the doctor's trainer."""
    machine = measure.machine(1)
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "run"
        printed = drama(
            *("train", preset, "--env", env, "--steps", str(steps), "--run-dir", str(directory)),
            *("--evaluation.episodes", "0"),
        )
        (start,) = json.loads((directory / "run.json").read_text())["starts"]
        rows = [json.loads(line) for line in (directory / "metrics.jsonl").open()]
        warmup = json.loads((directory / "config.json").read_text())["training"]["warmup_steps"]
    return {
        "command": command,
        "machine": {**machine, "threads": start["threads"]},
        "preset": preset,
        "env": env,
        "precision": start["precision"],
        "printed": next(line for line in printed.splitlines() if line.startswith("time: ")),
        "time_split": start["time_split"],
        "after warm-up": after_warmup(rows, warmup),
        "in turn": in_turn(preset, env, rounds),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the block of the page."""
    split, real, turns = result["time_split"], result["after warm-up"], result["in turn"]
    rows = [
        [
            f"`{phase}`",
            NAMES[phase],
            f"{100 * split['fractions'][phase]:.1f} %",
            f"{1e3 * real[phase]:.2f}",
        ]
        for phase in PHASES
    ]
    lines = measure.table(
        ["phase", "content", "share of the run", "ms per step"], rows
    ).splitlines()
    lines[1] = "| --- | --- | ---: | ---: |"
    pairs = [
        [f"`{phase}`", *(f"{1e3 * turns[side][phase]:.2f}" for side in ("doctor", "training"))]
        for phase in turns["doctor"]
    ]
    return "\n\n".join(
        [
            f"`drama train {result['preset']} --env {result['env']}`, {split['until_step']:,} "
            f"steps in {split['wall_seconds']:.0f} s ({result['precision']}). Its time split:",
            f"```\n{result['printed']}\n```",
            "\n".join(lines),
            "*Share of the run* includes the random warm-up; *ms per step* is after it, at "
            f"{real['env_steps_per_second']:.1f} environment steps per second.",
            "The doctor's trainer and a trainer after its first updates, timed alternately in one "
            "process:",
            measure.table(["step, action or update", "doctor, ms", "training, ms"], pairs),
            measure.provenance(result),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.runs")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--env", default="drama/Catch-v0")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=30, help="samples per trainer")
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--print-only", action="store_true", help="print the block, write no file")
    options = parser.parse_args(arguments)
    command = f"python -m benchmarks.runs --preset {options.preset} --steps {options.steps}"
    result = run(options.preset, options.env, options.steps, options.rounds, command)
    print(markdown(result))
    if not options.print_only:
        path = options.docs / "assets" / "performance" / "runs.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        measure.replace_block(options.docs / "runs.md", "runs", markdown(result))


if __name__ == "__main__":
    main()
