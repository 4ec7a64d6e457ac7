"""Step sizes and rates at the ends of their range: results must be accurate, not only finite.

The measure of an error at a step is the same sum with every term positive, the most that rounding
could be proportional to. It is taken in float64, from the float32 inputs themselves.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from drama.ssm import reference, selective_scan, ssd

LENGTH, HEADS, HEADDIM, STATE = 200, 6, 4, 3
MIXTURES = {
    "tiny": [0.0, 1e-8],
    "strong forgetting between fine steps": [0.0, 1e-8, 1e-3, 90.0],
    "moderate forgetting, many times": [7.0, 13.0, 60.0, 1e-4],
    "everything": [0.0, 1e-8, 1e-3, 0.1, 3.0, 50.0, 1e6],
    "huge": [1e6, 1e12],
}
RATES = torch.tensor([-1e-30, -1e-4, -1.0, -1.7, -16.0, -1e20])


def inputs_for(name: str, steps: list[float]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    pick = torch.randint(len(steps), (2, LENGTH, HEADS), generator=generator)
    is_first = torch.rand(2, LENGTH, generator=generator) < 0.03
    inputs = {
        "x": normal(2, LENGTH, HEADS, HEADDIM),
        "dt": torch.tensor(steps)[pick],
        "A": RATES,
        "B": normal(2, LENGTH, 2, STATE),
        "C": normal(2, LENGTH, 2, STATE),
        "initial_state": normal(2, HEADS, HEADDIM, STATE),
        "is_first": is_first,
    }
    if name == "selective_scan":
        inputs |= {
            "x": inputs["x"][..., 0],
            "A": RATES[:, None] * torch.tensor([1.0, 1.3, 0.1]),
            "B": inputs["B"][:, :, 0],
            "C": inputs["C"][:, :, 0],
            "initial_state": inputs["initial_state"][:, :, 0],
        }
    return inputs


FUNCTIONS: dict[str, Any] = {
    "ssd": (ssd, reference.ssd),
    "selective_scan": (selective_scan, reference.selective_scan),
}


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_are_accurate(name: str, mixture: str) -> None:
    fast, slow = FUNCTIONS[name]
    inputs = inputs_for(name, MIXTURES[mixture])
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    y, state = fast(**inputs)
    expected, expected_state = slow(**exact)
    positive = {
        k: v.abs() if k in {"x", "B", "C", "initial_state"} else v for k, v in exact.items()
    }
    scale, scale_state = slow(**positive)
    tiny = 1e-30  # below this float32 underflows
    assert ((y - expected).abs() <= 2e-6 * scale + tiny).all()
    assert ((state - expected_state).abs() <= 2e-6 * scale_state + tiny).all()


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_accurate(name: str, mixture: str) -> None:
    fast, slow = FUNCTIONS[name]
    inputs = inputs_for(name, MIXTURES[mixture])
    exact = {k: v.double() if v.is_floating_point() else v for k, v in inputs.items()}
    results = []
    for function, given in ((fast, inputs), (slow, exact)):
        leaves = [v.requires_grad_() for v in given.values() if v.is_floating_point()]
        y, state = function(**given)
        results.append(torch.autograd.grad(y.sum() + state.sum(), leaves))
    for ours, expected in zip(*results, strict=True):
        assert ours.isfinite().all()
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_strong_decay_does_not_reduce_the_precision_of_later_steps(name: str) -> None:
    # After a log-decay of -1000 or a million, steps of 1e-4: the state decays by exp(-1e-4) each.
    fast, _ = FUNCTIONS[name]
    for strong in (1e3, 1e6):
        dt = torch.full((1, 64, 1), 1e-4)
        dt[0, 5] = strong
        ones = torch.ones(1, 64, 1)
        maps = ones[..., None] if name == "ssd" else ones
        x = torch.zeros(1, 64, 1)
        x[0, 6] = 1e4  # writes 1 into the state
        rate = -torch.ones(1) if name == "ssd" else -torch.ones(1, 1)
        y, _ = fast(x[..., None] if name == "ssd" else x, dt, rate, maps, maps)
        expected = torch.exp(-1e-4 * torch.arange(58, dtype=torch.float64))
        torch.testing.assert_close(y.flatten()[6:].double(), expected, rtol=5e-6, atol=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_reset_hides_the_past_exactly(name: str) -> None:
    fast, _ = FUNCTIONS[name]
    inputs = inputs_for(name, [1e-3, 0.1])
    inputs["is_first"][:] = False
    inputs["is_first"][:, 70] = True
    y, state = fast(**inputs)
    inputs["initial_state"] = inputs["initial_state"] * 1e30
    inputs["x"] = inputs["x"].clone()
    inputs["x"][:, :70] *= 1e30
    changed, changed_state = fast(**inputs)
    assert torch.equal(y[:, 70:], changed[:, 70:])
    assert torch.equal(state, changed_state)


def test_long_window_in_bfloat16_is_finite_and_close() -> None:
    torch.manual_seed(0)
    length, heads = 8192, 2
    x = torch.randn(1, length, heads, 8).bfloat16()
    dt = torch.rand(1, length, heads) * 0.1
    A = torch.tensor([-0.01, -4.0])
    maps = torch.randn(2, 1, length, 1, 4).bfloat16()
    x.requires_grad_()
    dt.requires_grad_()
    y, state = ssd(x, dt, A, maps[0], maps[1])
    expected, expected_state = ssd(x.double(), dt.double(), A.double(), *maps.double())
    assert (y - expected).abs().max() < 0.01 * expected.abs().max()
    assert (state - expected_state).abs().max() < 0.01 * expected_state.abs().max()
    gradients = torch.autograd.grad(y.float().square().mean(), [x, dt])
    wanted = torch.autograd.grad(expected.square().mean(), [x, dt])
    for ours, exact in zip(gradients, wanted, strict=True):
        assert (ours - exact).norm() < 0.02 * exact.norm()
