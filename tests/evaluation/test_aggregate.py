"""Aggregates: hand-computed numbers, published ones, and laws of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from drama.errors import ConfigError
from drama.evaluation import (
    aggregate,
    has_single_runs,
    performance_profile,
    probability_of_improvement,
    published_runs,
    scores,
)
from drama.evaluation.aggregate import mean
from drama.evaluation.bootstrap import Estimate

FEW = 500
"""Resamples where only the distribution matters."""

BALANCED = {"a": [0.0, 2.0], "b": [0.1, 0.5], "c": [1.0, 1.4], "d": [4.0, 6.0]}
"""Means 1.0, 0.3, 1.2, 5.0; pooled and sorted 0 0.1 | 0.5 1 1.4 2 | 4 6."""


def test_statistics_of_a_balanced_case_match_hand_computed_values() -> None:
    found = aggregate(BALANCED, resamples=FEW)
    assert found.mean.value == pytest.approx((1.0 + 0.3 + 1.2 + 5.0) / 4)
    assert found.median.value == pytest.approx((1.0 + 1.2) / 2)
    assert found.iqm.value == pytest.approx((0.5 + 1.0 + 1.4 + 2.0) / 4)
    # Shortfalls below 1: 1, 0.9 and 0.5 of eight runs.
    assert found.optimality_gap.value == pytest.approx((1.0 + 0.9 + 0.5) / 8)
    assert found.games_above.value == 2  # 1.2 and 5.0; a mean of exactly 1 is not above 1
    assert dict(found.runs) == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_games_have_equal_weight_whatever_their_number_of_runs() -> None:
    # Three runs of a, one of b: weights 1/6 each and 1/2. floor(4 / 4) / 4 = 1/4 of the weight is
    # cut at each end. Sorted -1 | 0 | 2 | 5(b): the first quarter takes all of -1 (1/6) and 1/12
    # of 0; the last quarter takes half of b. Left: 1/12 of 0, 1/6 of 2, 1/4 of 5, out of 1/2.
    found = aggregate({"a": [2.0, -1.0, 0.0], "b": [5.0]}, resamples=FEW)
    assert found.iqm.value == pytest.approx((0 / 12 + 2 / 6 + 5 / 4) / (1 / 2))
    assert found.mean.value == pytest.approx((1 / 3 + 5) / 2)
    assert found.median.value == pytest.approx((1 / 3 + 5) / 2)
    # Shortfalls: (0 + 2 + 1) / 3 on a, 0 on b.
    assert found.optimality_gap.value == pytest.approx(0.5)
    assert found.games_above.value == 1
    assert found.single == ("b",)


@given(st.integers(1, 27), st.integers(1, 6), st.integers(0, 99))
def test_with_equal_counts_the_iqm_is_the_trimmed_mean_of_the_pool(games, runs, seed) -> None:
    # Heavy tails, so that any weight on one would show.
    pool = np.random.default_rng(seed).normal(size=(games, runs)) ** 9
    table = {f"g{g}": list(pool[g]) for g in range(games)}
    expected = scipy.stats.trim_mean(pool, 0.25, axis=None)
    assert aggregate(table, resamples=1).iqm.value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("method", "mean_", "median", "iqm", "above"),
    [
        # Recomputed from the released per-seed scores with the shipped references.
        ("DIAMOND", 1.463, 0.373, 0.638, 11),
        ("STORM (repo)", 1.222, 0.426, 0.561, 9),
        ("TWM (repo)", 0.956, 0.505, 0.459, 8),
    ],
)
def test_aggregates_of_published_methods_are_reproduced(method, mean_, median, iqm, above) -> None:
    found = aggregate(published_runs(method), games=scores.games(), resamples=FEW)
    assert found.mean.value == pytest.approx(mean_, abs=5e-4)
    assert found.median.value == pytest.approx(median, abs=5e-4)
    assert found.iqm.value == pytest.approx(iqm, abs=5e-4)
    assert found.games_above.value == above
    assert found.missing == ()
    assert len(found.games) == 26
    assert set(found.runs.values()) == {5}
    for estimate in (found.mean, found.median, found.iqm, found.optimality_gap):
        assert estimate.low < estimate.value < estimate.high


def test_published_aggregates_of_diamond_are_reproduced() -> None:
    # Printed with references of one decimal more (Pong -20.7, here -21): rounding them by up to
    # half a point moves games with a small span, such as Boxing (12 points), by a few per cent.
    found = aggregate(published_runs("DIAMOND"), resamples=1)
    assert found.mean.value == pytest.approx(1.459, rel=0.01)
    assert found.median.value == pytest.approx(0.373, rel=0.01)
    assert found.iqm.value == pytest.approx(0.641, rel=0.01)
    assert found.optimality_gap.value == pytest.approx(0.480, rel=0.01)


def test_methods_that_released_means_only_have_no_interval() -> None:
    assert has_single_runs("DIAMOND")
    assert not has_single_runs("Drama-XS")
    assert not has_single_runs("EfficientZero")  # all its rows are called seed 0, and are means
    found = aggregate(published_runs("Drama-XS"), resamples=FEW)
    assert found.mean == Estimate(found.mean.value, None, None)
    assert found.iqm.low is None
    assert found.single == scores.games()


def test_normalised_human_and_random_scores_are_one_and_zero() -> None:
    human = aggregate(published_runs("Human"))
    assert (human.mean.value, human.iqm.value, human.optimality_gap.value) == pytest.approx(
        (1.0, 1.0, 0.0)
    )
    assert human.games_above.value == 0
    random = aggregate(published_runs("Random"))
    assert (random.mean.value, random.median.value) == (0.0, 0.0)
    assert random.optimality_gap.value == pytest.approx(1.0)


def test_missing_games_are_named_and_not_counted() -> None:
    found = aggregate({"Pong": [1.0, 3.0], "Qbert": []}, games=("Alien", "Pong", "Qbert"))
    assert found.missing == ("Alien", "Qbert")
    assert found.games == ("Pong",)
    assert found.mean.value == 2.0


def test_interval_equals_the_exact_bootstrap_interval() -> None:
    # Two runs 0 and 1 of one game: the resampled mean is 0, 1/2 or 1 with 1/4, 1/2, 1/4. The
    # central 40 % (30 % to 70 %) is the point 1/2, the central 60 % reaches to both ends.
    runs = {"a": [0.0, 1.0]}
    narrow, wide = (aggregate(runs, confidence=c).mean for c in (0.4, 0.6))
    assert (narrow.low, narrow.high) == (0.5, 0.5)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_runs_are_resampled_within_their_game() -> None:
    # No run of a game differs from the others, so nothing is uncertain; resampling over games, or
    # sharing one resample over games, would show.
    found = aggregate({"a": [1.0] * 4, "b": [3.0] * 4}, resamples=FEW).mean
    assert found == Estimate(2.0, 2.0, 2.0)


def test_games_are_resampled_independently() -> None:
    # With one resample of seeds for all games, a and b would cancel: a mean of 1/2 always.
    found = aggregate({"a": [0.0, 1.0] * 3, "b": [1.0, 0.0] * 3}, resamples=FEW).mean
    assert found.low < 0.4
    assert found.high > 0.6


def test_the_interval_shrinks_with_the_root_of_the_runs() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=400)
    few, many = (mean(draws[:n]) for n in (25, 400))
    for estimate, n in ((few, 25), (many, 400)):
        half = 1.96 * draws[:n].std() / math.sqrt(n)
        assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.1)


def test_interval_depends_on_the_seed_not_on_the_order_of_games() -> None:
    turned = dict(reversed(BALANCED.items()))
    one, same, other, again = (
        aggregate(runs, resamples=FEW, seed=seed)
        for runs, seed in ((BALANCED, 1), (BALANCED, 1), (BALANCED, 2), (turned, 1))
    )
    assert one == same == again
    assert one.mean.value == other.mean.value
    assert one.mean != other.mean


def test_probability_of_improvement_matches_hand_computed_values() -> None:
    # a: pairs (1,0) 1, (1,2) 0, (3,0) 1, (3,2) 1 -> 3/4. b: a tie -> 1/2. only y has c.
    x = {"a": [1.0, 3.0], "b": [7.0], "d": []}
    y = {"a": [0.0, 2.0], "b": [7.0], "c": [1.0], "d": [1.0]}
    found = probability_of_improvement(x, y, resamples=FEW)
    assert found.probability.value == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert found.games == ("a", "b")
    back = probability_of_improvement(y, x, resamples=FEW)
    assert back.probability.value == pytest.approx(1 - found.probability.value)


def test_probability_of_improvement_of_published_methods() -> None:
    # A plain double loop over pairs of runs.
    x, y = published_runs("DIAMOND"), published_runs("TWM (repo)")
    wins = [
        sum((a > b) + (a == b) / 2 for a in x[g] for b in y[g]) / (len(x[g]) * len(y[g])) for g in x
    ]
    found = probability_of_improvement(x, y, resamples=2000).probability
    assert found.value == pytest.approx(sum(wins) / 26)
    assert 0.5 < found.low < found.value < found.high < 1


def test_a_method_is_not_better_than_itself() -> None:
    x = published_runs("DIAMOND")
    found = probability_of_improvement(x, x, resamples=2000).probability
    assert found.value == 0.5
    # Its resamples differ from those that it is compared with.
    assert found.low < 0.49
    assert found.high > 0.51


def test_methods_of_single_runs_have_a_probability_and_no_interval() -> None:
    found = probability_of_improvement({"a": [1.0]}, {"a": [0.0]})
    assert found.probability == Estimate(1.0, None, None)


def test_performance_profile_matches_hand_computed_values() -> None:
    found = performance_profile({"a": [0.0, 1.0], "b": [1.0]}, [-1.0, 0.0, 0.5, 1.0], resamples=FEW)
    # Above 0 (not at it): one of a's two runs, all of b's one.
    assert found.share.tolist() == pytest.approx([1.0, 0.75, 0.75, 0.0])
    assert found.low is not None
    assert found.high is not None
    assert found.low.tolist() == pytest.approx([1.0, 0.5, 0.5, 0.0])
    assert found.high.tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0])
    assert performance_profile({"a": [1.0]}, [0.0]).low is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aggregate({}), "no game has a score"),
        (lambda: aggregate({"Pong": []}), "no game has a score"),
        (lambda: aggregate({"Pong": [1.0, float("nan")]}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": [float("inf")]}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": ["x"]}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": ["1"]}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": [1, [2]]}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": [[1, 2]]}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": 3}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": None}), "Pong must be a list of finite"),
        (lambda: aggregate({"Pong": [10**400]}), "Pong must be a list of finite"),
        (lambda: mean("12"), "must be a list of finite"),
        (lambda: probability_of_improvement({"a": 3}, {"a": [1.0]}), "a must be a list of finite"),
        (lambda: probability_of_improvement({"a": [1.0]}, {"a": 3}), "a must be a list of finite"),
        (lambda: performance_profile({"a": [1, [2]]}, [0.0]), "a must be a list of finite"),
        (lambda: aggregate(BALANCED, resamples=0), "at least 1, got 0"),
        (lambda: aggregate(BALANCED, confidence=95), "between 0 and 1, got 95"),
        (lambda: probability_of_improvement({"a": [1.0]}, {"b": [1.0]}), "no game in common"),
        (lambda: published_runs("Dreamer"), "unknown method"),
    ],
)
def test_scores_that_cannot_be_aggregated_are_refused(call, message) -> None:
    with pytest.raises(ConfigError, match=message):
        call()
