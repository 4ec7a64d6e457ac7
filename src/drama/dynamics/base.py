"""Protocol and registry of sequence models, and helpers for their states.

Four laws hold for every registered backbone, in the forward pass and in the gradient:

1. ``forward`` over a window equals ``step`` over each of its steps.
2. ``forward(a ‖ b)`` equals ``forward(a)``, then ``forward(b, state=...)``.
3. ``is_first`` at ``k`` equals a fresh start at ``k``.
4. No output depends on a later input.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor

from drama.dynamics.config import DynamicsConfig
from drama.dynamics.probe import build_foreign
from drama.registry import SEQUENCE_MODELS

State = TypeVar("State")


class SequenceModel(Protocol[State]):
    """A causal map of features ``(B, T, D) -> (B, T, D)`` that also runs step by step.

    Implementations are ``nn.Module``s. ``State`` is a NamedTuple of tensors (tuples may nest) with
    the batch first; its shapes do not depend on the number of steps read.
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
        """Read one step ``(B, D)`` at constant cost; ``state`` is unchanged."""
        ...

    def __call__(
        self, x: Tensor, is_first: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Call :meth:`forward`."""
        ...


class Unroll(ABC):
    """Reads single steps of a batch from the start of an episode; its state is in itself.

    A faster form of :meth:`SequenceModel.step` for a known, small number of steps without
    gradients, while the weights do not change.
    """

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """Read one step ``(B, D)``; returns its output ``(B, D)``."""

    @abstractmethod
    def peek(self, x: Tensor) -> Tensor:
        """Return the output of a step ``(B, D)`` without reading it."""

    @abstractmethod
    def reset(self, rows: Tensor) -> None:
        """Return some sequences of the batch to the start of an episode, bool ``(B,)``."""


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
        An ``nn.Module`` with the methods of :class:`SequenceModel`.

    Raises:
        ConfigError: If no backbone has that name, or its model violates the protocol.
    """
    builder = SEQUENCE_MODELS.get(config.name)
    if is_built_in(config.name):
        return cast("SequenceModel[Any]", builder(config))
    return cast("SequenceModel[Any]", build_foreign(config.name, builder, config))


def unroll(model: SequenceModel[Any], batch_size: int, steps: int) -> Unroll | None:
    """Return an :class:`Unroll` of at most ``steps`` steps, None if the model has none.

    It takes the place of the state in :func:`step_inplace` and :func:`peek`. On the CPU only: its
    shapes change with each step.
    """
    make: Callable[[int, int], Unroll] | None = getattr(model, "unroll", None)
    return None if make is None else make(batch_size, steps)


def step_inplace(model: SequenceModel[State], x: Tensor, state: State) -> tuple[Tensor, State]:
    """Run one step and discard the given state; not with gradients.

    Calls ``model.step_`` if there is one: as ``step``, but it may overwrite the state.
    """
    if isinstance(state, Unroll):
        return state.step(x), cast("State", state)
    step: Callable[[Tensor, State], tuple[Tensor, State]] = getattr(model, "step_", model.step)
    return step(x, state)


def peek(model: SequenceModel[State], x: Tensor, state: State) -> Tensor:
    """Return the output of one step ``(B, D)``; the state is unchanged.

    Without gradients it calls ``model.peek`` if there is one, which need not compute the next
    state.
    """
    if isinstance(state, Unroll):
        return state.peek(x)
    own: Callable[[Tensor, State], Tensor] | None = getattr(model, "peek", None)
    if own is None or torch.is_grad_enabled():
        return model.step(x, state)[0]
    return own(x, state)


def restart(model: SequenceModel[State], state: State, rows: Tensor) -> State:
    """Return the state with some sequences at the start of an episode, bool ``(B,)``."""
    if isinstance(state, Unroll):
        state.reset(rows)
        return cast("State", state)
    return where_state(rows, model.init_state(1), state)


def map_state(fn: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``fn`` to every tensor of a state, nested tuples included."""
    if isinstance(state, Tensor):
        return cast("State", fn(state))
    _check_tuple(state)
    return _rebuild(state, [map_state(fn, item) for item in cast("tuple[Any, ...]", state)])


def where_state(mask: Tensor, a: State, b: State) -> State:
    """Select between two states for each batch entry; a state of batch size 1 is broadcast.

    Args:
        mask: bool ``(B,)``.
        a: State where ``mask`` is true.
        b: State elsewhere.

    Returns:
        A new state; the arguments are unchanged.
    """
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        batch_mask = mask.view(-1, *[1] * (a.dim() - 1))
        return cast("State", torch.where(batch_mask, a, b))
    _check_tuple(a)
    _check_tuple(b)
    pairs = zip(cast("tuple[Any, ...]", a), cast("tuple[Any, ...]", b), strict=True)
    return _rebuild(a, [where_state(mask, left, right) for left, right in pairs])


def _check_tuple(state: Any) -> None:
    if not isinstance(state, tuple):
        raise TypeError(f"a state must be tensors in tuples, got {type(state).__name__}")


def _rebuild(like: State, items: list[Any]) -> State:
    kind: Any = type(like)
    return cast("State", kind(*items) if hasattr(like, "_fields") else kind(items))
