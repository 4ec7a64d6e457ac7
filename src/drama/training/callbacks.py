"""Callbacks with the names and the order of calls of Stable-Baselines3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from drama.errors import ConfigError


@runtime_checkable
class CallbackObject(Protocol):
    """What a callback object must have; a Stable-Baselines3 ``BaseCallback`` does."""

    def on_step(self) -> bool:
        """Return whether to go on, after each environment step."""
        ...


CallbackLike: TypeAlias = (
    "CallbackObject | Callable[[dict[str, Any], dict[str, Any]], bool | None]"
    " | Sequence[CallbackLike] | None"
)
"""An object, a function of ``(locals, globals)``, a list of those, or nothing."""


class Callbacks:
    """Drives any mix of callbacks through the life of one ``learn`` call.

    Objects may also have ``init_callback(agent)``, ``on_training_start(locals, globals)`` and
    ``on_training_end()``. As in Stable-Baselines3, returning False from a step ends training.

    Raises:
        ConfigError: Something in ``callback`` is neither callable nor has ``on_step``.
    """

    def __init__(self, callback: CallbackLike, agent: Any) -> None:
        self._agent = agent
        self._parts: list[Any] = []
        self._collect(callback)

    def _collect(self, callback: Any) -> None:
        if callback is None:
            return
        if isinstance(callback, Sequence):
            for part in callback:
                self._collect(part)
        elif isinstance(callback, CallbackObject) or callable(callback):
            self._parts.append(callback)
        else:
            raise ConfigError(
                f"a callback is a function or has on_step(), got {type(callback).__name__}"
            )

    def start(self) -> None:
        """Training is about to begin."""
        for part in self._parts:
            if hasattr(part, "init_callback"):
                part.init_callback(self._agent)
            if hasattr(part, "on_training_start"):
                part.on_training_start({"self": self._agent}, {})

    def step(self) -> bool:
        """One environment step was made; returns whether all want to go on."""
        answers = [
            part.on_step() if hasattr(part, "on_step") else part({"self": self._agent}, {})
            for part in self._parts
        ]
        return all(answer is None or bool(answer) for answer in answers)

    def end(self) -> None:
        """Training has ended."""
        for part in self._parts:
            if hasattr(part, "on_training_end"):
                part.on_training_end()
