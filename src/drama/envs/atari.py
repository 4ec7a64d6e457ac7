"""Atari 2600 games under the Atari100k protocol.

One agent step is ``frame_skip`` = 4 frames of the emulator with the same action; the picture is
the pixel-wise maximum of the last two of them, resized to 64 x 64 RGB. No sticky actions, the
game's minimal action set, up to 30 no-ops at the start of a game, a cap of 108 000 frames. During
learning the loss of a life ends the episode but not the game; evaluation plays whole games.

Most of this is Gymnasium's ``AtariPreprocessing``. Where it, or the protocol, departs from
Machado et al. (2018), *Revisiting the Arcade Learning Environment*:

* The protocol itself: that paper recommends sticky actions (0.25), all 18 actions, no life-loss
  signal and no random no-ops. Atari100k keeps the older settings of DQN.
* No-ops: 1 to ``noop_max`` are drawn, never 0. A game that ends during them is reset and the
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
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AtariPreprocessing, RecordEpisodeStatistics, TimeLimit

from drama.errors import EnvError

FRAME_CAP = 108_000
"""Frames after which a game is truncated: 30 minutes at 60 frames a second."""
IMAGE_SIZE = 64

_OWNED = {
    "frameskip": "frame_skip",
    "repeat_action_probability": "sticky_actions",
    "full_action_space": "full_action_space",
    "max_num_frames_per_episode": "max_episode_steps",
}
"""Arguments of the emulator that the protocol sets, and how to set them instead."""
_FIXED = ("obs_type", "continuous", "sound_obs", "game")


def register_atari() -> None:
    """Register the ``ALE`` games in Gymnasium once; without ``ale_py`` there are none."""
    if "ALE/Pong-v5" in gym.registry:
        return
    with contextlib.suppress(ImportError):
        import ale_py

        gym.register_envs(ale_py)


def is_atari(spec: EnvSpec) -> bool:
    """Whether ``spec`` is a game of the Arcade Learning Environment."""
    return isinstance(spec.entry_point, str) and spec.entry_point.startswith("ale_py")


class EmulatorState(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Has a game pickled and copied with the state of its emulator.

    ``ale_py`` keeps the constructor's arguments alone, so that a copy would begin anew under
    wrappers that are in the middle of a game.

    Args:
        env: The game itself.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes, and what pickling the game itself would lose."""
        game: Any = self.unwrapped
        inner = {
            "spec": game.spec,
            "_np_random": game._np_random,
            "_np_random_seed": game._np_random_seed,
        }
        return {"wrapper": self.__dict__, "game": inner, "ale": game.clone_state(include_rng=True)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the state back."""
        self.__dict__.update(state["wrapper"])
        game: Any = self.unwrapped
        game.__dict__.update(state["game"])
        game.restore_state(state["ale"])


class LifeLossEpisodes(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Ends the learner's episode at each loss of a life while the real game goes on.

    ``step`` returns ``terminated=True`` and ``info["life_lost"]=True`` when the number of lives
    falls and the game goes on. The next ``reset`` does not reset the game: it takes one no-op and
    returns what that shows. The counter follows the lives up as well as down: a death just after
    a bonus life is a death. A fall to zero that comes with the game over is that one end, with
    ``life_lost`` False. A fall to zero without it is a lost life like any other, for the last
    life of some games has the number zero (BankHeist; in the other games of Atari100k zero and
    the game over come in the same step of 4 frames).

    The no-op belongs to the game, so its reward and length are in the statistics of wrappers
    inside this one. It may itself end the game: then ``reset`` resets in earnest, and the ``info``
    it returns holds the finished game's ``info["episode"]``, which no ``step`` could return. A
    life lost during the no-op ends nothing, for no episode had begun.

    ``reset`` with a seed or options, before the first episode, after a real end or in the middle
    of an episode is a real reset.

    Args:
        env: A game whose ``info`` holds ``lives`` and whose action 0 is the no-op.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._lives = 0
        self._life_lost = False

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the game and report the loss of a life as the episode's end."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        lives = int(info["lives"])
        died = lives < self._lives
        self._lives = lives
        self._life_lost = died and not (terminated or truncated)
        info["life_lost"] = self._life_lost
        # A death at the very step of the time limit is still the end of that life.
        return obs, reward, terminated or died, truncated, info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Go on after a lost life, or else start a new game."""
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


def make_atari(
    spec: EnvSpec,
    *,
    image_size: int | None = None,
    max_episode_steps: int | None = None,
    life_loss: bool = True,
    noop_max: int = 30,
    frame_skip: int = 4,
    sticky_actions: float = 0.0,
    full_action_space: bool = False,
    env_kwargs: Mapping[str, Any] | None = None,
) -> tuple[gym.Env[Any, Any], dict[str, Any]]:
    """Build a game under the protocol of this module.

    Args:
        spec: Specification of an Atari environment, without a limit of its own.
        image_size: Side of the picture in pixels; None is 64.
        max_episode_steps: Agent steps after which a *game* is truncated; None is
            ``108 000 // frame_skip``. This is the only cap: the emulator's own is switched off.
        life_loss: Whether the loss of a life ends the episode; False plays whole games.
        noop_max: Largest number of no-op frames at the start of a game; 0 takes none.
        frame_skip: Frames per agent step, at least 1.
        sticky_actions: Probability that a frame repeats the action of the frame before.
        full_action_space: All 18 actions instead of the game's minimal set.
        env_kwargs: Further arguments of the emulator: ``mode``, ``difficulty``, ``render_mode``.

    Returns:
        The environment, ``(image_size, image_size, 3)`` uint8, and the protocol it follows.

    Raises:
        EnvError: An argument is out of range or is set by the protocol.
    """
    import ale_py

    extra = dict(env_kwargs or {})
    for name in extra:
        if name in _OWNED:
            raise EnvError(f"{spec.id}: set {_OWNED[name]} instead of env_kwargs[{name!r}]")
        if name in _FIXED:
            raise EnvError(f"{spec.id}: env_kwargs[{name!r}] is fixed by the Atari protocol")
    size = IMAGE_SIZE if image_size is None else image_size
    _require(_is_int(frame_skip) and frame_skip >= 1, spec, "frame_skip", frame_skip, "at least 1")
    _require(_is_int(noop_max) and noop_max >= 0, spec, "noop_max", noop_max, "at least 0")
    _require(0.0 <= sticky_actions < 1.0, spec, "sticky_actions", sticky_actions, "in [0, 1)")
    _require(_is_int(size) and size >= 1, spec, "image_size", image_size, "at least 1")
    steps = FRAME_CAP // frame_skip if max_episode_steps is None else max_episode_steps
    _require(_is_int(steps) and steps >= 1, spec, "max_episode_steps", steps, "at least 1")

    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # no banner on stderr
    game = gym.make(
        spec,
        frameskip=1,
        repeat_action_probability=float(sticky_actions),
        full_action_space=full_action_space,
        obs_type="rgb",
        max_num_frames_per_episode=0,  # none: two caps would let the no-ops eat into ours
        disable_env_checker=True,
        **extra,
    )
    env: gym.Env[Any, Any] = AtariPreprocessing(
        EmulatorState(game),
        noop_max=noop_max,
        frame_skip=frame_skip,
        screen_size=size,
        terminal_on_life_loss=False,
        grayscale_obs=False,
    )
    env = RecordEpisodeStatistics(TimeLimit(env, steps))
    if life_loss:
        env = LifeLossEpisodes(env)
    protocol = {
        "frame_skip": frame_skip,
        "noop_max": noop_max,
        "sticky_actions": float(sticky_actions),
        "full_action_space": bool(full_action_space),
        "life_loss": bool(life_loss),
    }
    return env, protocol


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, spec: EnvSpec, name: str, value: Any, rule: str) -> None:
    if not holds:
        raise EnvError(f"{spec.id}: {name} must be {rule}, got {value!r}")
