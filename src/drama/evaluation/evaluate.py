"""Playing finished episodes and writing down what they scored, under which protocol."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import gymnasium as gym
import numpy as np
import torch

from drama.behaviour import Player
from drama.behaviour.acting import Actions
from drama.config import Latents
from drama.envs import describe
from drama.envs.episodes import Count, EpisodeCounter, Unit, foreign_wrappers
from drama.errors import ConfigError
from drama.evaluation.protocol import departures, step_limit
from drama.evaluation.scores import game_of, normalised_score

logger = logging.getLogger("drama")


@dataclass(frozen=True)
class EpisodeResult:
    """One whole episode, or what the protocol's ``scored`` says."""

    env: int
    """Index of the environment that played it."""
    ret: float
    """Undiscounted return."""
    length: int
    """Agent steps, or what a monitor inside the environment counts as steps."""


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
        """Human-normalised score of an Atari100k game measured under its protocol, else None."""
        game = game_of(str(self.protocol["env"]["id"]))
        if game is None or self.normalised_reason is not None:
            return None
        return normalised_score(game, self.mean)

    @property
    def normalised_reason(self) -> str | None:
        """Why a game of Atari100k has no normalised score; None if it has, and of other games."""
        if game_of(str(self.protocol["env"]["id"])) is None:
            return None
        return "; ".join(departures(self.mode, self.protocol)) or None

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {
            "mode": self.mode,
            "mean": self.mean,
            "std": self.std,
            "min": min(e.ret for e in self.episodes),
            "max": max(e.ret for e in self.episodes),
            "normalised": self.normalised,
            "normalised_reason": self.normalised_reason,
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
    latents: Latents = "sampled",
    max_episode_steps: int | None = None,
    progress: Callable[[EpisodeResult], None] | None = None,
) -> EvaluationResult:
    """Play ``episodes`` whole episodes on environments side by side.

    The episodes are shared out evenly beforehand and each environment plays its share to the
    end: taking whichever finish first would favour short ones. Nothing that the agent owns
    changes: no buffer, no normaliser, no random state. Latents and actions are sampled from a
    generator of this call: the same seed and number of environments give the same episodes.

    Where a monitor inside the environment reports whole games, those are scored, although the
    agent's episodes may end at lost lives. The protocol of the result says what was ``scored``
    (``episodes``, ``games`` or ``lives``), the ``env``, its ``wrappers`` that may change the task,
    which ``latents`` and ``actions`` were taken, the episodes, environments and seed, the policy's
    latent, the ``step_limit`` and how many episodes were ``truncated_by_limit``, and this
    package's version. Results are comparable where these agree.

    Args:
        player: The acting agent.
        make_env: Builds the environment of an index, without life-loss ends.
        episodes: Number of episodes in all.
        num_envs: Environments, at most one per episode.
        seed: Seed of the first environment; the others count up from it.
        greedy: The policy's most probable actions rather than sampled ones.
        protocol: What to stamp the result with.
        device: Device of the agent.
        latents: ``sampled``, as the authors evaluate, or the ``mode``.
        max_episode_steps: Agent steps after which an episode is truncated. None: 27,000, or the
            environment's own limit where that is above it.
        progress: Called with each finished episode.

    Raises:
        ConfigError: A number is below 1, the seed is out of range, or ``latents`` is neither.
    """
    if not 0 <= seed < 2**62:
        raise ConfigError(f"the seed of an evaluation must lie in [0, 2**62), got {seed}")
    if episodes < 1 or num_envs < 1:
        raise ConfigError(f"episodes and environments must be at least 1: {episodes}, {num_envs}")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
    if latents not in get_args(Latents):
        raise ConfigError(f"latents must be 'sampled' or 'mode', got {latents!r}")
    from drama import __version__  # set after everything else has been imported

    actions: Actions = "argmax" if greedy else "sampled"
    num_envs = min(num_envs, episodes)
    shares = [episodes // num_envs + (i < episodes % num_envs) for i in range(num_envs)]
    envs: list[gym.Env[Any, Any]] = []
    was_training = player.world_model.training
    generator = torch.Generator(device).manual_seed(seed)
    results: list[list[EpisodeResult]] = [[] for _ in range(num_envs)]
    optimum: float | None = None
    truncations = 0
    try:
        for i in range(num_envs):
            envs.append(make_env(i))
        stamp = describe(envs[0])
        limit = step_limit(stamp) if max_episode_steps is None else max_episode_steps
        optimum = getattr(envs[0].unwrapped, "optimum", None)
        counters = [EpisodeCounter(env) for env in envs]
        obs = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
        for counter in counters:
            counter.clear()
        state = player.init_state(num_envs)
        is_first = torch.ones(num_envs, dtype=torch.bool, device=device)
        playing = set(range(num_envs))

        def keep(i: int, count: Count) -> None:
            result = EpisodeResult(i, *count)
            results[i].append(result)
            if progress is not None:
                progress(result)

        while playing:
            batch = torch.from_numpy(np.stack(obs)).to(device)
            action, state = player.act(
                batch, state, is_first, generator, latents=latents, actions=actions
            )
            chosen = action.tolist()
            ended = [False] * num_envs
            for i in sorted(playing):
                counter = counters[i]
                obs[i], reward, terminated, truncated, info = envs[i].step(chosen[i])
                count = counter.step(float(reward), bool(terminated), bool(truncated), info)
                ended[i] = bool(terminated or truncated)
                if count is None and counter.length >= limit:
                    count, ended[i] = counter.cut(), True
                    truncations += 1
                if count is not None:
                    keep(i, count)
                if ended[i] and len(results[i]) < shares[i]:
                    obs[i], _ = envs[i].reset()
                    if (unseen := counter.reset()) is not None:
                        keep(i, unseen)
                if len(results[i]) == shares[i]:
                    playing.remove(i)
            is_first = torch.tensor(ended, device=device)
    finally:
        for env in envs:
            try:
                env.close()
            except Exception as error:  # the episodes are played; nothing may be lost by this
                logger.warning("%s could not be closed: %s", type(env.unwrapped).__name__, error)
        player.world_model.train(was_training)
    mode = "greedy" if greedy else "sampled"
    stamped = {
        **protocol,
        "env": stamp,
        "wrappers": list(foreign_wrappers(envs[0])),
        "drama": __version__,
        "mode": mode,
        "episodes": episodes,
        "num_envs": num_envs,
        "seed": seed,
        "scored": _unit(counters),
        "latents": latents,
        "actions": actions,
        "policy_latent": player.policy_latent,
        "policy_context": player.policy_context,
        "lookahead": player.lookahead,
        "step_limit": limit,
        "truncated_by_limit": truncations,
    }
    comparable = optimum is not None and not departures(mode, stamped)
    return EvaluationResult(
        mode=mode,
        episodes=tuple(result for share in results for result in share),
        protocol=stamped,
        optimum=float(optimum) if optimum is not None and comparable else None,
    )


def _unit(counters: Sequence[EpisodeCounter]) -> Unit:
    """Return what several environments of one kind counted: what any of them has met counts."""
    units: tuple[Unit, ...] = ("lives", "games")
    found = {counter.unit for counter in counters}
    return next((unit for unit in units if unit in found), "episodes")
