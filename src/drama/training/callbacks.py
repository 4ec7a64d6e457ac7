"""Callbacks, called with the names and in the order of Stable-Baselines3."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from drama.errors import ConfigError
from drama.training.events import Event
from drama.training.trainer import Trainer
from drama.types import map_obs


@runtime_checkable
class CallbackObject(Protocol):
    """A callback object; a Stable-Baselines3 ``BaseCallback`` is one."""

    def on_step(self) -> bool:
        """Return whether to continue, after each environment step."""
        ...


CallbackLike: TypeAlias = (
    "CallbackObject | Callable[[dict[str, Any], dict[str, Any]], bool | None]"
    " | Sequence[CallbackLike] | None"
)
"""An object, a function of ``(locals, globals)``, a list of those, or nothing."""


class Callbacks:
    """A listener that drives any mix of callbacks through one ``learn`` call.

    Objects may also have ``init_callback(agent)``, ``on_training_start(locals, globals)``,
    ``on_rollout_start()``, ``update_locals(locals)``, ``on_rollout_end()`` and
    ``on_training_end()``, called in Stable-Baselines3's order; a rollout is one environment step.
    As there, returning False from a step ends training.

    ``locals`` holds ``self`` (the agent), ``total_timesteps`` (those of earlier calls included) and
    of the last step ``actions``, ``new_obs``, ``rewards``, ``dones`` and ``infos``, each for a
    vector of one environment. At the end of an episode ``new_obs`` is the final observation, and
    ``infos`` has ``terminal_observation`` and, where a whole game ended, ``episode``.

    Raises:
        ConfigError: Something in ``callback`` is neither callable with two arguments nor has
            ``on_step``, or is a class, or would fail in the middle of training.
    """

    def __init__(self, callback: CallbackLike, agent: Any) -> None:
        self._agent = agent
        self._parts: list[Any] = []
        self._sb3 = False
        self._collect(callback)
        self._locals: dict[str, Any] = {}
        self._episode: dict[str, Any] | None = None

    def _collect(self, callback: Any) -> None:
        if callback is None:
            return
        if isinstance(callback, Sequence):
            for part in callback:
                self._collect(part)
            return
        if isinstance(callback, type):
            raise ConfigError(
                f"a callback is an object, got the class {callback.__name__}: call it to make one"
            )
        if _is_sb3(callback):
            from drama.training import sb3

            sb3.check(callback)
            self._sb3 = True
        elif not isinstance(callback, CallbackObject):
            _check_function(callback)
        self._parts.append(callback)

    def start(self, trainer: Trainer, target: int) -> None:
        """Announce training until the trainer has made ``target`` steps."""
        self._trainer, self._model = trainer, self._agent
        if self._sb3:
            from drama.training import sb3

            self._model = sb3.as_model(self._agent)
        self._locals = {
            "self": self._model,
            "total_timesteps": trainer.collector.steps_before + target,
            "reset_num_timesteps": False,
            "tb_log_name": "drama",
        }
        self._call("init_callback", self._model)
        self._call("on_training_start", self._locals, {})
        self._call("on_rollout_start")

    def __call__(self, event: Event, payload: Any) -> bool:
        """Forward one event of the trainer; returns whether all callbacks want to continue."""
        if event == "step" and self._parts:
            return self._step()
        if event == "episode":
            self._episode = {"r": payload.ret, "l": payload.length, "t": round(payload.seconds, 6)}
            if self._sb3:
                self._model.ep_info_buffer.append(self._episode)
        if event == "metrics" and self._sb3:
            self._model.logger.dump(self._trainer.step)
        return True

    def _step(self) -> bool:
        self._locals.update(self._last_step())
        self._call("update_locals", self._locals)
        answers = [
            part.on_step() if hasattr(part, "on_step") else part(self._locals, {})
            for part in self._parts
        ]
        go_on = all(answer is None or bool(answer) for answer in answers)
        if go_on:
            self._call("on_rollout_end")
            if self._agent.num_timesteps < self._locals["total_timesteps"]:
                self._call("on_rollout_start")
        return go_on

    def _last_step(self) -> dict[str, Any]:
        """Return the last step as a vector of one environment would."""
        stream = self._trainer.stream
        assert stream.last is not None
        obs, reward, terminated, truncated, info = stream.last
        done = terminated or truncated
        info = {**info, "TimeLimit.truncated": truncated and not terminated}
        if done:
            info["terminal_observation"] = obs
        if self._episode is not None:
            info, self._episode = {"episode": self._episode, **info}, None
        return {
            "actions": np.array([stream.actions[-1]]),
            "new_obs": map_obs(lambda leaf: np.asarray(leaf)[None], obs),
            "rewards": np.array([reward], np.float32),
            "dones": np.array([done]),
            "infos": [info],
        }

    def end(self) -> None:
        """Announce the end of training."""
        self._call("on_training_end")

    def close(self) -> None:
        """Flush the logger, however training ended."""
        if self._sb3 and self._locals:
            self._model.logger.dump(self._trainer.step)
            self._model.logger.close()

    def _call(self, name: str, *args: Any) -> None:
        for part in self._parts:
            if hasattr(part, name):
                getattr(part, name)(*args)


def _check_function(callback: Any) -> None:
    if not callable(callback):
        raise ConfigError(
            f"a callback is a function or has on_step(), got {type(callback).__name__}"
        )
    try:
        inspect.signature(callback).bind({}, {})
    except TypeError as error:
        name = getattr(callback, "__name__", type(callback).__name__)
        raise ConfigError(
            f"a callback function takes (locals, globals); {name} does not: {error}"
        ) from error
    except ValueError:  # a builtin without a signature
        pass


def _is_sb3(callback: Any) -> bool:
    """Whether a callback is one of Stable-Baselines3, without importing it."""
    module = sys.modules.get("stable_baselines3.common.callbacks")
    return module is not None and isinstance(callback, module.BaseCallback)
