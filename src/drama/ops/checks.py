"""Checks of tensor arguments, common to operations and sequence models."""

from __future__ import annotations

import torch
from torch import Tensor

from drama.errors import ConfigError


def check_is_first(name: str, is_first: Tensor | None, batch: int, length: int) -> None:
    """Raise a :class:`ConfigError` unless resets are bool ``(B, T)``, or None.

    Numbers would be used as factors and smaller shapes broadcast, with wrong results.
    """
    if is_first is None:
        return
    if not isinstance(is_first, Tensor):
        raise ConfigError(f"{name}: is_first must be a torch tensor, got {type(is_first).__name__}")
    if is_first.dtype != torch.bool or is_first.shape != (batch, length):
        kind = str(is_first.dtype).removeprefix("torch.")
        raise ConfigError(
            f"{name}: is_first must be bool {(batch, length)}, got {kind} {tuple(is_first.shape)}"
        )


def check_optional(name: str, **expected: tuple[Tensor | None, tuple[int, ...]]) -> None:
    """Raise a :class:`ConfigError` unless each tensor has the given shape or is None."""
    for argument, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ConfigError(f"{name}: {argument} must be {shape}, got {tuple(tensor.shape)}")
