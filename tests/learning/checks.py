"""Learning checks: what preset `quick` must reach within few steps, with no setting but these."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import drama


@dataclass(frozen=True)
class Check:
    """A score to be reached on one task by every seed."""

    env: str
    steps: int
    least: float
    """Mean greedy return over 100 episodes that is required."""
    seeds: tuple[int, ...] = (0,)


CHECKS = {
    "catch": Check("drama/Catch-v0", 5_000, 0.9, (0, 1, 2)),
    "cartpole": Check("CartPole-v1", 5_000, 400.0),
    "recall8": Check("drama/Recall8-v0", 5_000, 0.9),
    # Random play returns 0.4; the training return was 2.7 to 2.9 at this step with three seeds.
    "breakout": Check("MinAtar/Breakout-v1", 12_000, 2.0),
}
"""Checks by name: about 25 minutes in all on one idle core."""


def score(check: Check, seed: int, run_dir: Path | None = None) -> float:
    """Train preset `quick` on a task and return its mean evaluation return."""
    config = replace(drama.presets.quick(), steps=check.steps)
    agent = drama.Agent(check.env, config, seed=seed)
    agent.learn(check.steps, run_dir=run_dir)
    return agent.evaluate(episodes=100, greedy=True).mean
