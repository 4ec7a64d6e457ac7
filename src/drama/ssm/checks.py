"""Check of the arguments of a layer."""

from __future__ import annotations

from torch import Tensor

from drama.errors import ConfigError
from drama.ops.checks import check_optional


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
