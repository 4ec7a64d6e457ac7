"""Many runs in few numbers: aggregate scores with stratified-bootstrap intervals.

What Agarwal et al. (2021), *Deep Reinforcement Learning at the Edge of the Statistical Precipice*,
recommend, in NumPy alone. The input is always ``{game: scores of the runs}`` with normalised
scores (:func:`drama.evaluation.normalised_score`), one per seed, as many seeds as there are.

Definitions, for games ``g`` with ``n_g`` runs each, every game counting the same:

* **mean** and **median** of the games' means;
* **IQM**: mean of the middle half of all runs pooled. A run of game ``g`` weighs ``1 / n_g``, and
  ``floor(N / 4) / N`` of the weight of the ``N`` runs is cut off at each end. With as many runs of
  every game this is the 25 % trimmed mean of the pooled runs;
* **optimality gap**: how far runs stay below 1 (human) on average, ``mean(max(0, 1 - score))``;
* **games above**: games whose mean exceeds 1.

An interval resamples the runs within each game (the games are the benchmark, not a sample) and is
the percentile interval of the statistic. A game with a single run cannot be resampled: it adds no
width, so the interval is too narrow, and :attr:`Aggregate.single` names such games. If all are
such, there is no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from drama.errors import ConfigError
from drama.evaluation import scores as _scores

Array = npt.NDArray[np.float64]
Runs = Mapping[str, Sequence[float]]
"""Scores of the runs of each game; the numbers of runs may differ, and games may have none."""

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic and its interval."""

    value: float
    """The statistic of the runs themselves."""
    low: float | None = None
    """Lower end of the interval; None if nothing could be resampled."""
    high: float | None = None
    """Upper end of the interval."""

    def to_dict(self) -> dict[str, float | None]:
        """The same as a tree for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Aggregate:
    """Normalised scores of one method over games, see the module for the definitions."""

    mean: Estimate
    """Mean of the games' means."""
    median: Estimate
    """Median of the games' means."""
    iqm: Estimate
    """Interquartile mean of the pooled runs."""
    optimality_gap: Estimate
    """Mean shortfall below 1."""
    games_above: Estimate
    """Number of games whose mean exceeds 1."""
    runs: Mapping[str, int]
    """Runs of each game that went in, in the order of the games."""
    missing: tuple[str, ...]
    """Games that were asked for and have no run: they are in none of the numbers."""

    @property
    def games(self) -> tuple[str, ...]:
        """Games that went in."""
        return tuple(self.runs)

    @property
    def single(self) -> tuple[str, ...]:
        """Games with one run only, which add nothing to the width of the intervals."""
        return tuple(game for game, count in self.runs.items() if count == 1)


@dataclass(frozen=True)
class Improvement:
    """How probable it is that a run of one method beats a run of another."""

    probability: Estimate
    """Mean over games of ``P(x > y) + P(x = y) / 2``."""
    games: tuple[str, ...]
    """Games that both have runs of; others do not count."""


@dataclass(frozen=True)
class Profile:
    """Share of runs that score above each threshold, every game counting the same."""

    thresholds: Array
    """``(T,)``"""
    share: Array
    """``(T,)``, in [0, 1], never rising."""
    low: Array | None
    """``(T,)``, pointwise lower ends; None if nothing could be resampled."""
    high: Array | None
    """``(T,)``"""


class _Sample:
    """Runs by game and resamples of them.

    Args:
        runs: As everywhere in this module; games without runs are left out.
        seed: Of the resampling.
    """

    def __init__(self, runs: Runs, seed: int) -> None:
        found = {game: _scores_of(game, values) for game, values in runs.items()}
        self.games = tuple(sorted(game for game, values in found.items() if len(values)))
        if not self.games:
            raise ConfigError("no game has a score: there is nothing to aggregate")
        self.scores = [found[game] for game in self.games]
        self.counts = [len(values) for values in self.scores]
        self.weights = np.concatenate(
            [np.full(n, 1.0 / (n * len(self.games))) for n in self.counts]
        )
        self._rng = np.random.default_rng(seed)

    @property
    def resamplable(self) -> bool:
        return max(self.counts) > 1

    def observed(self) -> list[Array]:
        """Each game's runs, ``(1, n_g)``."""
        return [values[None] for values in self.scores]

    def resample(self, count: int) -> list[Array]:
        """Each game's runs drawn with replacement ``count`` times, ``(count, n_g)``."""
        return [
            values[self._rng.integers(len(values), size=(count, len(values)))]
            for values in self.scores
        ]


def _scores_of(game: str, values: Sequence[float]) -> Array:
    """Return the scores of a game's runs, ``(n_g,)``.

    Raises:
        ConfigError: They are something else than a list of finite numbers.
    """
    try:
        found = np.asarray(values)
    except (TypeError, ValueError):  # lists in it
        found = np.asarray(None)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "biuf"):
        raise ConfigError(f"the scores of {game} must be a list of finite numbers")
    scores: Array = found.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ConfigError(f"the scores of {game} must be a list of finite numbers")
    return scores


def aggregate(
    runs: Runs,
    *,
    games: Sequence[str] = (),
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Aggregate:
    """Aggregate one method's normalised scores over games.

    Args:
        runs: Normalised scores of each game's runs.
        games: Games that there should be; those without a run are told of in ``missing``.
        resamples: Bootstrap resamples.
        confidence: Coverage of the intervals, in (0, 1).
        seed: Of the resampling: the same seed gives the same intervals.

    Raises:
        ConfigError: No game has a run, a score is not finite, or an argument is out of range.
    """
    _check(resamples, confidence)
    sample = _Sample(runs, seed)
    value = _statistics(sample.observed(), sample.weights)[:, 0]
    ends = None
    if sample.resamplable:
        ends = _interval(_statistics(sample.resample(resamples), sample.weights), confidence)
    estimates = [
        Estimate(float(v), *(() if ends is None else (float(ends[0, i]), float(ends[1, i]))))
        for i, v in enumerate(value)
    ]
    mean, median, iqm, gap, above = estimates
    return Aggregate(
        mean=mean,
        median=median,
        iqm=iqm,
        optimality_gap=gap,
        games_above=above,
        runs=dict(zip(sample.games, sample.counts, strict=True)),
        missing=tuple(game for game in games if game not in sample.games),
    )


def mean(
    values: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Mean over the runs of one game, with the percentile-bootstrap interval.

    Args:
        values: One score per run, in any unit.
        resamples: Bootstrap resamples.
        confidence: Coverage of the interval, in (0, 1).
        seed: Of the resampling.

    Raises:
        ConfigError: There is no score, one is not finite, or an argument is out of range.
    """
    return aggregate({"game": values}, resamples=resamples, confidence=confidence, seed=seed).mean


def probability_of_improvement(
    x: Runs,
    y: Runs,
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Improvement:
    """Probability that a run of ``x`` scores above a run of ``y`` on a game drawn at random.

    Scores need no normalisation: they are only compared within a game.

    Args:
        x: Scores of each game's runs of the one method.
        y: Those of the other.
        resamples: Bootstrap resamples, of the runs of both.
        confidence: Coverage of the interval, in (0, 1).
        seed: Of the resampling.

    Raises:
        ConfigError: They have no game in common, a score is not finite, or an argument is out of
            range.
    """
    _check(resamples, confidence)
    common = [
        game
        for game in x
        if len(_scores_of(game, x[game])) and len(_scores_of(game, y.get(game, ())))
    ]
    if not common:
        raise ConfigError("the two methods have no game in common")
    # Two streams, so that a method is not resampled like the one it is compared with.
    seeds = np.random.SeedSequence(seed).generate_state(2)
    one = _Sample({game: x[game] for game in common}, int(seeds[0]))
    other = _Sample({game: y[game] for game in common}, int(seeds[1]))
    value = float(_superiority(one.observed(), other.observed())[0])
    estimate = Estimate(value)
    if one.resamplable or other.resamplable:
        drawn = _superiority(one.resample(resamples), other.resample(resamples))
        low, high = _interval(drawn[None], confidence)[:, 0]
        estimate = Estimate(value, float(low), float(high))
    return Improvement(estimate, one.games)


def performance_profile(
    runs: Runs,
    thresholds: Sequence[float] | Array,
    *,
    resamples: int = 2000,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Profile:
    """Share of runs that score above each threshold (score distribution of the runs).

    Args:
        runs: Normalised scores of each game's runs.
        thresholds: ``(T,)``.
        resamples: Bootstrap resamples.
        confidence: Pointwise coverage of the band, in (0, 1).
        seed: Of the resampling.

    Raises:
        ConfigError: No game has a run, a score is not finite, or an argument is out of range.
    """
    _check(resamples, confidence)
    taus = np.asarray(thresholds, dtype=np.float64)
    sample = _Sample(runs, seed)

    def shares(parts: list[Array]) -> Array:
        pooled = np.concatenate(parts, axis=1)
        return np.stack([(pooled > tau) @ sample.weights for tau in taus])

    share = shares(sample.observed())[:, 0]
    if not sample.resamplable:
        return Profile(taus, share, None, None)
    low, high = _interval(shares(sample.resample(resamples)), confidence)
    return Profile(taus, share, low, high)


def published_runs(method: str) -> dict[str, list[float]]:
    """Return the normalised published scores of a method, by game.

    Args:
        method: A name out of `drama.evaluation.scores.methods`.

    Returns:
        One score per released run; a single one per game, a mean over runs, where the authors
        released no more (see :func:`has_single_runs`).

    Raises:
        ConfigError: There is no such method.
    """
    found: dict[str, list[float]] = {}
    for row in _scores.published(method):
        found.setdefault(row.game, []).append(_scores.normalised_score(row.game, row.score))
    return found


def has_single_runs(method: str) -> bool:
    """Whether the scores of single runs of a published method are known.

    Where only means over runs are, an IQM is that of the games' means, which averaging has drawn
    together already, and there are no intervals.

    Args:
        method: A name out of `drama.evaluation.scores.methods`.

    Raises:
        ConfigError: There is no such method.
    """
    return any(len(values) > 1 for values in published_runs(method).values())


def _check(resamples: int, confidence: float) -> None:
    if resamples < 1:
        raise ConfigError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, got {confidence:g}")


def _statistics(parts: list[Array], weights: Array) -> Array:
    """Mean, median, IQM, optimality gap and games above 1 of each resample, ``(5, R)``.

    Args:
        parts: Runs of each game, ``(R, n_g)`` each.
        weights: Of the pooled runs, ``(N,)``; they add up to 1.
    """
    means = np.stack([part.mean(axis=1) for part in parts], axis=1)  # R G
    pooled = np.concatenate(parts, axis=1)  # R N
    return np.stack(
        [
            means.mean(axis=1),
            np.median(means, axis=1),
            _trimmed_mean(pooled, weights),
            np.maximum(0.0, 1.0 - pooled) @ weights,
            (means > 1.0).sum(axis=1).astype(np.float64),
        ]
    )


def _trimmed_mean(pooled: Array, weights: Array) -> Array:
    """Weighted mean of the middle of each row, ``(R, N)`` to ``(R,)``."""
    count = pooled.shape[1]
    cut = (count // 4) / count
    order = np.argsort(pooled, axis=1)
    mass = weights[order]
    upper = np.cumsum(mass, axis=1)
    # What of each run's stretch of the total weight lies inside [cut, 1 - cut].
    kept = np.minimum(upper, 1.0 - cut) - np.maximum(upper - mass, cut)
    kept[kept < 1e-9 * mass] = 0.0  # rounding must not let an outlier in at the edge
    middle: Array = (kept * np.take_along_axis(pooled, order, axis=1)).sum(axis=1)
    middle /= kept.sum(axis=1)
    return middle


def _superiority(x: list[Array], y: list[Array]) -> Array:
    """``P(x > y) + P(x = y) / 2`` of each resample, averaged over games, ``(R,)``."""
    total = np.zeros(len(x[0]))
    for one, other in zip(x, y, strict=True):
        # (1 + sign) / 2 is 1 above, 1/2 at and 0 below.
        sign = np.sign(one[:, :, None] - other[:, None, :])
        total += (1.0 + sign.mean(axis=(1, 2))) / 2.0
    return total / len(x)


def _interval(drawn: Array, confidence: float) -> Array:
    """Percentile interval over the last axis, ``(S, R)`` to ``(2, S)``."""
    tail = (1.0 - confidence) / 2.0
    ends: Array = np.quantile(drawn, [tail, 1.0 - tail], axis=-1)
    return ends
