"""Stops a broken environment at the faulty step, before its output reaches the replay."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs

from drama.envs.wrappers import env_name, wrappers_of
from drama.errors import EnvFaultError
from drama.text import one_line

_LARGEST = float(np.finfo(np.float32).max)
_TOLERANCE = 1e-5
"""Relative tolerance at the bounds: float32 rounding may exceed a bound by an ulp or two."""


class _Bounds:
    """Checks arrays against a ``Box``, doing only the work that the space makes necessary.

    A uint8 image bounded by 0 and 255 cannot leave its range: only shape and dtype are compared.
    """

    def __init__(self, space: gym.spaces.Box) -> None:
        self.shape, self.dtype = space.shape, space.dtype
        self.low, self.high = space.low, space.high
        if self.dtype == np.float64:  # the agent reads float32: an overflow there is as bad as Inf
            self.low, self.high = np.maximum(self.low, -_LARGEST), np.minimum(self.high, _LARGEST)
        low, high = self.low, self.high
        self.is_float = bool(np.issubdtype(self.dtype, np.floating))
        if self.is_float:
            self.bounded = bool(np.isfinite(low).any() or np.isfinite(high).any())
        elif np.issubdtype(self.dtype, np.bool_):
            self.bounded = False
        else:
            limits = np.iinfo(self.dtype.name)
            self.bounded = bool((low > limits.min).any() or (high < limits.max).any())
        if self.is_float and self.bounded:
            with np.errstate(invalid="ignore", over="ignore"):
                low = low - _TOLERANCE * np.maximum(1.0, np.abs(low))
                high = high + _TOLERANCE * np.maximum(1.0, np.abs(high))
        self._floor, self._ceiling = low, high

    def fault(self, obs: npt.NDArray[Any]) -> str | None:
        """Return the error message for an array, or None if it is valid."""
        if obs.shape != self.shape:
            return f"the observation has shape {obs.shape}, its space says {self.shape}"
        if obs.dtype != self.dtype:
            return f"the observation has dtype {obs.dtype}, its space says {self.dtype}"
        if self.is_float and not np.isfinite(obs).all():
            return f"the observation contains {'NaN' if np.isnan(obs).any() else 'Inf'}"
        if self.bounded and ((obs < self._floor).any() or (obs > self._ceiling).any()):
            return (
                f"the observation reaches from {obs.min():g} to {obs.max():g}, "
                f"its space says {self.low.min():g} to {self.high.max():g}"
            )
        return None


def as_declared(obs: Any, space: gym.spaces.Box) -> npt.NDArray[Any] | None:
    """Return an observation as an array of its space's dtype, or None if it does not convert.

    Floats of another width are rounded; other types must convert without a change of value.
    """
    try:
        array = np.asarray(obs)
    except (TypeError, ValueError):  # a ragged list
        return None
    dtype = space.dtype
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype.kind != "f"):
        return None  # a picture rescaled to 0..1 would become black
    with np.errstate(over="ignore"):  # Inf is the fault that the guard reports
        cast = array.astype(dtype)
    return cast if array.dtype.kind == "f" or bool((cast == array).all()) else None


def _number(value: Any) -> tuple[float, bool] | None:
    """Return a real number as a float, and whether it is a scalar; None if it is no number."""
    if isinstance(value, float | int):  # bool and np.float64 as well
        return float(value), True
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O":  # a Decimal, a Fraction
            return float(value), True
        if array.dtype.kind not in "biuf" or array.size != 1:
            return None
    except (TypeError, ValueError):
        return None
    return float(array.item()), array.ndim == 0


class FaultGuard(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Raises where the wrapped environment breaks its own contract.

    It checks before any adaptation: a NaN cast to uint8 looks like a valid number. Observations
    leave as arrays of the declared dtype, rewards as floats, the two flags as bools.

    Args:
        env: The environment to check; its observation space must be a ``Box``.

    Attributes:
        notes: Conversions, one line for the first of each kind. The reader removes them.

    Raises:
        EnvFaultError: From ``reset`` and ``step``: an observation outside of the space (type,
            shape, dtype, NaN, range), a reward that is not a finite number, a flag that is neither
            True nor False, an info that is not a dictionary, or results in the form of the old
            Gym API. The message names the environment and the step.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.observation_space, gym.spaces.Box):
            raise TypeError(f"FaultGuard needs a Box observation, got {env.observation_space}")
        self._space: gym.spaces.Box = env.observation_space
        self._bounds = _Bounds(self._space)
        self.notes: list[str] = []
        self._noted: set[str] = set()
        self._step = 0  # steps of the current episode
        self._total = 0  # steps since construction

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and check its result."""
        self._step = 0
        try:
            result: Any = self.env.reset(seed=seed, options=options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise self._error(f"reset() refused seed= or options= ({error})") from error
        if not (isinstance(result, tuple) and len(result) == 2):
            raise self._error(
                "reset() did not return (obs, info); it follows the old Gym API: "
                "port it to gymnasium.Env or wrap it with shimmy"
            )
        obs, info = result
        return self._observation(obs), self._info(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step the environment and check its result."""
        self._step += 1
        self._total += 1
        try:
            result: Any = self.env.step(action)
        except ValueError as error:
            # A Gymnasium wrapper around an old environment fails while unpacking its 4-tuple.
            if "values to unpack (expected 5, got 4)" not in str(error):
                raise
            result = ()
        if not (isinstance(result, tuple) and len(result) == 5):
            raise self._error(
                "step() did not return (obs, reward, terminated, truncated, info); a 4-tuple is "
                "the old Gym API: port it to gymnasium.Env or wrap it with shimmy"
            )
        obs, reward, terminated, truncated, info = result
        return (
            self._observation(obs),
            self._reward(reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
            self._info(info),
        )

    def _observation(self, obs: Any) -> npt.NDArray[Any]:
        space = self._space
        exact = isinstance(obs, np.ndarray) and obs.dtype == space.dtype
        array: npt.NDArray[Any] | None = obs if exact else as_declared(obs, space)
        if array is None:
            raise self._error(
                f"the observation is {_shown(obs)}, its space says {space.shape} {space.dtype}"
            )
        fault = self._bounds.fault(array)
        if fault:
            raise self._error(fault)
        if not exact:
            kind = _shown(obs) if isinstance(obs, np.ndarray) else type(obs).__name__
            self._note(
                "obs", f"observations come as {kind}: converted to {space.dtype}, as declared"
            )
        return array

    def _reward(self, reward: Any) -> float:
        number = _number(reward)
        if number is None:
            raise self._error(f"the reward is {_shown(reward)}, not a number")
        value, scalar = number
        if not math.isfinite(value) or abs(value) > _LARGEST:
            beyond = ", beyond float32" if math.isfinite(value) else ""
            raise self._error(f"the reward is {value}{beyond}")
        if not scalar:
            self._note("reward", f"rewards come as {_shown(reward)}: taken as plain numbers")
        return value

    def _flag(self, name: str, flag: Any) -> bool:
        if isinstance(flag, bool | np.bool_):
            return bool(flag)
        number = _number(flag)
        if number is None or number[0] not in (0, 1):
            raise self._error(f"{name} is {_shown(flag)}, not True or False")
        if not number[1]:
            self._note(name, f"{name} comes as {_shown(flag)}: taken as True or False")
        return bool(number[0])

    def _info(self, info: Any) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise self._error(f"info is {_shown(info)}, not a dictionary")
        return info

    def _note(self, kind: str, text: str) -> None:
        if kind not in self._noted:
            self._noted.add(kind)
            self.notes.append(f"{env_name(self)}: {text}")

    def _error(self, what: str) -> EnvFaultError:
        where = f"step {self._step} of an episode" if self._step else "reset"
        return EnvFaultError(f"{env_name(self)} at {where} ({self._total} steps in all): {what}")


def guards_of(env: gym.Env[Any, Any]) -> list[FaultGuard]:
    """Return the guards around ``env``, outermost first."""
    return [layer for layer in wrappers_of(env) if isinstance(layer, FaultGuard)]


def _shown(value: Any) -> str:
    """Return a value as one short line; arrays by shape and dtype."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    text = one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:60]}... ({type(value).__name__})"
