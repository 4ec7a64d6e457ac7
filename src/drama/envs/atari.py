"""Atari 2600 games under the Atari100k protocol.

One agent step is ``frame_skip`` = 4 frames of the emulator with the same action; the picture is
the pixel-wise maximum of the last two of them, resized to 64 x 64 RGB. No sticky actions, the
game's minimal action set, up to 30 no-ops at the start of a game, a cap of 108 000 frames. During
learning the loss of a life ends the episode but not the game; evaluation plays whole games.

Most of this is Gymnasium's ``AtariPreprocessing``. Where it, or the protocol, departs from
Machado et al. (2018), *Revisiting the Arcade Learning Environment*:

* The protocol itself: that paper recommends sticky actions (0.25), all 18 actions, no life-loss
  signal and no random no-ops. Atari100k keeps the older settings of DQN.
* No-ops: 1 to ``noop_max`` are sampled, never 0. A game that ends during them is reset and the
  *remaining* ones are played; where the reset was seeded, it is seeded again, so it replays the
  same start. Rewards earned during no-ops are not in any statistic.
* A game that ends inside a skip stops there, and its last picture is not refreshed: the final
  observation repeats the one before it, or, if the game ended at the last frame of the skip, is
  the maximum of that one and the last frame but one. What remains of the skip is not played.
* Frames are resized straight to the target with ``INTER_AREA``; colour is kept. The maximum is
  taken per RGB channel, before the resize.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AtariPreprocessing, RecordEpisodeStatistics, TimeLimit

from drama.envs.families import IMAGE_SIZE, EnvFamily, EnvOptions
from drama.errors import EnvError

FRAME_CAP = 108_000
"""Frames after which a game is truncated: 30 minutes at 60 frames a second."""

_OWNED = {
    "frameskip": "frame_skip",
    "repeat_action_probability": "sticky_actions",
    "full_action_space": "full_action_space",
    "max_num_frames_per_episode": "max_episode_steps",
}
"""Arguments of the emulator that the protocol sets, and how to set them instead."""
_FIXED = ("obs_type", "continuous", "sound_obs", "game")


class EmulatorState(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Pickles and copies a game together with the state of its emulator.

    ``ale_py`` pickles the constructor's arguments only: a copy would restart inside wrappers that
    are in the middle of a game.

    Args:
        env: The game itself.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, and those that pickling the game itself would lose."""
        game: Any = self.unwrapped
        inner = {
            "spec": game.spec,
            "_np_random": game._np_random,
            "_np_random_seed": game._np_random_seed,
        }
        return {"wrapper": self.__dict__, "game": inner, "ale": game.clone_state(include_rng=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.__dict__.update(state["wrapper"])
        game: Any = self.unwrapped
        game.__dict__.update(state["game"])
        game.restore_state(state["ale"])


class LifeLossEpisodes(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Ends the learner's episode at each loss of a life while the game goes on.

    ``step`` returns ``terminated=True`` and ``info["life_lost"]=True`` when the number of lives
    falls and the game goes on. The next ``reset`` does not reset the game: it takes one no-op and
    returns its observation. The counter follows bonus lives, so a death right after one counts. A
    fall to zero at the end of the game is one end, with ``life_lost`` False. A fall to zero
    without it is a lost life: the last life of some games has the number zero (BankHeist; in the
    other games of Atari100k zero and the end come in the same step of 4 frames).

    The no-op belongs to the game: its reward and length are in the statistics of wrappers inside
    this one. If it ends the game, ``reset`` resets the game and returns the finished game's
    ``info["episode"]``, which no ``step`` could return. A life lost during the no-op ends nothing,
    since no episode had begun.

    ``reset`` with a seed or options, before the first episode, after the end of a game or in the
    middle of an episode resets the game.

    Args:
        env: A game whose ``info`` holds ``lives`` and whose action 0 is the no-op.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._lives = 0
        self._life_lost = False

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the game and return the loss of a life as the end of the episode."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        lives = int(info["lives"])
        died = lives < self._lives
        self._lives = lives
        self._life_lost = died and not (terminated or truncated)
        info["life_lost"] = self._life_lost
        # A death at the step of the time limit is still the end of that life.
        return obs, reward, terminated or died, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Continue after a lost life, or start a new game."""
        goes_on = self._life_lost and seed is None and not options
        self._life_lost = False
        finished: dict[str, Any] = {}
        if goes_on:
            obs, _, terminated, truncated, info = self.env.step(0)
            if not (terminated or truncated):
                self._lives = int(info["lives"])
                return obs, info
            if "episode" in info:
                finished = {"episode": info["episode"]}
        obs, info = self.env.reset(seed=seed, options=options)
        self._lives = int(info["lives"])
        return obs, {**info, **finished}


@dataclass(frozen=True)
class AtariSettings:
    """Settings of the Atari protocol; the defaults are those of training in Atari100k.

    Raises:
        EnvError: A value is out of range.
    """

    frame_skip: int = 4
    """Frames per agent step, at least 1."""
    noop_max: int = 30
    """Largest number of no-op frames at the start of a game; 0 = none."""
    sticky_actions: float = 0.0
    """Probability that a frame repeats the action of the previous frame, in [0, 1)."""
    full_action_space: bool = False
    """Whether to use all 18 actions instead of the game's minimal set."""
    life_loss: bool = True
    """Whether losing a life ends the episode; False plays whole games."""

    def __post_init__(self) -> None:
        _require("frame_skip", self.frame_skip, _is_int(self.frame_skip, 1), "at least 1")
        _require("noop_max", self.noop_max, _is_int(self.noop_max, 0), "at least 0")
        sticky = 0.0 <= self.sticky_actions < 1.0
        _require("sticky_actions", self.sticky_actions, sticky, "in [0, 1)")


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _require(name: str, value: Any, holds: bool, rule: str) -> None:
    if not holds:
        raise EnvError(f"{name} must be {rule}, got {value!r}")


class Atari(EnvFamily):
    """The games of ``ale_py`` under the protocol of this module.

    ``max_episode_steps`` truncates the *game*, after ``108 000 // frame_skip`` agent steps if not
    given. The emulator's own cap is switched off.
    """

    name = "atari"
    prefix = "ALE/"
    module = "ale_py"  # also defines the ids of older Gym versions
    install = "the Atari games: pip install ale-py"
    packages = ("ale_py",)
    settings = MappingProxyType(asdict(AtariSettings()))
    wrappers = (AtariPreprocessing,)
    preprocesses = True
    ends_games = True

    def register_ids(self, env_id: str) -> None:
        """Register the games in Gymnasium; without ``ale_py`` there are none."""
        if "ALE/Pong-v5" not in gym.registry:
            with contextlib.suppress(ImportError):
                import ale_py

                gym.register_envs(ale_py)

    def current_id(self, name: str) -> str | None:
        """Return the id for the names of older Gym versions, such as ``PongNoFrameskip-v4``."""
        old = re.fullmatch(r"(?:ALE/)?(\w+?)(?:-ram)?(?:NoFrameskip|Deterministic)?-v\d+", name)
        return f"ALE/{old[1]}-v5" if old else None

    def make(self, spec: EnvSpec, options: EnvOptions) -> gym.Env[Any, Any]:
        """Build a game; observations are ``(image_size, image_size, 3)`` uint8."""
        import ale_py

        for name in options.kwargs:
            if name in _OWNED:
                raise EnvError(f"{spec.id}: set {_OWNED[name]} instead of env_kwargs[{name!r}]")
            if name in _FIXED:
                raise EnvError(f"{spec.id}: env_kwargs[{name!r}] is fixed by the Atari protocol")
        settings = AtariSettings(**options.settings)
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner on stderr
        game = gym.make(
            spec,
            frameskip=1,
            repeat_action_probability=float(settings.sticky_actions),
            full_action_space=settings.full_action_space,
            obs_type="rgb",
            max_num_frames_per_episode=0,  # no cap: it would count the no-ops
            disable_env_checker=True,
            **options.kwargs,
        )
        env: gym.Env[Any, Any] = AtariPreprocessing(
            EmulatorState(game),
            noop_max=settings.noop_max,
            frame_skip=settings.frame_skip,
            screen_size=options.image_size or IMAGE_SIZE,
            terminal_on_life_loss=False,
            grayscale_obs=False,
        )
        steps = options.max_episode_steps or FRAME_CAP // settings.frame_skip
        env = RecordEpisodeStatistics(TimeLimit(env, steps))
        return LifeLossEpisodes(env) if settings.life_loss else env

    def protocol(self, env: gym.Env[Any, Any], options: EnvOptions) -> dict[str, Any]:
        """Return the settings."""
        found = asdict(AtariSettings(**options.settings))
        return found | {"sticky_actions": float(found["sticky_actions"])}
