"""The games of MinAtar: ten cells by ten, one channel for each kind of object.

Young & Tian (2019), *MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement
Learning Experiments*. The games keep their own rules: sticky actions with probability 0.1 and a
rising difficulty, unless ``env_kwargs`` sets ``sticky_action_prob`` or ``difficulty_ramping``. The
ids ending in ``-v1`` offer the actions that a game uses, those in ``-v0`` all six.

The package ``minatar`` is under the GPL, version 3, so it is an extra that nothing here needs: it
is imported only when a user names one of its games.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs

PREFIX = "MinAtar/"


def register_minatar() -> bool:
    """Register the ``MinAtar`` games in Gymnasium once.

    Returns:
        Whether they are registered now; without the package there are none.
    """
    if any(env_id.startswith(PREFIX) for env_id in gym.registry):
        return True
    try:
        from minatar.gym import register_envs
    except ImportError:
        return False
    register_envs()
    return True


def is_minatar(env: gym.Env[Any, Any]) -> bool:
    """Whether ``env`` is, or wraps, a game of MinAtar."""
    return type(env.unwrapped).__module__.partition(".")[0] == "minatar"


class SeededReset(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Seeds ``np_random`` at a seeded reset, as Gymnasium demands and MinAtar leaves out.

    Its games draw from a generator in the game, which they seed themselves.

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


def minatar_protocol(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return what :func:`drama.envs.describe` tells of a game of MinAtar beyond the common."""
    game: Any = env.unwrapped
    return {"sticky_actions": float(game.game.sticky_action_prob)}
