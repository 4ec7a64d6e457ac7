"""Events of training, and the listeners that receive them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Literal

from drama.training.clock import Clock

logger = logging.getLogger("drama")

Event = Literal["step", "episode", "metrics", "checkpoint", "note", "warning"]
Listener = Callable[[Event, Any], "bool | None"]
"""Receives every event with its payload; returning False on ``"step"`` ends training."""


class Events:
    """Sends each event to all listeners, in order.

    Args:
        clock: Charges their time to ``callbacks``.
        listeners: Receivers; may be replaced later.
    """

    def __init__(self, clock: Clock, listeners: Iterable[Listener] = ()) -> None:
        self.clock = clock
        self.listeners = tuple(listeners)
        self._warned: set[str] = set()

    def send(self, event: Event, payload: Any) -> bool:
        """Send one event; returns whether all listeners want to continue."""
        # All listeners receive it, also after one has returned False.
        with self.clock.phase("callbacks"):
            answers = [listener(event, payload) for listener in self.listeners]
        return all(answer is None or bool(answer) for answer in answers)

    def note(self, text: str) -> None:
        """Report a fact about the run in one line."""
        self.send("note", text)

    def warn(self, text: str) -> None:
        """Report in one line what may prevent the run from learning."""
        self.send("warning", text)

    def warn_once(self, text: str | None) -> None:
        """Warn unless there was a warning with the same words before its first colon."""
        kind = "" if text is None else text.partition(":")[0]
        if text is not None and kind not in self._warned:
            self._warned.add(kind)
            self.warn(text)


def log_events(event: Event, payload: Any) -> None:
    """Listener that writes notes and warnings to the logger ``drama``."""
    if event == "warning":
        logger.warning("%s", payload)
    elif event == "note":
        logger.info("%s", payload)
