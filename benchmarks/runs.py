"""Where the time of a run goes, and whether ``drama doctor`` measures the same work.

``python -m benchmarks.runs`` trains a preset as a user would, reads what the run recorded, times
the doctor's trainer and a training one by turns, and writes ``docs/assets/performance/runs.json``
and its block of ``docs/runs.md``.
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
    "env": "the environment: steps and resets",
    "acting": "choosing actions: the model, on one frame at a time",
    "replay": "writing and drawing experience",
    "world_model": "updates of the world model",
    "imagination": "imagination",
    "behaviour": "updates of actor and critic",
    "logging": "`metrics.jsonl`, `episodes.jsonl`, TensorBoard",
    "callbacks": "live progress, callbacks of the user",
    "checkpoint": "checkpoints",
    "other": "the loop itself, and what nothing above accounts for",
}


def drama(*args: str) -> str:
    """Run the command; returns what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "drama", *args], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def after_warmup(rows: Sequence[dict[str, Any]], warmup: int) -> dict[str, float]:
    """Environment steps per second, and seconds per phase and step, once updates are made.

    Args:
        rows: Of ``metrics.jsonl``.
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
    """Seconds of each update, in the doctor's trainer and in one that has trained, by turns.

    In one process and one after the other, so that other work on the machine meets both alike; the
    median of the rounds. Both replays are drawn from, the doctor's full, the other's as it is.
    """
    config = presets.preset(preset)
    agents = [Agent(env, config), Agent(env, config)]
    with process_settings(config.training, agents[0].device):
        asked = Measurement(preset, agents[0]).trainer
        real = Trainer(config, agents[1].env, agents[1].world_model, agents[1].behaviour)
        real.run(config.training.warmup_steps + 100)
        asked.step = real.step
        samples: dict[str, list[dict[str, float]]] = {"doctor": [], "training": []}
        for number in range(rounds + 3):
            for name, trainer in (("doctor", asked), ("training", real)):
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
    """Train, read what the run recorded, and compare with the doctor's trainer."""
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
    """The block of the page."""
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
    lines = measure.table(["phase", "what", "of the run", "ms a step"], rows).splitlines()
    lines[1] = "| --- | --- | ---: | ---: |"
    pairs = [
        [f"`{phase}`", *(f"{1e3 * turns[side][phase]:.2f}" for side in ("doctor", "training"))]
        for phase in turns["doctor"]
    ]
    return "\n\n".join(
        [
            f"`drama train {result['preset']} --env {result['env']}`, {split['until_step']:,} "
            f"steps in {split['wall_seconds']:.0f} s ({result['precision']}). It ended with",
            f"```\n{result['printed']}\n```",
            "\n".join(lines),
            "*Of the run* counts the random warm-up too; *ms a step* is after it, where "
            f"{real['env_steps_per_second']:.1f} environment steps were made a second.",
            "The trainer that the doctor measures against one that has just begun to train, by "
            "turns in one process:",
            measure.table(["one step, action or update", "doctor's, ms", "in training, ms"], pairs),
            measure.provenance(result),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.runs")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--env", default="drama/Catch-v0")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--print-only", action="store_true", help="write nothing")
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
