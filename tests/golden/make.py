"""Train the golden runs of this version: small runs that every later version loads and resumes.

    python tests/golden/make.py

Run it once per release, with the released code on the path; the files of earlier releases are
never made again. It writes ``tests/golden/<version>/NAME.tar.xz``, a run directory, and
``NAME.json``, the numbers that ``tests/test_golden.py`` expects of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import drama
from drama import Agent, presets
from drama.config import Config, from_dict

HERE = Path(__file__).resolve().parent
STEPS = 60
"""Steps of the run: 24 of warm-up, then 18 updates of each kind."""
MORE = 20
"""Steps of the recorded continuation: 10 updates of each kind."""
EPISODES = 4
"""Evaluation episodes of each policy mode."""

BASE: dict[str, Any] = {
    "steps": STEPS,
    "device": "cpu",
    "env.id": "drama/Catch-v0",
    "replay.capacity": 200,
    "world_model.filters": [4, 4, 4, 8],
    "world_model.latent_variables": 4,
    "world_model.latent_classes": 4,
    "world_model.head_units": 16,
    "world_model.vector_units": 16,
    "world_model.bins": 41,
    "world_model.batch_size": 4,
    "world_model.batch_length": 8,
    "world_model.dynamics.width": 16,
    "world_model.dynamics.headdim": 16,
    "world_model.dynamics.num_heads": 4,
    "world_model.optim.lr": 0.005,
    "world_model.optim.warmup": 5,
    "behaviour.actor_units": 16,
    "behaviour.critic_units": 16,
    "behaviour.bins": 41,
    "behaviour.batch_size": 8,
    "behaviour.context": 4,
    "behaviour.horizon": 3,
    "behaviour.optim.lr": 0.01,
    "behaviour.optim.warmup": 5,
    "training.warmup_steps": 24,
    "training.world_model_ratio": 0.5,
    "training.behaviour_ratio": 0.5,
    "training.precision": "float32",
    "training.log_every": 5,
    "training.checkpoint_every": 1000,
    "training.keep_checkpoints": 1,
    "training.tensorboard": False,
    "evaluation.episodes": EPISODES,
    "evaluation.num_envs": 2,
}

CASES: dict[str, dict[str, Any]] = {
    "catch-mamba2-actor-critic": {},
    "cartpole-transformer": {"env.id": "CartPole-v1", "world_model.dynamics.name": "transformer"},
    "catch-mamba1-ppo": {
        "world_model.dynamics.name": "mamba1",
        "behaviour.algorithm": "ppo",
        "behaviour.policy_context": "previous",
        "replay.sampler": "dfs-trained",
        "training.random_action_repeat": 2.0,
    },
    "catch-lookahead-overlap-small-ring": {
        "behaviour.lookahead": 2,
        "behaviour.actor_gradient": "all-actions",
        "behaviour.policy_context": "current",
        "replay.capacity": 48,
        "training.overlap": True,
    },
}
"""The settings of each run, beyond those of :data:`BASE`."""


def config(name: str) -> Config:
    """Return the configuration of one run."""
    tree = dataclasses.asdict(presets.quick())
    for path, value in {**BASE, **CASES[name]}.items():
        *sections, key = path.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        assert key in branch, path
        branch[key] = value
    return from_dict(Config, tree)


def evaluation(agent: Agent) -> dict[str, list[list[float]]]:
    """Return and length of each evaluation episode, by policy mode."""
    found = {}
    for mode, greedy in (("greedy", True), ("sampled", False)):
        result = agent.evaluate(EPISODES, greedy=greedy).to_dict()
        found[mode] = [[e["return"], e["length"]] for e in result["episodes"]]
    return found


def rows(run: Path, log: str) -> list[dict[str, float]]:
    """Rows of a log of ``run``, without those that count seconds."""
    lines = (run / f"{log}.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if not k.startswith("time/") and k != "seconds"}
        for line in lines
    ]


def continuation(agent: Agent, run: Path) -> dict[str, list[dict[str, float]]]:
    """Learn :data:`MORE` steps; returns the rows that this adds to each log."""
    before = {log: len(rows(run, log)) for log in ("metrics", "episodes")}
    agent.learn(MORE)
    return {log: rows(run, log)[count:] for log, count in before.items()}


def pack(run: Path, archive: Path) -> None:
    """Write a run directory as an archive that does not depend on the time or the user."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.mtime = member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() else 0o644
        return member

    with tarfile.open(archive, "w:xz", preset=9) as file:
        for path in sorted(run.rglob("*")):
            if path.is_file() and path.name != ".lock":
                file.add(path, str(path.relative_to(run)), filter=plain)


def unpack(archive: Path, run: Path) -> Path:
    """Extract a run directory."""
    with tarfile.open(archive) as file:
        file.extractall(run, filter="data")
    return run


def make(name: str, directory: Path) -> None:
    """Train one run and record its numbers and its continuation."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(scratch) / name
        Agent(config=config(name)).learn(STEPS, run_dir=run)
        pack(run, directory / f"{name}.tar.xz")
        copy = Path(shutil.copytree(run, Path(scratch) / "copy"))
        expected = {
            "steps": STEPS,
            "made_with": {
                "drama": drama.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "gymnasium": gym.__version__,
                "machine": platform.machine(),
            },
            "evaluation": evaluation(Agent.load(run)),
            "continuation": continuation(Agent.load(copy), copy),
        }
    text = json.dumps(expected, indent=1) + "\n"
    (directory / f"{name}.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Make all golden runs of this version."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--replace", action="store_true", help="make those of this version anew")
    directory = HERE / drama.__version__
    if directory.exists() and not parser.parse_args().replace:
        parser.error(f"{directory} exists: golden runs of a release stay as they are")
    directory.mkdir(exist_ok=True)
    for name in CASES:
        make(name, directory)
        print(f"{name}: {(directory / f'{name}.tar.xz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
