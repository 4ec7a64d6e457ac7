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

_TOLERANCE = 1e-5
"""Slack at the bounds, relative to them: float32 arithmetic may pass a bound by an ulp or two."""


def env_name(env: gym.Env[Any, Any]) -> str:
    """Return the id under which ``env`` is registered, or else the name of its class."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def observation_fault(space: gym.spaces.Box) -> Callable[[Any], str | None]:
    """Return a function that says what is wrong with one observation, or None if it is sound.

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

    def fault(obs: Any) -> str | None:
        if not isinstance(obs, np.ndarray):
            return f"the observation is a {type(obs).__name__}, not a NumPy array"
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


class FaultGuard(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Raises where the wrapped environment breaks its own contract.

    Judged before any adaptation, for a NaN cast to uint8 is a harmless looking number. The
    reward leaves as a Python float, the two flags as bools.

    Args:
        env: The environment to watch; its observation space must be a ``Box``.

    Raises:
        EnvFaultError: From ``reset`` and ``step``: an observation outside of the space (type,
            shape, dtype, NaN, range), a reward that is not a finite number, or results in the
            form of the old Gym API. The message names the environment and the step.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        if not isinstance(env.observation_space, gym.spaces.Box):
            raise TypeError(f"FaultGuard needs a Box observation, got {env.observation_space}")
        self._fault = observation_fault(env.observation_space)
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
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise self._error(
                "reset() did not return (obs, info); it follows the old Gym API: "
                "port it to gymnasium.Env or wrap it with shimmy"
            )
        fault = self._fault(result[0])
        if fault:
            raise self._error(fault)
        return result

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
        fault = self._fault(obs)
        if fault:
            raise self._error(fault)
        try:
            value = float(reward)
        except (TypeError, ValueError) as error:
            raise self._error(f"the reward is {reward!r}, not a number") from error
        if not math.isfinite(value):
            raise self._error(f"the reward is {value}")
        return obs, value, bool(terminated), bool(truncated), info

    def _error(self, what: str) -> EnvFaultError:
        where = f"step {self._step} of an episode" if self._step else "reset"
        return EnvFaultError(f"{env_name(self)} at {where} ({self._total} steps in all): {what}")
