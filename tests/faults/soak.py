"""Train for a given number of updates and record memory, descriptors and threads.

    python -m tests.faults.soak RUN_DIR UPDATES

A small run trains in chunks. After each chunk it writes one line of JSON: updates made, resident
bytes, open descriptors and threads. Every fourth chunk begins with loading and evaluating the run,
so the samples include leaks of these.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tests.training.runs import tiny

from drama import Agent, Config, presets
from drama.training.memory import resident_bytes

HOURS = 8.0
CHUNK = 50
"""Environment steps between two samples of a short soak; long ones take 200 samples."""
MOST_GROWTH = 16 * 2**20
"""Bytes by which the resident size may differ between two fifths of a soak."""

SETTINGS: dict[str, Any] = {
    "steps": 10**8,
    "world_model.dynamics.layers": 1,
    "training.checkpoint_every": 500,
    "training.log_every": 100,
    "evaluation.episodes": 2,
}


def updates_in(hours: float) -> int:
    """Return how many updates the preset ``quick`` makes in some hours of CPU time.

    CPU seconds are measured over 20 updates on one thread, after 4 that warm up; so other
    processes on the machine do not lower the count.
    """
    torch.set_num_threads(1)
    settings = {"device": "cpu", "training.threads": 1, "training.tensorboard": False}
    config = presets.quick().override(settings)
    agent = Agent("drama/Catch-v0", config)
    ratio = config.training.world_model_ratio + config.training.behaviour_ratio
    agent.learn(config.training.warmup_steps + round(4 / ratio), listeners=[lambda *_: None])
    began = time.process_time()
    agent.learn(round(20 / ratio), listeners=[lambda *_: None])
    return int(3600 * hours * 20 / (time.process_time() - began))


def config() -> Config:
    """Return the configuration of the small run."""
    return tiny(SETTINGS)


def sample(agent: Agent, updates: int) -> dict[str, int]:
    """Return the process's present memory, descriptors and threads."""
    gc.collect()
    return {
        "updates": updates,
        "steps": agent.num_timesteps,
        "resident": resident_bytes(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def soak(run: Path, updates: int) -> None:
    """Train for a number of updates; print a sample after each chunk."""
    torch.set_num_threads(1)
    agent = Agent("drama/Catch-v0", config())
    ratio = agent.config.training.world_model_ratio + agent.config.training.behaviour_ratio
    warmup = agent.config.training.warmup_steps
    chunk = max(CHUNK, round(updates / ratio / 200))
    made = chunks = 0
    while made < updates:
        if chunks and chunks % 4 == 0:
            agent = Agent.load(run)
            agent.evaluate(2)
        if chunks:
            agent.learn(chunk)
        else:
            agent.learn(chunk, run_dir=run)
        chunks += 1
        made = round((agent.num_timesteps - warmup) * ratio)
        print(json.dumps(sample(agent, made)), flush=True)


def growth(samples: Sequence[dict[str, int]], name: str) -> float:
    """Return the median of the last fifth of the samples less that of the second fifth."""
    fifth = max(1, len(samples) // 5)
    early = statistics.median(s[name] for s in samples[fifth : 2 * fifth])
    return statistics.median(s[name] for s in samples[-fifth:]) - early


def excess(samples: Sequence[dict[str, int]]) -> list[str]:
    """Name the growing quantities and the samples above the maximum of the first fifth."""
    found = []
    settled = samples[: max(1, len(samples) // 5)]
    for name in ("descriptors", "threads"):
        most = max(s[name] for s in settled)
        more = [s for s in samples if s[name] > most]
        found += [f"after {s['updates']} updates {s[name]} {name}, not {most}" for s in more]
    grown = growth(samples, "resident")
    if grown > MOST_GROWTH:
        found.append(f"resident memory grew by {grown / 2**20:.0f} MiB")
    return found


if __name__ == "__main__":
    soak(Path(sys.argv[1]), int(sys.argv[2]))
