"""Playing finished episodes and writing down what they scored, under which protocol."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from drama.behaviour import Player
from drama.errors import ConfigError
from drama.evaluation.scores import game_of, normalised_score


@dataclass(frozen=True)
class EpisodeResult:
    """One whole episode."""

    env: int
    """Index of the environment that played it."""
    ret: float
    """Undiscounted return."""
    length: int
    """Agent steps."""


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes of one policy mode, and the protocol they were played under."""

    mode: str
    """``greedy`` or ``sampled``."""
    episodes: tuple[EpisodeResult, ...]
    protocol: dict[str, Any]
    optimum: float | None = None
    """Best possible mean return, where the environment knows it."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(e.ret for e in self.episodes)

    @property
    def std(self) -> float:
        """Standard deviation of the returns (of the sample; 0 for one episode)."""
        returns = [e.ret for e in self.episodes]
        return statistics.stdev(returns) if len(returns) > 1 else 0.0

    @property
    def normalised(self) -> float | None:
        """Human-normalised score of an Atari game, else None."""
        game = game_of(str(self.protocol["env"]["id"]))
        return None if game is None else normalised_score(game, self.mean)

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "mode": self.mode,
            "mean": self.mean,
            "std": self.std,
            "min": min(e.ret for e in self.episodes),
            "max": max(e.ret for e in self.episodes),
            "normalised": self.normalised,
            "optimum": self.optimum,
            "episodes": [
                {"env": e.env, "return": e.ret, "length": e.length} for e in self.episodes
            ],
            "protocol": self.protocol,
        }


def evaluate(
    player: Player,
    make_env: Callable[[int], gym.Env[Any, Any]],
    *,
    episodes: int,
    num_envs: int,
    seed: int,
    greedy: bool,
    protocol: dict[str, Any],
    device: torch.device,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> EvaluationResult:
    """Play ``episodes`` whole episodes on environments side by side.

    The episodes are shared out evenly beforehand and each environment plays its share to the
    end: taking whichever finish first would favour short ones. Nothing that the agent owns
    changes: no buffer, no normaliser, no random state.

    The protocol of the result also says how the actions were chosen, the episodes, environments
    and seed, the policy's latent, and this package's version: results are comparable where these
    agree.

    Args:
        player: The acting agent.
        make_env: Builds the environment of an index, without life-loss ends.
        episodes: Number of episodes in all.
        num_envs: Environments, at most one per episode.
        seed: Seed of the first environment; the others count up from it.
        greedy: Most probable actions rather than drawn ones.
        protocol: What to stamp the result with.
        device: Device of the agent.
        progress: Called with each finished episode.

    Raises:
        ConfigError: ``episodes`` or ``num_envs`` is below 1, or the seed is out of range.
    """
    if not 0 <= seed < 2**62:
        raise ConfigError(f"the seed of an evaluation must lie in [0, 2**62), got {seed}")
    if episodes < 1 or num_envs < 1:
        raise ConfigError(f"episodes and environments must be at least 1: {episodes}, {num_envs}")
    from drama import __version__  # set after everything else has been imported

    num_envs = min(num_envs, episodes)
    shares = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    envs: list[gym.Env[Any, Any]] = []
    was_training = player.world_model.training
    generator = torch.Generator(device).manual_seed(seed)
    results: list[list[EpisodeResult]] = [[] for _ in range(num_envs)]
    optimum: float | None = None
    try:
        for i in range(num_envs):
            envs.append(make_env(i))
        optimum = getattr(envs[0].unwrapped, "optimum", None)
        obs = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
        state = player.init_state(num_envs)
        is_first = torch.ones(num_envs, dtype=torch.bool, device=device)
        returns, lengths = np.zeros(num_envs), np.zeros(num_envs, dtype=np.int64)
        playing = set(range(num_envs))
        while playing:
            batch = torch.from_numpy(np.stack(obs)).to(device)
            action, state = player.act(batch, state, is_first, generator, greedy=greedy)
            chosen = action.tolist()
            ended = [False] * num_envs
            for i in sorted(playing):
                obs[i], reward, terminated, truncated, _ = envs[i].step(chosen[i])
                returns[i] += float(reward)
                lengths[i] += 1
                if not (terminated or truncated):
                    continue
                result = EpisodeResult(i, float(returns[i]), int(lengths[i]))
                results[i].append(result)
                if progress is not None:
                    progress(result)
                returns[i], lengths[i], ended[i] = 0.0, 0, True
                if len(results[i]) == shares[i]:
                    playing.remove(i)
                else:
                    obs[i], _ = envs[i].reset()
            is_first = torch.tensor(ended, device=device)
    finally:
        for env in envs:
            env.close()
        player.world_model.train(was_training)
    mode = "greedy" if greedy else "sampled"
    return EvaluationResult(
        mode=mode,
        episodes=tuple(result for share in results for result in share),
        protocol={
            **protocol,
            "drama": __version__,
            "mode": mode,
            "episodes": episodes,
            "num_envs": num_envs,
            "seed": seed,
            "policy_latent": player.policy_latent,
            "policy_memory": player.policy_memory,
            "lookahead": player.lookahead,
        },
        optimum=float(optimum) if optimum is not None else None,
    )
