"""Hand-computed sampling scores, and the distribution of samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drama.config import ReplayConfig
from drama.errors import ReplayError
from drama.replay import (
    dfs_behaviour_scores,
    dfs_trained_scores,
    dfs_world_model_scores,
    sample_indices,
    uniform_scores,
)


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counts(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_uniform_scores_ignore_the_counters() -> None:
    assert uniform_scores(counts(0, 5, 1e6)).tolist() == [0, 0, 0]


def test_world_model_scores_match_hand_computed_values() -> None:
    scores = dfs_world_model_scores(counts(0, 5, 20), tau=10.0)
    torch.testing.assert_close(scores, counts(0, -0.5, -2))


def test_behaviour_scores_match_hand_computed_values() -> None:
    # v > b: min(0, .) = 0. v = b: 0. v < b: (v - b) / tau. Never touched: 0.
    v, b = counts(8, 5, 2, 0, 0), counts(3, 5, 7, 0, 4)
    torch.testing.assert_close(dfs_behaviour_scores(v, b, tau=10.0), counts(0, 0, -0.5, 0, -0.4))


def test_behaviour_scores_with_other_weights_match_hand_computed_values() -> None:
    # (v - 2 b - 0.5 max(0, v - b)) / 4: (8 - 6 - 2.5) / 4 and (2 - 14 - 0) / 4.
    v, b = counts(8, 2), counts(3, 7)
    torch.testing.assert_close(
        dfs_behaviour_scores(v, b, tau=4.0, alpha=2.0, beta=0.5), counts(-0.125, -3.0)
    )


def test_dfs_trained_scores_match_hand_computed_values() -> None:
    v, b = counts(0, 10, 10, 1000), counts(0, 0, 15, 0)
    expected = counts(-math.inf, math.log(1 - math.exp(-1)), -0.5 + math.log(1 - math.exp(-1)), 0.0)
    torch.testing.assert_close(dfs_trained_scores(v, b, tau=10.0), expected)


def test_dfs_trained_weights_rise_with_training() -> None:
    scores = dfs_trained_scores(torch.arange(60.0), torch.zeros(60), tau=10.0)
    assert (scores.diff() > 0).all()


@pytest.mark.parametrize("replacement", [True, False])
def test_samples_follow_the_softmax(replacement: bool) -> None:
    scores = counts(0.0, -1.0, 1.0, -torch.inf, 0.5)
    probs = torch.softmax(scores, 0)
    draws = 6000
    if replacement:
        index = sample_indices(scores, draws, g(), replacement=True)
    else:  # the first of a batch of one
        generator = g()
        index = torch.cat([sample_indices(scores, 1, generator) for _ in range(draws)])
    seen = torch.bincount(index, minlength=5)
    assert seen[3] == 0
    expected = draws * probs
    live = expected > 0
    assert ((seen - expected)[live].square() / expected[live]).sum() < 16.3  # 99.9 %, 3 d.o.f.


def test_pairs_without_replacement_follow_sequential_sampling() -> None:
    p = counts(0.6, 0.3, 0.1)
    pairs = torch.zeros(3, 3)
    generator, draws = g(), 6000
    for _ in range(draws):
        i, j = sample_indices(p.log(), 2, generator).tolist()
        pairs[i, j] += 1
    # P(i then j) = p_i p_j / (1 - p_i); the pair's order is by Gumbel score, the same law.
    expected = p.unsqueeze(1) * p.unsqueeze(0) / (1 - p.unsqueeze(1)) * draws
    live = ~torch.eye(3, dtype=torch.bool)
    assert pairs.diagonal().sum() == 0
    assert ((pairs - expected)[live].square() / expected[live]).sum() < 20.5  # 99.9 %, 5 d.o.f.


@given(
    size=st.integers(1, 40),
    count=st.integers(1, 40),
    barred=st.integers(0, 39),
    offset=st.sampled_from([0.0, -(2.0**40), 2.0**40, -1e15]),
    seed=st.integers(0, 1000),
    replacement=st.booleans(),
)
def test_only_eligible_rows_are_sampled(
    size: int, count: int, barred: int, offset: float, seed: int, replacement: bool
) -> None:
    scores = torch.randn(size, generator=g(seed), dtype=torch.float64) + offset
    order = torch.randperm(size, generator=g(seed + 1))
    scores[order[: min(barred, size - 1)]] = -torch.inf
    index = sample_indices(scores, count, g(seed), replacement=replacement)
    assert index.shape == (count,)
    assert index.dtype == torch.int64
    assert torch.isfinite(scores[index]).all()
    eligible = int(torch.isfinite(scores).sum())
    if not replacement and eligible >= count:
        assert index.unique().numel() == count


def test_all_eligible_rows_are_sampled_without_replacement() -> None:
    scores = torch.full((50,), -torch.inf, dtype=torch.float64)
    scores[10:20] = -torch.arange(10.0, dtype=torch.float64)
    assert sorted(sample_indices(scores, 10, g()).tolist()) == list(range(10, 20))


def test_too_few_rows_are_sampled_with_replacement_by_weight() -> None:
    scores = torch.full((5000,), -torch.inf, dtype=torch.float64)
    scores[3], scores[4990] = math.log(0.25), math.log(0.75)
    index = sample_indices(scores, 4000, g())
    assert set(index.tolist()) == {3, 4990}
    assert (index == 3).double().mean().item() == pytest.approx(0.25, abs=0.03)


def test_batch_larger_than_the_replay() -> None:
    assert set(sample_indices(counts(0, 0, 0), 100, g()).tolist()) == {0, 1, 2}


@pytest.mark.parametrize("base", [0, 1_000_000, 2**40])
@pytest.mark.parametrize("replacement", [True, False])
def test_large_counters_keep_their_differences(base: int, replacement: bool) -> None:
    # softmax(-v / tau) without the maximum taken off is 0 / 0 here.
    v = base + torch.tensor([0, 10, 40], dtype=torch.float64)
    scores = dfs_world_model_scores(v, tau=10.0)
    expected = torch.softmax(counts(0, -1, -4), 0) * 3000
    generator = g()
    if replacement:
        index = sample_indices(scores, 3000, generator, replacement=True)
    else:
        index = torch.cat([sample_indices(scores, 1, generator) for _ in range(3000)])
    seen = torch.bincount(index, minlength=3)
    assert ((seen - expected).square() / expected).sum() < 13.8  # 99.9 %, 2 d.o.f.


@pytest.mark.parametrize("base", [0, 2**40])
def test_scores_of_large_counters_are_finite(base: int) -> None:
    v = base + torch.arange(5, dtype=torch.float64)
    b = base + 3 * torch.arange(5, dtype=torch.float64)
    for scores in (dfs_behaviour_scores(v, b, 10.0), dfs_trained_scores(v, b, 10.0)):
        assert not scores.isnan().any()
        assert sample_indices(scores, 3, g()).unique().numel() == 3


def test_dfs_trained_never_samples_untrained_rows() -> None:
    v = torch.zeros(200, dtype=torch.float64)
    v[7], v[100] = 1.0, 3.0
    scores = dfs_trained_scores(v, torch.zeros_like(v), tau=10.0)
    for replacement in (True, False):
        index = sample_indices(scores, 50, g(), replacement=replacement)
        assert set(index.tolist()) <= {7, 100}


def test_sampling_without_eligible_rows_is_refused() -> None:
    with pytest.raises(ReplayError, match="no transition can be sampled"):
        sample_indices(torch.full((4,), -torch.inf), 2, g())


def test_samples_depend_on_the_generator_only() -> None:
    scores = torch.randn(100, generator=g(), dtype=torch.float64)
    for replacement in (True, False):
        first = sample_indices(scores, 20, g(5), replacement=replacement)
        torch.rand(3)
        assert torch.equal(first, sample_indices(scores, 20, g(5), replacement=replacement))
        assert not torch.equal(first, sample_indices(scores, 20, g(6), replacement=replacement))


@pytest.mark.parametrize("point", [0.0, 1 - 2**-53])
def test_extreme_random_numbers_select_eligible_rows(
    monkeypatch: pytest.MonkeyPatch, point: float
) -> None:
    monkeypatch.setattr(
        torch, "rand", lambda n, dtype, device, generator: torch.full((n,), point, dtype=dtype)
    )
    scores = counts(-torch.inf, -torch.inf, 0.3, -0.1, 0.2, -torch.inf)
    index = sample_indices(scores, 1, g(), replacement=True)
    assert index.item() == (2 if point == 0 else 4)


@pytest.mark.parametrize(
    ("windows_per_step", "expected"), [(16, 10.0), (1.6, 1.0), (3.2, 2.0), (32, 20.0), (0, 10.0)]
)
def test_temperature_follows_the_windows_sampled_per_step(
    windows_per_step: float, expected: float
) -> None:
    assert ReplayConfig().temperatures(windows_per_step) == pytest.approx((expected, expected))
    assert ReplayConfig(tau=3.0).temperatures(windows_per_step)[0] == 3.0
    assert ReplayConfig(imagination_tau=4.0).temperatures(windows_per_step)[1] == 4.0


@pytest.mark.parametrize("windows_per_step", [16, 4])
def test_new_transitions_have_the_same_share_at_any_update_ratio(windows_per_step: int) -> None:
    """After many steps of sampling, the newest 5 % of transitions get the same share."""
    tau, _ = ReplayConfig().temperatures(windows_per_step)
    generator = torch.Generator().manual_seed(0)
    counters = torch.zeros(4000, dtype=torch.float64)
    newest = total = 0
    for filled in range(200, 4001, 4):
        scores = dfs_world_model_scores(counters[:filled], tau)
        sampled = sample_indices(scores, 4 * windows_per_step, generator)
        counters[sampled] += 1
        if filled > 3000:
            newest += int((sampled >= 0.95 * filled).sum())
            total += len(sampled)
    assert newest / total == pytest.approx(0.153, abs=0.01)
