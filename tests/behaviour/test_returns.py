"""Returns, survival and the scale of advantages, by hand and by a second definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drama.actions import ActionSpace
from drama.behaviour import ReturnScale, continuation_weights, lambda_return, make_behaviour
from drama.config import BehaviourConfig

REWARD = torch.tensor([[1.0, 2.0, 3.0]])
VALUE = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
ALIVE = torch.zeros(1, 3)


@pytest.mark.parametrize(
    ("lambda_", "expected"),
    [
        # One step: r_t + V(s_{t+1}) / 2, with the value *after* the action.
        (0.0, [11.0, 17.0, 23.0]),
        # Monte Carlo: the rewards discounted by 1/2, then V(s_3) = 40.
        (1.0, [7.75, 13.5, 23.0]),
        # R_2 = 3 + 20 = 23; R_1 = 2 + (15 + 11.5) / 2 = 15.25; R_0 = 1 + (10 + 7.625) / 2.
        (0.5, [9.8125, 15.25, 23.0]),
    ],
)
def test_lambda_return_by_hand(lambda_: float, expected: list[float]) -> None:
    returns = lambda_return(REWARD, ALIVE, VALUE, gamma=0.5, lambda_=lambda_)
    torch.testing.assert_close(returns, torch.tensor([expected]))


def test_a_termination_midway_cuts_off_what_follows() -> None:
    # R_1 is its reward alone; R_0 = 1 + (V(s_1) + R_1) / 4 = 1 + (20 + 2) / 4.
    end = torch.tensor([[0.0, 1.0, 0.0]])
    returns = lambda_return(REWARD, end, VALUE, gamma=0.5, lambda_=0.5)
    torch.testing.assert_close(returns, torch.tensor([[6.5, 2.0, 23.0]]))


def test_a_likely_termination_discounts() -> None:
    end = torch.tensor([[0.0, 0.0, 0.75]])
    returns = lambda_return(REWARD, end, VALUE, gamma=0.5, lambda_=0.0)
    torch.testing.assert_close(returns, torch.tensor([[11.0, 17.0, 3 + 0.5 * 0.25 * 40]]))


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
def test_the_value_of_the_state_acted_in_never_enters_its_return(lambda_: float) -> None:
    value = VALUE.clone()
    returns = lambda_return(REWARD, ALIVE, value, gamma=0.9, lambda_=lambda_)
    value[:, 0] = -1e6
    assert torch.equal(lambda_return(REWARD, ALIVE, value, gamma=0.9, lambda_=lambda_), returns)


@given(
    seed=st.integers(0, 10_000),
    horizon=st.integers(1, 7),
    gamma=st.floats(0, 1),
    lambda_=st.floats(0, 1),
)
def test_it_is_the_mixture_of_n_step_returns(
    seed: int, horizon: int, gamma: float, lambda_: float
) -> None:
    rng = np.random.default_rng(seed)
    reward, end = rng.normal(size=(2, horizon)), rng.uniform(size=(2, horizon))
    value = rng.normal(size=(2, horizon + 1))

    def n_step(row: int, t: int, n: int) -> float:
        total, weight = 0.0, 1.0
        for k in range(t, t + n):
            total += weight * reward[row, k]
            weight *= gamma * (1 - end[row, k])
        return total + weight * value[row, t + n]

    expected = np.zeros((2, horizon))
    for row in range(2):
        for t in range(horizon):
            left = horizon - t
            short = [(1 - lambda_) * lambda_ ** (n - 1) * n_step(row, t, n) for n in range(1, left)]
            expected[row, t] = sum(short) + lambda_ ** (left - 1) * n_step(row, t, left)
    returns = lambda_return(
        torch.from_numpy(reward),
        torch.from_numpy(end),
        torch.from_numpy(value),
        gamma=gamma,
        lambda_=lambda_,
    )
    np.testing.assert_allclose(returns.numpy(), expected, atol=1e-10)


def test_survival_is_the_product_over_earlier_actions() -> None:
    end = torch.tensor([[0.5, 0.0, 1.0, 0.0], [0.0, 0.1, 0.1, 0.1]])
    expected = torch.tensor([[1.0, 0.5, 0.5, 0.0], [1.0, 1.0, 0.9, 0.81]])
    torch.testing.assert_close(continuation_weights(end), expected)


def test_survival_of_one_action_is_certain() -> None:
    assert torch.equal(continuation_weights(torch.ones(3, 1)), torch.ones(3, 1))


def test_the_first_batch_sets_the_percentiles() -> None:
    scale = ReturnScale(0.99)
    assert scale.scale() == 1.0
    scale.update(torch.arange(101.0).reshape(1, 101))
    assert (scale.low.item(), scale.high.item()) == pytest.approx((5.0, 95.0))
    assert scale.scale().item() == pytest.approx(90.0)


def test_later_batches_move_them_by_the_decay() -> None:
    scale = ReturnScale(0.9)
    scale.update(torch.arange(101.0))
    scale.update(torch.full((50,), 200.0))
    assert scale.low.item() == pytest.approx(0.9 * 5 + 0.1 * 200)
    assert scale.high.item() == pytest.approx(0.9 * 95 + 0.1 * 200)
    scale.update(torch.zeros(2, 25))
    assert scale.low.item() == pytest.approx(0.9 * 24.5)


def test_a_zero_first_batch_counts_as_one() -> None:
    scale = ReturnScale(0.9)
    scale.update(torch.zeros(10))
    scale.update(torch.arange(101.0))
    assert scale.high.item() == pytest.approx(9.5)


def test_small_returns_are_not_blown_up() -> None:
    for least, expected in ((1.0, 1.0), (0.2, 0.2), (0.05, 0.09)):
        scale = ReturnScale(least=least)
        scale.update(torch.linspace(0, 0.1, 101))
        assert scale.scale().item() == pytest.approx(expected)


def test_reading_the_scale_moves_nothing() -> None:
    scale = ReturnScale()
    scale.update(torch.arange(101.0))
    before = {k: v.clone() for k, v in scale.state_dict().items()}
    for _ in range(3):
        scale.scale()
    assert all(torch.equal(v, before[k]) for k, v in scale.state_dict().items())


def test_the_running_percentiles_are_saved() -> None:
    scale, other = ReturnScale(0.9), ReturnScale(0.9)
    scale.update(torch.arange(101.0))
    other.load_state_dict(scale.state_dict())
    assert other.scale() == scale.scale()
    for each in (scale, other):  # also that the first batch has been seen
        each.update(torch.zeros(10))
    assert other.scale() == scale.scale()
    assert other.scale().item() == pytest.approx(81.0)


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_percentiles_are_those_of_numpy(count: int) -> None:
    returns = torch.randn(count, generator=torch.Generator().manual_seed(count))
    scale = ReturnScale()
    scale.update(returns)
    low, high = np.percentile(returns.double().numpy(), [5, 95])
    assert scale.low.item() == pytest.approx(low, rel=1e-5, abs=1e-6)
    assert scale.high.item() == pytest.approx(high, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("algorithm", ["actor-critic", "ppo"])
def test_the_least_scale_is_the_setting(algorithm: str) -> None:
    config = BehaviourConfig(algorithm=algorithm, min_return_scale=0.2)
    behaviour: Any = make_behaviour(config, 4, ActionSpace(2))
    assert behaviour.return_scale.scale().item() == pytest.approx(0.2)
