"""The family of the built-in games."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import load_env_creator

from drama.envs.families import EnvFamily, ScoreRange
from drama.envs.toy import register_games


class BuiltIn(EnvFamily):
    """The games of :mod:`drama.envs.toy`, at their native size."""

    name = "built-in"
    prefix = "drama/"
    module = "drama.envs.toy"
    image_size = None

    def register_ids(self, env_id: str) -> None:
        """Register the games."""
        register_games()

    def score_range(self, env_id: str) -> ScoreRange | None:
        """Return the exact returns that the game's class states, for the registered ids."""
        if not env_id.startswith(self.prefix):  # the returns depend on the time limit
            return None
        game: Any = load_env_creator(str(gym.registry[env_id].entry_point))
        return ScoreRange(game.random_return, game.optimum)
