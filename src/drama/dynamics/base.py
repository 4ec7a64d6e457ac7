"""What a sequence model is, how one is registered and built, and helpers for its state.

Four laws hold for every registered backbone, in the forward pass and in the gradient:

1. ``forward`` over a window equals ``step`` over each of its steps.
2. ``forward(a ‖ b)`` equals ``forward(a)``, then ``forward(b, state=...)``.
3. ``is_first`` at ``k`` equals a fresh start at ``k``.
4. No output depends on a later input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from drama.dynamics.config import DynamicsConfig
from drama.dynamics.probe import build_foreign
from drama.registry import SEQUENCE_MODELS

State = TypeVar("State")


class SequenceModel(Protocol[State]):
    """A causal map of features ``(B, T, D) -> (B, T, D)`` that can also be run step by step.

    Implementations are ``nn.Module``s. ``State`` is a NamedTuple of tensors (tuples may nest), the
    batch first in each; its shapes do not depend on how much has been read.
    """

    def init_state(self, batch_size: int) -> State:
        """Return the state at the start of an episode."""
        ...

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Read a window in parallel.

        Args:
            x: Features ``(B, T, D)``.
            is_first: Steps that begin a new episode, bool ``(B, T)``.
            state: State before the first step; that of :meth:`init_state` if None.

        Returns:
            Outputs ``(B, T, D)`` and the state after the last step.
        """
        ...

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one step ``(B, D)`` at constant cost; the given state is not changed."""
        ...

    def __call__(
        self, x: Tensor, is_first: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Call :meth:`forward`."""
        ...


BuilderT = TypeVar("BuilderT", bound=Callable[[DynamicsConfig], SequenceModel[Any]])


def register(name: str) -> Callable[[BuilderT], BuilderT]:
    """Register a sequence model: a class or function that takes a :class:`DynamicsConfig`.

    Args:
        name: Value of ``DynamicsConfig.name`` that selects it.

    Returns:
        A decorator that returns its argument unchanged.

    Raises:
        ConfigError: The name is none, or belongs to another sequence model.
    """
    return SEQUENCE_MODELS.register(name)


def registered() -> tuple[str, ...]:
    """Return the names that :func:`make_dynamics` knows, those of installed packages included."""
    return SEQUENCE_MODELS.names()


def check_registered(name: str) -> None:
    """Raise a :class:`ConfigError` with the nearest name if no sequence model has this one."""
    SEQUENCE_MODELS.check(name)


def is_built_in(name: str) -> bool:
    """Whether this package defines the sequence model of this name."""
    return name in SEQUENCE_MODELS.built_in


def make_dynamics(config: DynamicsConfig) -> SequenceModel[Any]:
    """Build the sequence model that ``config`` names.

    Args:
        config: Name and sizes.

    Returns:
        An ``nn.Module`` that obeys :class:`SequenceModel`.

    Raises:
        ConfigError: If no backbone has that name, or what it builds does not keep to the protocol.
    """
    builder = SEQUENCE_MODELS.get(config.name)
    if is_built_in(config.name):
        return cast("SequenceModel[Any]", builder(config))
    return cast("SequenceModel[Any]", build_foreign(config.name, builder, config))


def step_inplace(model: SequenceModel[State], x: Tensor, state: State) -> tuple[Tensor, State]:
    """Take a step whose given state is not needed any more.

    A model may offer ``step_``, with the arguments of ``step``, which reuses the memory of the
    state; otherwise ``step`` is taken. Not with gradients.
    """
    step: Callable[[Tensor, State], tuple[Tensor, State]] = getattr(model, "step_", model.step)
    return step(x, state)


def map_state(fn: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``fn`` to every tensor of a state, nested tuples included."""
    if isinstance(state, Tensor):
        return cast("State", fn(state))
    _check_tuple(state)
    return _rebuild(state, [map_state(fn, item) for item in cast("tuple[Any, ...]", state)])


def where_state(mask: Tensor, a: State, b: State) -> State:
    """Choose between two states, row by row; one of a single row stands for as many as it takes.

    Args:
        mask: bool ``(B,)``.
        a: State taken where ``mask`` is true.
        b: State taken elsewhere.

    Returns:
        A new state; neither argument is changed.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        rows = mask.view(-1, *[1] * (a.dim() - 1))
        return cast("State", torch.where(rows, a, b))
    _check_tuple(a)
    _check_tuple(b)
    pairs = zip(cast("tuple[Any, ...]", a), cast("tuple[Any, ...]", b), strict=True)
    return _rebuild(a, [where_state(mask, left, right) for left, right in pairs])


def _check_tuple(state: Any) -> None:
    if not isinstance(state, tuple):
        raise TypeError(f"a state is tensors in tuples, got {type(state).__name__}")


def _rebuild(like: State, items: list[Any]) -> State:
    kind: Any = type(like)
    return cast("State", kind(*items) if hasattr(kind, "_fields") else kind(items))
