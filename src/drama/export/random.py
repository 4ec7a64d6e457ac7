"""Random numbers that Python and JavaScript generate alike.

PCG-RXS-M-XS (O'Neill, 2014) with 32 bits of state; ``web/random.js`` is the same generator. Numbers
have 24 bits, so float32 holds them exactly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MASK = 0xFFFFFFFF
LATENTS, END, POLICY = range(3)
"""Streams of a dream: latents, the sampled end of an episode, sampled actions."""


class PageRandom:
    """One stream of uniform numbers.

    Args:
        seed: Any integer; its lowest 32 bits count.
        stream: Streams of one seed are independent.
    """

    def __init__(self, seed: int, stream: int = LATENTS) -> None:
        self._state = _scramble((seed + 0x9E3779B9 * stream) & MASK)

    def uniform(self, count: int) -> npt.NDArray[np.float32]:
        """Return ``count`` numbers in [0, 1)."""
        return np.array([self._next() for _ in range(count)], np.float32)

    def _next(self) -> float:
        number = _scramble(self._state)
        self._state = (self._state * 747796405 + 2891336453) & MASK
        return (number >> 8) / 2**24


def _scramble(state: int) -> int:
    word = (((state >> ((state >> 28) + 4)) ^ state) * 277803737) & MASK
    return (word >> 22) ^ word
