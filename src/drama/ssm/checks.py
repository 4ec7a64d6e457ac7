"""Checks of the sizes and arguments of a layer."""

from __future__ import annotations

from torch import Tensor

from drama.errors import ConfigError
from drama.ops.checks import check_optional


def check_sizes(name: str, **sizes: int) -> None:
    """Raise a :class:`ConfigError` unless every size of layer ``name`` is at least 1."""
    for size, value in sizes.items():
        if value < 1:
            raise ConfigError(f"{name}: {size} must be at least 1, got {value}")


def check_mixer(
    name: str,
    x: Tensor,
    shape: tuple[int | str, ...],
    state: object,
    kind: type,
    **parts: tuple[int, ...],
) -> None:
    """Raise a :class:`ConfigError` unless input and state fit the layer and each other.

    Args:
        name: Name of the layer.
        x: The input.
        shape: Required shape of ``x``; a letter stands for any size.
        state: State before the input, or None.
        kind: Type of the state, a NamedTuple of tensors.
        **parts: Shape of each tensor of the state without its batch axis, in order.
    """
    fits = x.dim() == len(shape) and 0 not in x.shape[1:]
    if not fits or any(w != n for w, n in zip(shape, x.shape, strict=True) if isinstance(w, int)):
        expected = ", ".join(map(str, shape))
        raise ConfigError(f"{name}: the input must be ({expected}), got {tuple(x.shape)}")
    if state is None:
        return
    if not isinstance(state, kind):
        raise ConfigError(
            f"{name}: the state must be a {kind.__name__}, got {type(state).__name__}"
        )
    for part, rest in parts.items():
        check_optional(name, **{f"state.{part}": (getattr(state, part), (x.shape[0], *rest))})
