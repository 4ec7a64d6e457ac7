"""How often is random play rewarded? ``python -m lab.random_exploration``.

Plays each game with random actions, sampled at each step or repeated for some steps on average (as
with `training.random_action_repeat`). Counts the steps with a positive reward, and measures the
mean return of the best constant action. Writes ``lab/assets/random_exploration.json`` and the
block of that name in ``lab/log.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import measure

import drama
from lab import LAB, LOG

GAMES = ("MinAtar/Freeway-v1", "drama/Sparse-v0")
HOLDS = (1, 4, 8, 16, 32, 64)
EVALUATION_SEED = 10_000
"""As in :class:`drama.config.EvaluationConfig`: the evaluation episodes of agents."""


def rewarded(env_id: str, hold: float, steps: int, seed: int = 0) -> int:
    """Steps with a positive reward among ``steps`` of random play."""
    env = drama.make_env(env_id, seed)
    rng = np.random.default_rng(seed)
    found, action = 0, None
    env.reset()
    for _ in range(steps):
        if action is None or rng.random() < 1 / hold:
            action = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
        _, reward, terminated, truncated, _ = env.step(action)
        found += float(reward) > 0
        if terminated or truncated:
            env.reset()
    env.close()
    return found


def steadily(env_id: str, episodes: int, seed: int) -> float:
    """Mean return of the best constant action."""
    means = []
    actions = drama.make_env(env_id).action_space.n  # type: ignore[attr-defined]
    for action in range(actions):
        env = drama.make_env(env_id, seed)
        total = 0.0
        for _ in range(episodes):
            env.reset()
            over = False
            while not over:
                _, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
        means.append(total / episodes)
        env.close()
    return max(means)


def markdown(result: Mapping[str, Any]) -> str:
    """The block of the page."""
    holds = result["holds"]
    asked = "rewards in 10 000 random steps, actions held for"
    header = (asked, *(f"{h:g}" for h in holds), "return of the best action alone")
    rows = [
        (
            game,
            *(f"{10_000 * n / result['steps']:.1f}" for n in counts),
            f"{result['steadily'][game]:.1f}",
        )
        for game, counts in result["rewarded"].items()
    ]
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Play and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m lab.random_exploration")
    parser.add_argument("--games", nargs="+", default=list(GAMES))
    parser.add_argument("--holds", nargs="+", type=float, default=list(HOLDS))
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--lab", type=Path, default=LAB)
    args = parser.parse_args(argv)
    result = {
        "command": "python -m lab.random_exploration",
        "steps": args.steps,
        "holds": args.holds,
        "steadily": {game: steadily(game, args.episodes, EVALUATION_SEED) for game in args.games},
        "rewarded": {
            game: [rewarded(game, hold, args.steps) for hold in args.holds] for game in args.games
        },
    }
    place = args.lab / "assets"
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (place / "random_exploration.json").write_text(text, encoding="utf-8")
    measure.replace_block(args.lab / LOG, "random_exploration", markdown(result))


if __name__ == "__main__":
    main()
