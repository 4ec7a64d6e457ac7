"""Stops a broken environment at the faulty step, before its output reaches the replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.utils import RecordConstructorArgs

from drama.envs.declared import LARGEST, Bounds, as_box, as_declared
from drama.envs.leaves import RawLeaf, raw_leaves
from drama.envs.wrappers import env_name, wrappers_of
from drama.errors import EnvFaultError
from drama.observations import ALL, matching
from drama.text import one_line


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

    It checks before any adaptation: a NaN cast to uint8 looks like a valid number. An observation
    that is one array leaves with the declared dtype, rewards as floats, the two flags as bools.

    Args:
        env: The environment to check.
        observe: Patterns of the leaves that are checked; none of text and other kinds that are
            no arrays.

    Attributes:
        notes: Conversions, one line for the first of each kind. The reader removes them.

    Raises:
        EnvFaultError: From ``reset`` and ``step``: an observation outside of the space (type,
            shape, dtype, NaN, range), a reward that is not a finite number, a flag that is neither
            True nor False, an info that is not a dictionary, or results in the form of the old
            Gym API. The message names the environment and the step.
    """

    def __init__(self, env: gym.Env[Any, Any], observe: Sequence[str] = ALL) -> None:
        RecordConstructorArgs.__init__(self, observe=tuple(observe))
        super().__init__(env)
        leaves = raw_leaves(env.observation_space)
        kept = matching(observe, [leaf.name for leaf in leaves], "env.observe")
        boxes = [(leaf, as_box(leaf.space)) for leaf in leaves if leaf.name in kept]
        self._leaves = [(leaf, Bounds(box)) for leaf, box in boxes if box is not None]
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

    def _observation(self, obs: Any) -> Any:
        for leaf, bounds in self._leaves:
            try:
                part = leaf.of(obs)
            except (LookupError, TypeError) as error:
                raise self._error(
                    f"the observation, a {type(obs).__name__}, has no {leaf.name!r}"
                ) from error
            array = self._array(part, leaf, bounds)
            if not leaf.name:
                return array
        return obs

    def _array(self, obs: Any, leaf: RawLeaf, bounds: Bounds) -> npt.NDArray[Any]:
        """Return one leaf with the declared dtype."""
        what = f"the observation {leaf.name!r}" if leaf.name else "the observation"
        exact = isinstance(obs, np.ndarray) and obs.dtype == bounds.dtype
        array: npt.NDArray[Any] | None = obs if exact else as_declared(obs, bounds.dtype)
        if array is None:
            raise self._error(
                f"{what} is {_shown(obs)}, its space says {bounds.shape} {bounds.dtype}"
            )
        fault = bounds.fault(array)
        if fault:
            raise self._error(f"{what} {fault}")
        if not exact and isinstance(leaf.space, gym.spaces.Box):
            kind = _shown(obs) if isinstance(obs, np.ndarray) else type(obs).__name__
            some = f"observations {leaf.name!r}" if leaf.name else "observations"
            self._note(what, f"{some} come as {kind}: converted to {bounds.dtype}, as declared")
        return array

    def _reward(self, reward: Any) -> float:
        number = _number(reward)
        if number is None:
            raise self._error(f"the reward is {_shown(reward)}, not a number")
        value, scalar = number
        if not math.isfinite(value) or abs(value) > LARGEST:
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
