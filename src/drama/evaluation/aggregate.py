"""Aggregate scores over games with stratified-bootstrap intervals.

Follows Agarwal et al. (2021), *Deep Reinforcement Learning at the Edge of the Statistical
Precipice*, in NumPy. The input is ``{game: scores of the runs}`` with normalised scores
(:func:`drama.evaluation.normalised_score`), one per seed.

Definitions, for games ``g`` with ``n_g`` runs each and equal weight per game:

* **mean** and **median** of the games' means;
* **IQM**: mean of the middle half of all pooled runs. A run of game ``g`` has weight ``1 / n_g``;
  ``floor(N / 4) / N`` of the weight of the ``N`` runs is trimmed at each end. With equal numbers of
  runs this is the 25 % trimmed mean of the pooled runs;
* **optimality gap**: mean shortfall below 1 (human), ``mean(max(0, 1 - score))``;
* **games above**: number of games whose mean exceeds 1.

Intervals are percentile intervals over resamples of the runs within each game (the games are fixed
by the benchmark). A game with a single run cannot be resampled, so its interval is too narrow;
:attr:`Aggregate.single` lists such games. If all games have single runs, there is no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from drama.errors import ConfigError
from drama.evaluation.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Array,
    Estimate,
    Runs,
    Sample,
    check_arguments,
    interval,
    scores_of,
)


@dataclass(frozen=True)
class Aggregate:
    """Aggregates of one method's normalised scores; see the module for definitions."""

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
    """Number of runs of each included game."""
    missing: tuple[str, ...]
    """Requested games without a run, excluded from all aggregates."""

    @property
    def games(self) -> tuple[str, ...]:
        """Included games."""
        return tuple(self.runs)

    @property
    def single(self) -> tuple[str, ...]:
        """Games with a single run, which cannot be resampled."""
        return tuple(game for game, count in self.runs.items() if count == 1)


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of one method beats a run of another."""

    probability: Estimate
    """Mean over games of ``P(x > y) + P(x = y) / 2``."""
    games: tuple[str, ...]
    """Games with runs of both methods."""


@dataclass(frozen=True)
class Profile:
    """Share of runs above each threshold, with equal weight per game."""

    thresholds: Array
    """``(T,)``, normalised scores."""
    share: Array
    """``(T,)``, in [0, 1], non-increasing."""
    low: Array | None
    """``(T,)``, pointwise lower ends; None without games of several runs."""
    high: Array | None
    """``(T,)``, pointwise upper ends."""


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
        games: Requested games; those without a run are listed in ``missing``.
        resamples: Bootstrap resamples.
        confidence: Coverage of the intervals, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ConfigError: No game has a run, a score is not finite, or an argument is out of range.
    """
    check_arguments(resamples, confidence)
    sample = Sample(runs, seed)
    value = _statistics(sample.observed(), sample.weights)[:, 0]
    ends = None
    if sample.resamplable:
        ends = interval(_statistics(sample.resample(resamples), sample.weights), confidence)
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
    """Return the mean over the runs of one game, with its bootstrap interval.

    Args:
        values: One score per run, in any unit.
        resamples: Bootstrap resamples.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

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
    """Return the probability that a run of ``x`` scores above a run of ``y`` on a random game.

    Scores are compared within games only and need no normalisation.

    Args:
        x: Scores of each game's runs of one method.
        y: Scores of the other method.
        resamples: Bootstrap resamples of both methods' runs.
        confidence: Coverage of the interval, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ConfigError: The methods share no game, a score is not finite, or an argument is out of
            range.
    """
    check_arguments(resamples, confidence)
    common = [
        game
        for game in x
        if len(scores_of(game, x[game])) and len(scores_of(game, y.get(game, ())))
    ]
    if not common:
        raise ConfigError("the two methods have no game in common")
    # Two random streams, so that the methods are resampled independently.
    seeds = np.random.SeedSequence(seed).generate_state(2)
    one = Sample({game: x[game] for game in common}, int(seeds[0]))
    other = Sample({game: y[game] for game in common}, int(seeds[1]))
    value = float(_superiority(one.observed(), other.observed())[0])
    estimate = Estimate(value)
    if one.resamplable or other.resamplable:
        samples = _superiority(one.resample(resamples), other.resample(resamples))
        low, high = interval(samples[None], confidence)[:, 0]
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
    """Return the share of runs above each threshold (score distribution of the runs).

    Args:
        runs: Normalised scores of each game's runs.
        thresholds: ``(T,)``.
        resamples: Bootstrap resamples.
        confidence: Pointwise coverage of the band, in (0, 1).
        seed: Seed of the resampling.

    Raises:
        ConfigError: No game has a run, a score is not finite, or an argument is out of range.
    """
    check_arguments(resamples, confidence)
    taus = np.asarray(thresholds, dtype=np.float64)
    sample = Sample(runs, seed)

    def shares(parts: list[Array]) -> Array:
        pooled = np.concatenate(parts, axis=1)
        return np.stack([(pooled > tau) @ sample.weights for tau in taus])

    share = shares(sample.observed())[:, 0]
    if not sample.resamplable:
        return Profile(taus, share, None, None)
    low, high = interval(shares(sample.resample(resamples)), confidence)
    return Profile(taus, share, low, high)


def _statistics(parts: list[Array], weights: Array) -> Array:
    """Return mean, median, IQM, optimality gap and games above 1 per resample, ``(5, R)``.

    Args:
        parts: Runs of each game, ``(R, n_g)`` each.
        weights: Weights of the pooled runs, ``(N,)``, with sum 1.
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
    """Return the weighted trimmed mean of each row, ``(R, N)`` to ``(R,)``."""
    count = pooled.shape[1]
    cut = (count // 4) / count
    order = np.argsort(pooled, axis=1)
    mass = weights[order]
    upper = np.cumsum(mass, axis=1)
    # Part of each run's weight inside the quantiles [cut, 1 - cut].
    kept = np.minimum(upper, 1.0 - cut) - np.maximum(upper - mass, cut)
    kept[kept < 1e-9 * mass] = 0.0  # rounding must not include an outlier
    middle: Array = (kept * np.take_along_axis(pooled, order, axis=1)).sum(axis=1)
    middle /= kept.sum(axis=1)
    return middle


def _superiority(x: list[Array], y: list[Array]) -> Array:
    """Return ``P(x > y) + P(x = y) / 2`` per resample, averaged over games, ``(R,)``."""
    total = np.zeros(len(x[0]))
    for one, other in zip(x, y, strict=True):
        # (1 + sign) / 2 is 1 above, 1/2 at and 0 below.
        sign = np.sign(one[:, :, None] - other[:, None, :])
        total += (1.0 + sign.mean(axis=(1, 2))) / 2.0
    return total / len(x)
