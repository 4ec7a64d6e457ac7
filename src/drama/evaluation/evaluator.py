"""Evaluation: whole episodes, their scores and the protocol of the measurement."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from drama.behaviour import Player
from drama.behaviour.acting import Actions
from drama.config import EvaluationConfig
from drama.envs.description import describe, foreign_wrappers
from drama.envs.episodes import Count, EpisodeCounter, Unit
from drama.errors import ConfigError
from drama.evaluation.protocol import departures, step_limit
from drama.evaluation.scores import game_of, normalised_score
from drama.types import gather_obs
from drama.version import __version__

logger = logging.getLogger("drama")


@dataclass(frozen=True)
class EpisodeResult:
    """One whole episode, or the unit named by ``scored`` in the protocol."""

    env: int
    """Index of its environment."""
    ret: float
    """Undiscounted return."""
    length: int
    """Agent steps, or steps counted by a monitor in the environment."""


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes of one policy mode, and the protocol of the measurement."""

    mode: str
    """``greedy`` or ``sampled``."""
    episodes: tuple[EpisodeResult, ...]
    protocol: dict[str, Any]
    optimum: float | None = None
    """Best possible mean return, if the environment defines it."""

    @property
    def mean(self) -> float:
        """Mean return."""
        return statistics.fmean(e.ret for e in self.episodes)

    @property
    def std(self) -> float:
        """Sample standard deviation of the returns; 0 for one episode."""
        returns = [e.ret for e in self.episodes]
        return statistics.stdev(returns) if len(returns) > 1 else 0.0

    @property
    def normalised(self) -> float | None:
        """Human-normalised score of an Atari100k game under its protocol, else None."""
        game = game_of(str(self.protocol["env"]["id"]))
        if game is None or self.normalised_reason is not None:
            return None
        return normalised_score(game, self.mean)

    @property
    def normalised_reason(self) -> str | None:
        """Why an Atari100k game has no normalised score; None if it has, and for other games."""
        if game_of(str(self.protocol["env"]["id"])) is None:
            return None
        return "; ".join(departures(self.mode, self.protocol)) or None

    def to_dict(self) -> dict[str, Any]:
        """Return the result for JSON."""
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
    config: EvaluationConfig,
    *,
    greedy: bool,
    protocol: Mapping[str, Any],
    progress: Callable[[EpisodeResult], None] | None = None,
) -> EvaluationResult:
    """Play whole episodes on parallel environments.

    Episodes are distributed evenly beforehand, and each environment plays its share to the end:
    taking the first to finish would favour short episodes. The agent does not change: no buffer,
    no normaliser, no random state. Latents and actions are sampled from a separate generator: the
    same seed and number of environments give the same episodes.

    If a monitor in the environment reports whole games, these are scored even where the agent's
    episodes end at lost lives. The result's protocol records what was ``scored`` (``episodes``,
    ``games`` or ``lives``), the ``env`` and its task-changing ``wrappers``, ``latents``,
    ``actions``, the numbers of episodes and environments, the seed, the policy's latent, the
    ``step_limit``, the number of episodes ``truncated_by_limit`` and the version of drama. Results
    are comparable if these agree.

    Args:
        player: The acting agent.
        make_env: Makes the environment of an index, without life-loss ends.
        config: Episodes, environments, seed, latents and step limit. Without a limit an episode
            is truncated after 27,000 steps, or after the environment's own limit if larger.
        greedy: Take the policy's most probable actions instead of sampled ones.
        protocol: Further fields of the result's protocol.
        progress: Called with each finished episode.

    Raises:
        ConfigError: ``config.episodes`` is 0.
    """
    if config.episodes < 1:
        raise ConfigError(f"evaluation.episodes must be at least 1, got {config.episodes}")

    num_envs = min(config.num_envs, config.episodes)
    envs: list[gym.Env[Any, Any]] = []
    was_training = player.world_model.training
    try:
        for i in range(num_envs):
            envs.append(make_env(i))
        stamp = describe(envs[0])
        limit = config.max_episode_steps or step_limit(stamp)
        optimum = getattr(envs[0].unwrapped, "optimum", None)
        episodes = _Episodes(player, envs, config, limit, progress)
        episodes.play("argmax" if greedy else "sampled")
    finally:
        for env in envs:
            try:
                env.close()
            except Exception as error:  # must not lose the played episodes
                logger.warning("%s could not be closed: %s", type(env.unwrapped).__name__, error)
        player.world_model.train(was_training)
    mode = "greedy" if greedy else "sampled"
    stamped = {
        **protocol,
        "env": stamp,
        "wrappers": list(foreign_wrappers(envs[0])),
        "drama": __version__,
        "mode": mode,
        "episodes": config.episodes,
        "num_envs": num_envs,
        "seed": config.seed,
        "scored": _unit(episodes.counters),
        "latents": config.latents,
        "actions": "argmax" if greedy else "sampled",
        "policy_latent": player.config.policy_latent,
        "policy_context": player.config.policy_context,
        "lookahead": player.config.lookahead,
        "step_limit": limit,
        "truncated_by_limit": episodes.truncated,
    }
    comparable = optimum is not None and not departures(mode, stamped)
    return EvaluationResult(
        mode=mode,
        episodes=tuple(result for share in episodes.results for result in share),
        protocol=stamped,
        optimum=float(optimum) if optimum is not None and comparable else None,
    )


class _Episodes:
    """Episodes of one evaluation, distributed evenly over its environments.

    Args:
        player: The acting agent.
        envs: Environments.
        config: Number of episodes, seed and latents.
        limit: Agent steps after which an episode is truncated.
        progress: Called with each finished episode.
    """

    def __init__(
        self,
        player: Player,
        envs: Sequence[gym.Env[Any, Any]],
        config: EvaluationConfig,
        limit: int,
        progress: Callable[[EpisodeResult], None] | None,
    ) -> None:
        self.player = player
        self.envs = envs
        self.config = config
        self.limit = limit
        self.progress = progress
        share, rest = divmod(config.episodes, len(envs))
        self.shares = [share + (i < rest) for i in range(len(envs))]
        self.counters = [EpisodeCounter(env) for env in envs]
        self.results: list[list[EpisodeResult]] = [[] for _ in envs]
        self.truncated = 0

    def play(self, actions: Actions) -> None:
        """Play all episodes; ``actions`` are ``argmax`` or ``sampled``."""
        weights = self.player.world_model.parameters()
        device = next((p.device for p in weights), torch.device("cpu"))
        generator = torch.Generator(device).manual_seed(self.config.seed)
        obs = [env.reset(seed=self.config.seed + i)[0] for i, env in enumerate(self.envs)]
        for counter in self.counters:
            counter.clear()
        state = self.player.init_state(len(self.envs))
        is_first = torch.ones(len(self.envs), dtype=torch.bool, device=device)
        playing = set(range(len(self.envs)))
        while playing:
            batch = gather_obs(lambda leaf: torch.from_numpy(np.stack(leaf)).to(device), obs)
            action, state = self.player.act(
                batch, state, is_first, generator, latents=self.config.latents, actions=actions
            )
            chosen = self.player.actions.to_host(action)
            ended = [False] * len(self.envs)
            for i in sorted(playing):
                obs[i], ended[i] = self._step(i, chosen[i])
                if len(self.results[i]) == self.shares[i]:
                    playing.remove(i)
            is_first = torch.tensor(ended, device=device)

    def _step(self, i: int, action: int) -> tuple[Any, bool]:
        """Step one environment; returns its next observation and whether its episode ended."""
        env, counter = self.envs[i], self.counters[i]
        obs, reward, terminated, truncated, info = env.step(action)
        count = counter.step(float(reward), bool(terminated), bool(truncated), info)
        ended = bool(terminated or truncated)
        if count is None and counter.length >= self.limit:
            count, ended = counter.cut(), True
            self.truncated += 1
        self._record(i, count)
        if ended and len(self.results[i]) < self.shares[i]:
            obs, _ = env.reset()
            self._record(i, counter.reset())
        return obs, ended

    def _record(self, i: int, count: Count | None) -> None:
        """Record a finished episode of an environment, if there is one."""
        if count is None:
            return
        result = EpisodeResult(i, *count)
        self.results[i].append(result)
        if self.progress is not None:
            self.progress(result)


def _unit(counters: Sequence[EpisodeCounter]) -> Unit:
    """Return the unit counted by the environments; lives take precedence over games."""
    units: tuple[Unit, ...] = ("lives", "games")
    found = {counter.unit for counter in counters}
    return next((unit for unit in units if unit in found), "episodes")
