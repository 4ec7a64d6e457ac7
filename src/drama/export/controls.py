"""What a page needs to know of an environment to let people play: names and pace of its actions."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from drama.envs.wrappers import env_name

NAMES = {
    "CartPole": ("LEFT", "RIGHT"),
    "MountainCar": ("LEFT", "NOOP", "RIGHT"),
    "Acrobot": ("LEFT", "NOOP", "RIGHT"),
    "LunarLander": ("NOOP", "LEFT", "FIRE", "RIGHT"),
    "FrozenLake": ("LEFT", "DOWN", "RIGHT", "UP"),
    "CliffWalking": ("UP", "RIGHT", "DOWN", "LEFT"),
}
"""Action names of Gymnasium's environments, which do not name them."""
MINATAR = {"n": "NOOP", "l": "LEFT", "u": "UP", "r": "RIGHT", "d": "DOWN", "f": "FIRE"}
"""Names of MinAtar's letters."""
IDLE = ("NOOP", "STAY", "NONE")


def action_names(env: gym.Env[Any, Any], count: int) -> list[str]:
    """Return a name for each of ``count`` actions, ``ACTION 0`` and so on where there is none."""
    core: Any = env.unwrapped
    names: list[str] = []
    if hasattr(core, "get_action_meanings"):
        names = [str(name) for name in core.get_action_meanings()]
    elif hasattr(core, "game") and hasattr(core, "action_set"):
        letters = core.game.env.action_map
        names = [MINATAR.get(letters[i], letters[i]) for i in core.action_set]
    else:
        name = env_name(env)
        names = next((list(v) for k, v in NAMES.items() if name.startswith(k)), [])
    if len(names) != count:
        return [f"ACTION {index}" for index in range(count)]
    return names


def idle_action(names: list[str]) -> int | None:
    """Return the action that does nothing, or None."""
    return next((index for index, name in enumerate(names) if name in IDLE), None)


def steps_per_second(env: gym.Env[Any, Any], picture: bool) -> float:
    """Return a pace at which a person can play.

    Atari agents step 15 times a second; games of few pixels are slower, as each step moves a cell.
    """
    if env_name(env).startswith("ALE/"):
        return 15.0
    side = min((env.observation_space.shape or (0,))[:2])
    return 6.0 if picture and side <= 40 else 15.0
