"""Real experience in: environments, fitted to the agent.

Importing this package registers the built-in games in Gymnasium's ``drama`` namespace.
"""

from drama.envs.adapt import AdaptedEnv, adapt
from drama.envs.atari import LifeLossEpisodes
from drama.envs.check import EnvReport, check_env
from drama.envs.guard import FaultGuard
from drama.envs.identity import describe
from drama.envs.make import default_image_size, make_env
from drama.envs.mapping import ActionAdapter, ObservationAdapter
from drama.envs.picture import as_rgb
from drama.envs.toy import Catch, PixelGame, Recall, Sparse, register_games

register_games()

__all__ = [
    "ActionAdapter",
    "AdaptedEnv",
    "Catch",
    "EnvReport",
    "FaultGuard",
    "LifeLossEpisodes",
    "ObservationAdapter",
    "PixelGame",
    "Recall",
    "Sparse",
    "adapt",
    "as_rgb",
    "check_env",
    "default_image_size",
    "describe",
    "make_env",
    "register_games",
]
