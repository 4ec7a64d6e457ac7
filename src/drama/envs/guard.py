"""Stops a broken environment at the step where it breaks, before its output reaches the replay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs

from drama.errors import EnvFaultError
from drama.text import one_line

_LARGEST = float(np.finfo(np.float32).max)
_TOLERANCE = 1e-5
"""Slack at the bounds, relative to them: float32 arithmetic may pass a bound by an ulp or two."""


def env_name(env: gym.Env[Any, Any]) -> str:
    """Return the id under which ``env`` is registered, or else the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def observation_fault(space: gym.spaces.Box) -> Callable[[npt.NDArray[Any]], str | None]:
    """Return a function that says what is wrong with one array, or None if it is sound.

    The work per call is what the space makes necessary: a uint8 image with the bounds 0 and 255
    cannot be out of range, so only its shape and dtype are looked at.

    Args:
        space: The space the observations are declared to lie in.
    """
    shape, dtype = space.shape, space.dtype
    low, high = space.low, space.high
    if dtype == np.float64:  # the agent reads float32: what overflows there is as bad as Inf
        limit = float(np.finfo(np.float32).max)
        low, high = np.maximum(low, -limit), np.minimum(high, limit)
    check_finite = np.issubdtype(dtype, np.floating)
    if np.issubdtype(dtype, np.bool_):
        check_range = False
    elif check_finite:
        check_range = bool(np.isfinite(low).any() or np.isfinite(high).any())
    else:
        limits = np.iinfo(dtype.name)
        check_range = bool((low > limits.min).any() or (high < limits.max).any())
    floor: npt.NDArray[Any] = low
    ceiling: npt.NDArray[Any] = high
    if check_finite and check_range:
        with np.errstate(invalid="ignore", over="ignore"):
            floor = low - _TOLERANCE * np.maximum(1.0, np.abs(low))
            ceiling = high + _TOLERANCE * np.maximum(1.0, np.abs(high))

    def fault(obs: npt.NDArray[Any]) -> str | None:
        if obs.shape != shape:
            return f"the observation has shape {obs.shape}, its space says {shape}"
        if obs.dtype != dtype:
            return f"the observation has dtype {obs.dtype}, its space says {dtype}"
        if check_finite and not np.isfinite(obs).all():
            kind = "NaN" if np.isnan(obs).any() else "Inf"
            return f"the observation contains {kind}"
        if check_range and ((obs < floor).any() or (obs > ceiling).any()):
            return (
                f"the observation reaches from {obs.min():g} to {obs.max():g}, "
                f"its space says {low.min():g} to {high.max():g}"
            )
        return None

    return fault


def as_declared(obs: Any, space: gym.spaces.Box) -> npt.NDArray[Any] | None:
    """Return an observation as an array of the dtype its space declares, or None if it is not one.

    Floats of another width are rounded; anything else must convert without a change of value.
    """
    try:
        array = np.asarray(obs)
    except (TypeError, ValueError):  # a ragged list
        return None
    dtype = space.dtype
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype.kind != "f"):
        return None  # a picture rescaled to 0..1 by its owner would come out black
    with np.errstate(over="ignore"):  # Inf is the fault that the guard reports
        cast = array.astype(dtype)
    return cast if array.dtype.kind == "f" or bool((cast == array).all()) else None


def _number(value: Any) -> tuple[float, bool] | None:
    """Return a real number as a float and whether it came alone, not in an array; else None."""
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

    Judged before any adaptation, for a NaN cast to uint8 is a harmless looking number. The
    observation leaves as an array of the declared dtype, the reward as a Python float, the two
    flags as bools.

    Args:
        env: The environment to watch; its observation space must be a ``Box``.

    Attributes:
        notes: What was converted, one line for each kind at its first occurrence. Whoever reports
            them removes them.

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
        self._fault = observation_fault(self._space)
        self.notes: list[str] = []
        self._noted: set[str] = set()
        self._step = 0  # steps of the current episode
        self._total = 0  # steps since construction

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the check, which follows from the space and cannot be pickled."""
        return {name: value for name, value in self.__dict__.items() if name != "_fault"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Build the check anew."""
        self.__dict__.update(state)
        assert isinstance(self.env.observation_space, gym.spaces.Box)
        self._fault = observation_fault(self.env.observation_space)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and check the first observation."""
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
        """Step the environment and check what comes back."""
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
        sound = isinstance(obs, np.ndarray) and obs.dtype == space.dtype
        array: npt.NDArray[Any] | None = obs if sound else as_declared(obs, space)
        if array is None:
            raise self._error(
                f"the observation is {_said(obs)}, its space says {space.shape} {space.dtype}"
            )
        fault = self._fault(array)
        if fault:
            raise self._error(fault)
        if not sound:
            kind = _said(obs) if isinstance(obs, np.ndarray) else type(obs).__name__
            self._note(
                "obs", f"observations come as {kind}: converted to {space.dtype}, as declared"
            )
        return array

    def _reward(self, reward: Any) -> float:
        number = _number(reward)
        if number is None:
            raise self._error(f"the reward is {_said(reward)}, not a number")
        value, alone = number
        if not math.isfinite(value) or abs(value) > _LARGEST:
            beyond = ", beyond float32" if math.isfinite(value) else ""
            raise self._error(f"the reward is {value}{beyond}")
        if not alone:
            self._note("reward", f"rewards come as {_said(reward)}: taken as plain numbers")
        return value

    def _flag(self, name: str, flag: Any) -> bool:
        if isinstance(flag, bool | np.bool_):
            return bool(flag)
        number = _number(flag)
        if number is None or number[0] not in (0, 1):
            raise self._error(f"{name} is {_said(flag)}, not True or False")
        if not number[1]:
            self._note(name, f"{name} comes as {_said(flag)}: taken as True or False")
        return bool(number[0])

    def _info(self, info: Any) -> dict[str, Any]:
        if not isinstance(info, dict):
            raise self._error(f"info is {_said(info)}, not a dictionary")
        return info

    def _note(self, kind: str, text: str) -> None:
        if kind not in self._noted:
            self._noted.add(kind)
            self.notes.append(f"{env_name(self)}: {text}")

    def _error(self, what: str) -> EnvFaultError:
        where = f"step {self._step} of an episode" if self._step else "reset"
        return EnvFaultError(f"{env_name(self)} at {where} ({self._total} steps in all): {what}")


def guards_of(env: gym.Env[Any, Any]) -> list[FaultGuard]:
    """Return the guards around ``env``, the outermost first."""
    found = []
    while isinstance(env, gym.Wrapper):
        if isinstance(env, FaultGuard):
            found.append(env)
        env = env.env
    return found


def _said(value: Any) -> str:
    """Return a value in a few words of one line: arrays by shape and dtype."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype}"
    text = one_line(repr(value))
    return text if len(text) <= 60 else f"{text[:60]}... ({type(value).__name__})"
