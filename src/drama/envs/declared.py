"""Arrays as a space declares them: conversion to its dtype, and what is wrong with one."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

LARGEST = float(np.finfo(np.float32).max)
"""Largest finite float32."""
_TOLERANCE = 1e-5
"""Relative tolerance at the bounds: float32 rounding may exceed a bound by an ulp or two."""


class Bounds:
    """Checks arrays against a ``Box``, doing only the work that the space makes necessary.

    A uint8 image bounded by 0 and 255 cannot leave its range: only shape and dtype are compared.
    """

    def __init__(self, space: gym.spaces.Box) -> None:
        self.shape, self.dtype = space.shape, space.dtype
        self.low, self.high = space.low, space.high
        if self.dtype == np.float64:  # the agent reads float32: an overflow there is as bad as Inf
            self.low, self.high = np.maximum(self.low, -LARGEST), np.minimum(self.high, LARGEST)
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
        """Return what is wrong with an array, or None if it is valid."""
        if obs.shape != self.shape:
            return f"has shape {obs.shape}, its space says {self.shape}"
        if obs.dtype != self.dtype:
            return f"has dtype {obs.dtype}, its space says {self.dtype}"
        if self.is_float and not np.isfinite(obs).all():
            return f"contains {'NaN' if np.isnan(obs).any() else 'Inf'}"
        if self.bounded and ((obs < self._floor).any() or (obs > self._ceiling).any()):
            return (
                f"reaches from {obs.min():g} to {obs.max():g}, "
                f"its space says {self.low.min():g} to {self.high.max():g}"
            )
        return None


def as_box(space: gym.Space[Any]) -> gym.spaces.Box | None:
    """Return the Box of the same arrays, or None for a space whose elements are no arrays."""
    if isinstance(space, gym.spaces.Box):
        return space
    if isinstance(space, gym.spaces.Discrete | gym.spaces.MultiDiscrete):
        n = space.n if isinstance(space, gym.spaces.Discrete) else space.nvec
        dtype: Any = space.dtype
        low, high = np.array(space.start, dtype), np.array(space.start + n - 1, dtype)
        return gym.spaces.Box(low, high, dtype=dtype)
    if isinstance(space, gym.spaces.MultiBinary):
        return gym.spaces.Box(0, 1, space.shape, np.int8)
    return None


def as_declared(obs: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """Return an observation as an array of its space's dtype, or None if it does not convert.

    Floats of another width are rounded; other types must convert without a change of value.
    """
    try:
        array = np.asarray(obs)
    except (TypeError, ValueError):  # a ragged list
        return None
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biuf" or (array.dtype.kind == "f" and dtype.kind != "f"):
        return None  # a picture rescaled to 0..1 would become black
    with np.errstate(over="ignore"):  # Inf is the fault that the guard reports
        cast = array.astype(dtype)
    return cast if array.dtype.kind == "f" or bool((cast == array).all()) else None
