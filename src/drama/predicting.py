"""Arguments of `Agent.predict`, checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from drama.behaviour import Player
from drama.errors import EnvError
from drama.types import PolicyState


def carried_state(
    player: Player,
    state: PolicyState | None,
    episode_start: npt.NDArray[Any] | None,
    count: int,
) -> tuple[PolicyState, npt.NDArray[np.bool_]]:
    """Return the acting state of ``count`` environments, and where an episode starts ``(count,)``.

    Raises:
        EnvError: One of them is of another type or size.
    """
    if state is None:
        return player.init_state(count), np.ones(count, dtype=bool)
    if not isinstance(state, PolicyState):
        kind = type(state).__name__
        raise EnvError(f"state must be what the last call returned, or None, got {kind}")
    if state.deter.shape[0] != count:
        raise EnvError(f"state is of {state.deter.shape[0]} environments, not {count}")
    start = np.zeros(count, bool) if episode_start is None else np.asarray(episode_start)
    if start.dtype.kind not in "biuf":
        raise EnvError(f"episode_start must be bool ({count},), got {episode_start!r}")
    if start.size != count:
        raise EnvError(f"episode_start has {start.size} entries for {count} observations")
    return state, start.reshape(count).astype(bool)
