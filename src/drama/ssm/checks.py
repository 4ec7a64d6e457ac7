"""Checks of arguments that the sequence models share."""

from __future__ import annotations

import torch
from torch import Tensor

from drama.errors import ConfigError


def check_is_first(name: str, is_first: Tensor | None, batch: int, length: int) -> None:
    """Raise a :class:`ConfigError` unless resets are bool ``(B, T)``, or None.

    Numbers would be taken for factors, and smaller shapes be stretched, to wrong results.
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
    """Raise a :class:`ConfigError` if a tensor that is not None has not the shape beside it."""
    for argument, (tensor, shape) in expected.items():
        if tensor is not None and tensor.shape != shape:
            raise ConfigError(f"{name}: {argument} must be {shape}, got {tuple(tensor.shape)}")


def check_mixer(
    name: str,
    x: Tensor,
    shape: tuple[int | str, ...],
    state: object,
    kind: type,
    **parts: tuple[int, ...],
) -> None:
    """Raise a :class:`ConfigError` unless a layer's input and its state fit it and each other.

    Args:
        name: The layer, for the message.
        x: The input.
        shape: What ``x`` must be; a letter stands for any size.
        state: State before the input, or None.
        kind: Type of the state, a NamedTuple of tensors.
        **parts: Shape of each tensor of the state behind its batch axis, in order.
    """
    fits = x.dim() == len(shape) and 0 not in x.shape[1:]
    if not fits or any(w != n for w, n in zip(shape, x.shape, strict=True) if isinstance(w, int)):
        wanted = ", ".join(map(str, shape))
        raise ConfigError(f"{name}: the input must be ({wanted}), got {tuple(x.shape)}")
    if state is None:
        return
    if not isinstance(state, kind):
        raise ConfigError(
            f"{name}: the state must be a {kind.__name__}, got {type(state).__name__}"
        )
    for part, rest in parts.items():
        check_optional(name, **{f"state.{part}": (getattr(state, part), (x.shape[0], *rest))})
