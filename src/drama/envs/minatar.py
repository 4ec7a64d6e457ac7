"""The games of MinAtar: 10 x 10 cells, one channel per kind of object.

Young & Tian (2019), *MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement
Learning Experiments*. The games keep their own rules: sticky actions with probability 0.1 and a
rising difficulty, unless ``env_kwargs`` sets ``sticky_action_prob`` or ``difficulty_ramping``. The
ids ending in ``-v1`` offer the actions that a game uses, those in ``-v0`` all six.

The package ``minatar`` is licensed under GPL-3.0, so it is an extra: it is imported only when a
user names one of its games.
"""

from __future__ import annotations

import contextlib
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs

from drama.envs.families import EnvFamily, EnvOptions


class SeededReset(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Seeds ``np_random`` at a seeded reset, as Gymnasium demands and MinAtar does not.

    The games seed a separate generator.

    Args:
        env: A game of MinAtar.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        gym.Env.reset(self.unwrapped, seed=seed)
        return self.env.reset(seed=seed, options=options)


class MinAtar(EnvFamily):
    """The games of ``minatar``: one pixel per cell."""

    name = "minatar"
    prefix = "MinAtar/"
    module = "minatar"
    install = "the MinAtar games: pip install minatar (GPL-3.0)"
    packages = ("minatar",)
    image_size = None

    def register_ids(self, env_id: str) -> None:
        """Register the games, only for an id with their prefix: the import loads matplotlib."""
        if self.prefix in env_id and not any(key.startswith(self.prefix) for key in gym.registry):
            with contextlib.suppress(ImportError):
                from minatar.gym import register_envs

                register_envs()

    def make(self, spec: EnvSpec, options: EnvOptions) -> gym.Env[Any, Any]:
        """Make a game whose random numbers follow from the seed of ``reset``."""
        return SeededReset(super().make(spec, options))

    def protocol(self, env: gym.Env[Any, Any], options: EnvOptions) -> dict[str, Any]:
        """Return the probability of sticky actions, which is the game's own."""
        game: Any = env.unwrapped
        return {"sticky_actions": float(game.game.sticky_action_prob)}
