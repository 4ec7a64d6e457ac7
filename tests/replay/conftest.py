"""Replays with numbered rows, so that the content of a window shows its origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drama.config import ReplayConfig
from drama.observations import ObsSpace
from drama.replay import ReplayBuffer
from drama.types import Transition


@pytest.fixture(scope="session")
def numbered() -> Callable[..., Transition]:
    """Build row number g: its reward is g, its pixels are g modulo 256."""

    def build(g: int, **changes: Any) -> Transition:
        row = Transition(
            obs=np.full((2, 2, 1), g % 256, dtype=np.uint8),
            is_first=False,
            action=g % 3,
            reward=float(g),
            terminated=False,
            truncated=False,
            is_last=False,
        )
        return row._replace(**changes)

    return build


@pytest.fixture(scope="session")
def make_buffer() -> Callable[..., ReplayBuffer]:
    """Build an empty buffer; keywords are fields of its configuration."""

    def build(
        capacity: int = 10,
        behaviour_scale: float = 4.0,
        static_shapes: bool = False,
        **config: Any,
    ) -> ReplayBuffer:
        buffer = ReplayBuffer(
            ReplayConfig(capacity=capacity, **config),
            ObsSpace.image(2, 2, 1),
            behaviour_scale=behaviour_scale,
        )
        buffer.static_shapes = static_shapes
        return buffer

    return build


@pytest.fixture(scope="session")
def fill(numbered: Callable[..., Transition]) -> Callable[..., ReplayBuffer]:
    """Append rows until ``total`` have been written, in episodes of ``episode`` rows.

    The last row of each holds its final observation; the one before it terminated in even
    episodes and was truncated in odd ones.
    """

    def extend(buffer: ReplayBuffer, total: int, episode: int = 10**9) -> ReplayBuffer:
        for g in range(buffer.total, total):
            number, place = divmod(g, episode)
            ends = place == episode - 2
            buffer.append(
                numbered(
                    g,
                    is_first=place == 0,
                    terminated=ends and number % 2 == 0,
                    truncated=ends and number % 2 == 1,
                    is_last=place == episode - 1,
                )
            )
        return buffer

    return extend
