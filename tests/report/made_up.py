"""Cells of a suite with chosen numbers, on disk in the format of real runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from drama.evaluation import game_of
from drama.report.runs import Run, read_run
from drama.suite import Cell, SuiteSpec, Variant
from drama.suite.layout import run_path

CATCH, SPARSE = "drama/Catch-v0", "drama/Sparse-v0"
PONG, BOXING, ALIEN = "ALE/Pong-v5", "ALE/Boxing-v5", "ALE/Alien-v5"
BASE = Variant("base", "Base", "quick")
UNIFORM = Variant("uniform", "Uniform", "quick", {"replay.sampler": "uniform"})
XS = Variant("xs", "Drama XS", "xs")

ATARI = {
    "env_kwargs": {},
    "frame_skip": 4,
    "noop_max": 30,
    "sticky_actions": 0.0,
    "full_action_space": False,
    "life_loss": False,
    "image_size": [64, 64],
    "observation_shape": [64, 64, 3],
    "max_episode_steps": 27_000,
    "num_actions": 6,
}
START = {
    "step": 0,
    "device": "cpu",
    "device_name": "A processor",
    "precision": "float32",
    "backend": "torch",
    "threads": 1,
    "drama": "0.1.0",
    "torch": "2.13.0",
    "python": "3.11.7",
    "system": "Linux",
}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def cell(
    root: Path,
    variant: Variant = BASE,
    game: str = CATCH,
    seed: int = 0,
    *,
    score: float | None = 0.0,
    status: str = "finished",
    reason: str = "",
    steps: int | None = None,
    returns: Sequence[float] = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0),
    cpu: float | None = None,
    protocol: Mapping[str, Any] | None = None,
    env: Mapping[str, Any] | None = None,
) -> Cell:
    """Write one run, with ``score`` as its greedy evaluation, and return its cell."""
    spec = SuiteSpec("made-up", "Made up", (game,), (seed,), (variant,), steps=steps)
    config = spec.config(variant, game, seed)
    path = run_path(root, variant.name, game, seed)
    if status != "missing":
        path.mkdir(parents=True)
        (path / "config.json").write_text(config.to_json())
        (path / "run.json").write_text(json.dumps({"starts": [START]}))
        marks = [
            {"step": 10 * (i + 1), "return": ret, "length": 10, "seconds": 0.1}
            for i, ret in enumerate(returns)
        ]
        write_jsonl(path / "episodes.jsonl", marks)
        logged = {"step": 10 * len(returns), "time/wall_seconds": 90.0}
        logged |= {} if cpu is None else {"time/cpu_seconds": cpu}
        write_jsonl(path / "metrics.jsonl", [logged])
    if status == "finished" and score is not None:
        stamp = {
            "train_steps": config.steps,
            "train_seed": seed,
            "episodes": 20,
            "num_envs": 4,
            "seed": 10_000,
            "latents": "sampled",
            "policy_latent": "prior",
            **(protocol or {}),
            "env": {"id": game, **(ATARI if game_of(game) else {}), **(env or {})},
        }
        result = {"mode": "greedy", "mean": score, "episodes": [], "protocol": stamp}
        (path / "eval.json").write_text(json.dumps({"greedy": result}))
    done = config.steps if status == "finished" else 0
    return Cell(variant, game, seed, path, status, reason, config, done, True)  # type: ignore[arg-type]


def runs(root: Path, *given: Mapping[str, Any]) -> list[Run]:
    """Write several runs and read them back; the label is the variant's."""
    cells = [cell(root, **options) for options in given]
    return [read_run(c, c.variant.label) for c in cells]
