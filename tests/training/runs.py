"""A configuration that trains in a second, and ways to compare whole runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from drama import Agent, presets
from drama.config import Config, from_dict
from drama.files import read_tensors
from drama.training.checkpoint import find_checkpoint

STEPS = 60
"""Steps of an ordinary test run: 24 of warm-up, then 18 updates of each kind."""

TINY: dict[str, Any] = {
    "steps": STEPS,
    "device": "cpu",
    "replay.capacity": 200,
    "replay.random_shift": (0, 0),
    "world_model.filters": (8,),
    "world_model.latent_variables": 4,
    "world_model.latent_classes": 4,
    "world_model.spatial_latents": 0,
    "world_model.head_units": 16,
    "world_model.vector_units": 16,
    "world_model.batch_size": 4,
    "world_model.batch_length": 8,
    "world_model.dynamics.width": 32,
    "world_model.dynamics.headdim": 16,
    "world_model.optim.warmup": 5,
    "behaviour.actor_units": 16,
    "behaviour.critic_units": 16,
    "behaviour.batch_size": 8,
    "behaviour.context": 4,
    "behaviour.horizon": 3,
    "behaviour.optim.warmup": 5,
    "training.warmup_steps": 24,
    "training.world_model_ratio": 0.5,
    "training.behaviour_ratio": 0.5,
    "training.precision": "float32",
    "training.log_every": 10,
    "training.checkpoint_every": 20,
    "training.tensorboard": False,
    "evaluation.episodes": 4,
    "evaluation.num_envs": 2,
}


def tiny(changes: Mapping[str, Any] | None = None) -> Config:
    """The smallest configuration that uses every part of a large one."""
    tree = dataclasses.asdict(presets.quick())
    for path, value in {**TINY, **(changes or {})}.items():
        *sections, name = path.split(".")
        branch = tree
        for section in sections:
            branch = branch[section]
        assert name in branch, path
        branch[name] = value
    return from_dict(Config, tree)


def options(changes: Mapping[str, Any] | None = None) -> list[str]:
    """The same configuration as options of ``drama train quick``."""
    args: list[str] = []
    for path, value in {**TINY, **(changes or {})}.items():
        flag = path.replace("_", "-")
        if isinstance(value, bool):
            section, _, name = flag.rpartition(".")
            args.append(f"--{section}.{'' if value else 'no-'}{name}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            args += [f"--{flag}", *map(str, values)]
    return args


def json_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """``metrics.jsonl`` without times."""
    rows = json_rows(run_dir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def episodes(run_dir: Path) -> list[dict[str, Any]]:
    """``episodes.jsonl`` without times."""
    rows = json_rows(run_dir / "episodes.jsonl")
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def snapshot(run_dir: Path) -> dict[str, Any]:
    """Contents of the last checkpoint and the logs of a run, as a flat mapping."""
    checkpoint, _ = find_checkpoint(run_dir)
    found: dict[str, Any] = {"state": checkpoint.json("state"), "step": checkpoint.step}
    for file in ("model", "optimiser", "loop"):
        found |= {f"{file}/{name}": t for name, t in checkpoint.tensors(file).items()}
    pieces = []
    for segment in checkpoint.segments:
        pieces.append(read_tensors(run_dir / "replay" / segment["file"]))
    held = found["loop/trained"].shape[0]
    for name in pieces[0] if pieces else ():
        found[f"replay/{name}"] = torch.cat([piece[name] for piece in pieces])[-held:]
    found["metrics"], found["episodes"] = metrics(run_dir), episodes(run_dir)
    found["config"] = json.loads(checkpoint.text("config.json"))
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Keys whose values differ in any bit."""
    return [
        key
        for key in sorted(a.keys() | b.keys())
        if key not in a or key not in b or not _same(a[key], b[key])
    ]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def assert_same_run(a: Path, b: Path, *, files: bool = True) -> None:
    """Assert that two runs have the same final state, logs and files."""
    first, second = snapshot(a), snapshot(b)
    assert first["step"] == second["step"]
    assert not differences(first, second)
    if files:
        assert listing(a) == listing(b)


def listing(run_dir: Path) -> list[str]:
    """Every file and directory of a run except its lock."""
    return sorted(str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.name != ".lock")


def contents(directory: Path) -> dict[str, bytes | None]:
    """Every file except the lock with its content, every directory with None."""
    return {
        str(p.relative_to(directory)): p.read_bytes() if p.is_file() else None
        for p in sorted(directory.rglob("*"))
        if p.name != ".lock"
    }


def everything(agent: Agent, path: Path) -> dict[str, Any]:
    """Full state of an agent: the part that `save` writes and the part that it leaves out."""
    agent.save(path)
    found = snapshot(path) if (path / "replay").is_dir() else dict(_model(path))
    env = agent.get_env()
    found["env"] = repr(env.unwrapped.np_random.bit_generator.state)
    found["drawn by predict"] = agent._generator.get_state()
    for name in ("world_model", "behaviour"):
        found[f"{name} modes"] = [m.training for m in getattr(agent, name).modules()]
        grads = [p.grad for p in getattr(agent, name).parameters()]
        found |= {f"{name} gradient {i}": g.clone() for i, g in enumerate(grads) if g is not None}
    return found


def _model(path: Path) -> dict[str, Any]:
    return dict(find_checkpoint(path)[0].tensors("model"))


def global_random_state() -> tuple[Any, ...]:
    """Global random states, which belong to the caller."""
    import random

    legacy = np.random.get_state()  # noqa: NPY002 - that it stays as it is, is the point
    return (
        torch.get_rng_state().tolist(),
        legacy[1].tolist(),  # type: ignore[union-attr]
        legacy[2:],
        random.getstate(),
    )
