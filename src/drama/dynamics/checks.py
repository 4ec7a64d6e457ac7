"""What every built-in sequence model refuses: shapes that would stretch, or fail far from here."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from drama.errors import ConfigError


def check_window(x: Tensor, width: int, state: Any = None) -> None:
    """Raise a :class:`ConfigError` unless ``x`` is ``(B, T, width)``, T >= 1, and a state fits."""
    if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] != width:
        raise ConfigError(
            f"sequence model: forward reads (B, T, {width}) with T >= 1, got {tuple(x.shape)}"
        )
    _check_rows(x, state)


def check_step(x: Tensor, width: int, state: Any) -> None:
    """Raise a :class:`ConfigError` unless ``x`` is ``(B, width)`` and the state of B rows."""
    if x.dim() != 2 or x.shape[1] != width:
        raise ConfigError(f"sequence model: step reads (B, {width}), got {tuple(x.shape)}")
    _check_rows(x, state)


def _check_rows(x: Tensor, state: Any) -> None:
    while isinstance(state, tuple) and state:
        state = state[0]
    if isinstance(state, Tensor) and state.shape[0] != x.shape[0]:
        raise ConfigError(
            f"sequence model: the state is of {state.shape[0]} rows, the input of {x.shape[0]}"
        )
