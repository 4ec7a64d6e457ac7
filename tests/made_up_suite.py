"""A condensed suite of simulated runs."""

from __future__ import annotations

from typing import Any

from benchmarks import suites

ENV = "drama/Catch-v0"


def run(variant: str, seed: int, mean: float | None, curve: dict[str, Any]) -> dict[str, Any]:
    return {
        "variant": variant,
        "env": ENV,
        "seed": seed,
        "status": "running" if mean is None else "finished",
        "steps": 1000,
        "steps_asked": 1000,
        "seconds": 120.0,
        "evaluation": {} if mean is None else {"greedy": {"mean": mean, "returns": [mean]}},
        "curve": curve,
        "machine": dict.fromkeys(suites.MACHINE, "x"),
    }


def suite(*runs: dict[str, Any]) -> dict[str, Any]:
    return {
        "suite": "made-up",
        "title": "Made up",
        "command": "drama suite run experiments/made-up.toml",
        "variants": {"ours": "Ours", "other": "Other"},
        "games": [ENV],
        "runs": list(runs),
    }


RISING = {"step": [100, 200, 300, 400], "return": [-0.5, 0.0, 0.5, 1.0]}
