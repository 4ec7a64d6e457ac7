"""Environments, adapted to the agent.

===================  ==============================================================================
``make.py``          :func:`make_env`: an environment by id or import path, adapted
``lookup.py``        finds an id or import path; the error message with the nearest id
``families.py``      :class:`EnvFamily`: all that depends on the kind of an environment
``atari.py``         the family of Atari games: Atari100k protocol, life loss
``minatar.py``       the family of MinAtar games
``built_in.py``      the family of built-in games, which ``toy.py`` defines
``adapt.py``         :func:`adapt`: spaces, time limit and statistics around any environment
``spaces.py``        maps between an environment's spaces and the agent's
``leaves.py``        parts of an observation, nested or not, and the map of each
``pictures.py``      which part is a picture, its axes, rescaling and resizing
``declared.py``      arrays against the space that declares them
``guard.py``         :class:`FaultGuard`: stops an environment that breaks its contract
``source.py``        :class:`EnvSource`: an agent's environment and further ones like it
``config.py``        :class:`EnvConfig`: the settings ``env.*`` of a run
``recipe.py``        how an environment object can be made again
``wrappers.py``      wrappers: which record, which only check, which change the task
``description.py``   :func:`describe`: the record of an environment in checkpoints and results
``episodes.py``      counts whole episodes, also where a lost life ends one for the agent
``check.py``         :func:`check_env`: a report on an environment, from random actions
``survey.py``        running statistics under random actions, and warnings from them
===================  ==============================================================================

Importing this package registers the built-in games in Gymnasium's ``drama`` namespace.
"""

from drama.envs.adapt import AdaptedEnv, adapt
from drama.envs.atari import LifeLossEpisodes
from drama.envs.check import EnvReport, LeafReport, check_env
from drama.envs.description import describe
from drama.envs.families import EnvFamily, EnvOptions, ScoreRange, register_family, score_range
from drama.envs.guard import FaultGuard
from drama.envs.make import default_image_size, make_env
from drama.envs.spaces import ActionAdapter, ObservationAdapter, as_rgb
from drama.envs.toy import Catch, PixelGame, Recall, Sparse, register_games

register_games()

__all__ = [
    "ActionAdapter",
    "AdaptedEnv",
    "Catch",
    "EnvFamily",
    "EnvOptions",
    "EnvReport",
    "FaultGuard",
    "LeafReport",
    "LifeLossEpisodes",
    "ObservationAdapter",
    "PixelGame",
    "Recall",
    "ScoreRange",
    "Sparse",
    "adapt",
    "as_rgb",
    "check_env",
    "default_image_size",
    "describe",
    "make_env",
    "register_family",
    "register_games",
    "score_range",
]
