"""Stratified bootstrap: resampling of runs within each game, and percentile intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drama.errors import ConfigError

Array = npt.NDArray[np.float64]
Runs = Mapping[str, Sequence[float]]
"""Scores of each game's runs; games may have different numbers of runs, or none."""

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic and its interval."""

    value: float
    """The statistic of the observed runs."""
    low: float | None = None
    """Lower end of the interval; None without games of several runs."""
    high: float | None = None
    """Upper end of the interval."""

    def to_dict(self) -> dict[str, float | None]:
        """Return value and interval for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Sample:
    """Observed runs by game, and their resamples.

    Args:
        runs: Scores of each game's runs; games without runs are excluded.
        seed: Seed of the resampling.

    Raises:
        ConfigError: No game has a score, or a score is not finite.
    """

    def __init__(self, runs: Runs, seed: int) -> None:
        found = {game: scores_of(game, values) for game, values in runs.items()}
        self.games = tuple(sorted(game for game, values in found.items() if len(values)))
        if not self.games:
            raise ConfigError("no game has a score to aggregate")
        self.scores = [found[game] for game in self.games]
        self.counts = [len(values) for values in self.scores]
        self.weights = np.concatenate(
            [np.full(n, 1.0 / (n * len(self.games))) for n in self.counts]
        )
        self._rng = np.random.default_rng(seed)

    @property
    def resamplable(self) -> bool:
        """Whether some game has several runs."""
        return max(self.counts) > 1

    def observed(self) -> list[Array]:
        """Return each game's runs, ``(1, n_g)``."""
        return [values[None] for values in self.scores]

    def resample(self, count: int) -> list[Array]:
        """Return ``count`` resamples with replacement of each game's runs, ``(count, n_g)``."""
        return [
            values[self._rng.integers(len(values), size=(count, len(values)))]
            for values in self.scores
        ]


def scores_of(game: str, values: Sequence[float]) -> Array:
    """Return the scores of a game's runs, ``(n_g,)``.

    Raises:
        ConfigError: ``values`` is not a list of finite numbers.
    """
    try:
        found = np.asarray(values)
    except (TypeError, ValueError):  # ragged lists
        found = np.asarray(None)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "biuf"):
        raise ConfigError(f"the scores of {game} must be a list of finite numbers")
    scores: Array = found.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ConfigError(f"the scores of {game} must be a list of finite numbers")
    return scores


def check_arguments(resamples: int, confidence: float) -> None:
    """Check the arguments of a bootstrap.

    Raises:
        ConfigError: ``resamples`` is below 1, or ``confidence`` outside (0, 1).
    """
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must be between 0 and 1, got {confidence:g}")


def interval(samples: Array, confidence: float) -> Array:
    """Return the percentile interval over the last axis, ``(S, R)`` to ``(2, S)``."""
    tail = (1.0 - confidence) / 2.0
    ends: Array = np.quantile(samples, [tail, 1.0 - tail], axis=-1)
    return ends
