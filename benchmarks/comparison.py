"""References of the results page: baselines, random policy, published scores, intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import drama
from drama.evaluation import game_of, published
from drama.report.runs import reference_of

NAMES = {
    "ppo": "SB3 PPO",
    "dqn": "SB3 DQN",
    "dqn-short": "SB3 DQN",
    "ppo-atari": "SB3 PPO",
    "dqn-zoo": "SB3 DQN",
    "ppo-zoo": "SB3 PPO",
}
RANDOM_EPISODES = {
    "MinAtar/Breakout-v1": 1000,
    "MinAtar/Freeway-v1": 100,
    "MinAtar/SpaceInvaders-v1": 1000,
    "MinAtar/Asterix-v1": 1000,
    "CartPole-v1": 1000,
    "Acrobot-v1": 100,
}
"""Episodes of random play for games without a reference score."""
PUBLISHED = ("Drama-XS", "DreamerV3", "STORM", "PPO")
"""Methods whose published scores are shown."""


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean."""
    sampled = np.random.default_rng(seed).choice(np.asarray(values), (10_000, len(values)))
    low, high = np.quantile(sampled.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def baselines_of(env: str, place: Path, steps: int) -> list[tuple[str, dict[str, Any]]]:
    """Return agent and result of each file of ``benchmarks.baselines`` on a game, at its steps."""
    slug = env.replace("/", "-")
    found = []
    for path in sorted(place.glob(f"{slug}-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        if result.get("env") == env and result.get("steps") == steps and "agent" in result:
            found.append((result["agent"], result))
    return found


def at_its_best(other: dict[str, Any]) -> tuple[str, list[float]]:
    """Return the better evaluation mode of a baseline and the mean return of each seed."""
    greedy, sampled = ([r[key]["mean"] for r in other["runs"]] for key in ("greedy", "sampled"))
    return (", sampled actions", sampled) if np.mean(sampled) > np.mean(greedy) else ("", greedy)


def baseline_of(env: str, place: Path, steps: int) -> str:
    """Return the best model-free baseline of a game: name and mean return."""
    others = baselines_of(env, place, steps)
    found = [(float(np.mean(at_its_best(o)[1])), NAMES[n]) for n, o in others]
    return "{1} {0:.2f}".format(*max(found)) if found else ""


def random_return(env: str, place: Path) -> float | None:
    """Return the mean return of the random policy, published or measured; None if unknown."""
    reference = reference_of(env)
    if reference is not None:
        return reference.floor
    path = place / "random.json"
    measured = json.loads(path.read_text(encoding="utf-8"))["returns"] if path.is_file() else {}
    found: float | None = measured.get(env)
    return found


def random_of(env: str, place: Path) -> str:
    """Return the mean return of the random policy as text; empty if unknown."""
    found = random_return(env, place)
    return "" if found is None else f"{found:.2f}"


def random_returns(episodes: dict[str, int], seed: int = 10_000) -> dict[str, Any]:
    """Play the random policy; the seed is that of evaluations."""
    returns = {}
    for env_id, count in episodes.items():
        env, rng, total = drama.make_env(env_id, seed), np.random.default_rng(seed), 0.0
        for _ in range(count):
            env.reset()
            over = False
            while not over:
                action = int(rng.integers(env.action_space.n))  # type: ignore[attr-defined]
                _, reward, terminated, truncated, _ = env.step(action)
                total, over = total + float(reward), terminated or truncated
        returns[env_id] = round(total / count, 4)
        env.close()
    command = "python -m benchmarks.results --random"
    return {"command": command, "episodes": episodes, "seed": seed, "returns": returns}


def published_of(env: str) -> list[tuple[str, float]]:
    """Return published mean scores after 100 000 steps of an Atari100k game."""
    if game_of(env) is None:
        return []
    return [
        (method, score.score)
        for method in PUBLISHED
        for score in published(method, env)
        if score.seed is None
    ]


def published_line(envs: Sequence[str]) -> str:
    """Return a sentence with the published scores of some games; empty without any."""
    scores = [
        f"{env}: " + ", ".join(f"{method} {score:g}" for method, score in found)
        for env in envs
        if (found := published_of(env))
    ]
    return f"Published after 100,000 steps: {'; '.join(scores)}." if scores else ""
