"""Shape checks of the built-in sequence models: wrong shapes would broadcast or fail far away."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch import Tensor

from drama.errors import ConfigError


def check_window(x: Tensor, width: int, state: Any, kind: type) -> None:
    """Raise a :class:`ConfigError` unless ``x`` is ``(B, T, width)``, T >= 1, and ``state`` fits.

    Args:
        x: The input.
        width: Size of its last axis.
        state: State of batch size B, or None.
        kind: Type of the state.
    """
    if x.dim() != 3 or x.shape[1] < 1 or x.shape[2] != width:
        raise ConfigError(
            f"sequence model: forward reads (B, T, {width}) with T >= 1, got {tuple(x.shape)}"
        )
    if state is not None:
        _check_state(x, state, kind)


def check_step(x: Tensor, width: int, state: Any, kind: type) -> None:
    """Raise a :class:`ConfigError` unless ``x`` is ``(B, width)`` and ``state`` fits."""
    if x.dim() != 2 or x.shape[1] != width:
        raise ConfigError(f"sequence model: step reads (B, {width}), got {tuple(x.shape)}")
    _check_state(x, state, kind)


def check_layers(layers: Sized, count: int) -> None:
    """Raise a :class:`ConfigError` unless there are states of ``count`` layers."""
    if len(layers) != count:
        raise ConfigError(f"sequence model: the state must be of {count} layers, got {len(layers)}")


def _check_state(x: Tensor, state: Any, kind: type) -> None:
    if not isinstance(state, kind):
        raise ConfigError(
            f"sequence model: the state must be a {kind.__name__}, got {type(state).__name__}"
        )
    pending = [state]
    while pending:
        part = pending.pop()
        if isinstance(part, tuple):
            pending += part
        elif isinstance(part, Tensor) and part.shape[0] != x.shape[0]:
            raise ConfigError(
                f"sequence model: the state's batch size must be {x.shape[0]}, got {part.shape[0]}"
            )
