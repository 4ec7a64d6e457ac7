"""``ssd`` and ``selective_scan`` against hand-computed numbers and the step-by-step reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from drama.errors import ConfigError
from drama.ssm import reference, selective_scan, ssd

LENGTHS = [1, 2, 3, 63, 64, 65, 130]


def ssd_inputs(
    length: int, *, heads: int = 4, groups: int = 2, headdim: int = 5, d_state: int = 3
) -> dict[str, Tensor]:
    """Random inputs in float64, with a state and resets at the first, last and inner steps."""
    torch.manual_seed(length)
    batch = 3
    is_first = torch.rand(batch, length) < 0.1
    is_first[0] = False
    is_first[1, 0] = is_first[1, -1] = True
    return {
        "x": torch.randn(batch, length, heads, headdim).double(),
        "dt": torch.rand(batch, length, heads).double() * 0.5,
        "A": -torch.rand(heads).double() * 4 - 0.1,
        "B": torch.randn(batch, length, groups, d_state).double(),
        "C": torch.randn(batch, length, groups, d_state).double(),
        "D": torch.randn(heads).double(),
        "initial_state": torch.randn(batch, heads, headdim, d_state).double(),
        "is_first": is_first,
    }


def scan_inputs(length: int, *, channels: int = 5, d_state: int = 3) -> dict[str, Tensor]:
    inputs = ssd_inputs(length, heads=channels, groups=1, headdim=1, d_state=d_state)
    return {
        **inputs,
        "x": inputs["x"][..., 0],
        "A": -torch.rand(channels, d_state).double() * 4 - 0.1,
        "B": inputs["B"][:, :, 0],
        "C": inputs["C"][:, :, 0],
        "initial_state": inputs["initial_state"][:, :, 0],
    }


PAIRS = {
    "ssd": (ssd, reference.ssd, ssd_inputs),
    "selective_scan": (selective_scan, reference.selective_scan, scan_inputs),
}


def compare_with_gradients(fast: Any, slow: Any, inputs: dict[str, Tensor]) -> None:
    """Assert equal outputs, final states, and gradients for every floating-point input."""
    results = []
    for function in (fast, slow):
        leaves = {
            k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()
        }
        y, state = function(**leaves)
        torch.manual_seed(0)
        total = (y * torch.randn(y.shape)).sum() + (state * torch.randn(state.shape)).sum()
        wanted = [v for v in leaves.values() if v.requires_grad]
        results.append((y, state, *torch.autograd.grad(total, wanted)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_ssd_matches_hand_computed_values() -> None:
    # One head of one channel and one state; Δ = 1 and A = -ln 2 halve the state at each step.
    one = torch.ones(1, 3, 1, 1, dtype=torch.float64)
    y, state = ssd(
        torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).view(1, 3, 1, 1),
        one[..., 0],
        torch.tensor([-math.log(2)], dtype=torch.float64),
        one * 3,  # B
        one * 10,  # C
        D=torch.tensor([0.5], dtype=torch.float64),
        initial_state=torch.tensor([8.0], dtype=torch.float64).view(1, 1, 1, 1),
    )
    # h = 8 -> 4 + 3 = 7 -> 3.5 + 6 = 9.5 -> 4.75 + 12 = 16.75;  y = 10 h + x / 2
    torch.testing.assert_close(y.flatten().tolist(), [70.5, 96.0, 169.5])
    assert state.item() == pytest.approx(16.75)


def test_selective_scan_matches_hand_computed_values() -> None:
    # One channel with two states that are halved and quartered.
    one = torch.ones(1, 2, 1, dtype=torch.float64)
    y, state = selective_scan(
        one * 4,
        one,
        -math.log(2) * torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        torch.tensor([[[1.0, 1.0], [2.0, 0.0]]], dtype=torch.float64),
        torch.tensor([[[1.0, 10.0], [1.0, 10.0]]], dtype=torch.float64),
    )
    # h_1 = (4, 4), y_1 = 4 + 40;  h_2 = (2 + 8, 1 + 0), y_2 = 10 + 10
    torch.testing.assert_close(y.flatten().tolist(), [44.0, 20.0])
    torch.testing.assert_close(state.flatten().tolist(), [10.0, 1.0])


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", PAIRS)
def test_scans_equal_the_reference(name: str, length: int) -> None:
    fast, slow, make = PAIRS[name]
    compare_with_gradients(fast, slow, make(length))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("missing", [("initial_state",), ("is_first",), ("D",)], ids=str)
def test_optional_arguments_may_be_omitted(name: str, missing: tuple[str, ...]) -> None:
    fast, slow, make = PAIRS[name]
    for length in (5, 70):
        inputs = {k: v for k, v in make(length).items() if k not in missing}
        compare_with_gradients(fast, slow, inputs)


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 31, 32, 33, 1000])
def test_chunk_size_changes_nothing(chunk_size: int) -> None:
    inputs = ssd_inputs(65)
    y, state = ssd(**inputs, chunk_size=chunk_size)
    expected, expected_state = reference.ssd(**inputs)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, expected_state, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_reset_at_every_step_leaves_one_step_of_memory(name: str) -> None:
    fast, slow, make = PAIRS[name]
    inputs = make(66)
    inputs["is_first"] = torch.ones_like(inputs["is_first"])
    compare_with_gradients(fast, slow, inputs)


@pytest.mark.parametrize("name", PAIRS)
def test_gradcheck(name: str) -> None:
    fast, _, make = PAIRS[name]
    inputs = make(5)
    is_first = inputs.pop("is_first")
    names = list(inputs)
    extra = {"chunk_size": 2} if name == "ssd" else {}

    def call(*tensors: Tensor) -> Any:
        return fast(**dict(zip(names, tensors, strict=True)), is_first=is_first, **extra)

    assert torch.autograd.gradcheck(call, [v.requires_grad_() for v in inputs.values()])


@pytest.mark.parametrize("length", [10, 40])  # ssd has two forms
@pytest.mark.parametrize("name", PAIRS)
def test_a_second_derivative_is_refused(name: str, length: int) -> None:
    fast, slow, make = PAIRS[name]
    inputs = make(length)
    for leaf in ("dt", "A"):
        inputs[leaf].requires_grad_()
    # The gradient of a sum is constant.
    slowly = torch.autograd.grad(slow(**inputs)[0].sum(), inputs["dt"], create_graph=True)[0]
    assert torch.autograd.grad(slowly.sum(), inputs["A"])[0].abs().max() > 0
    y, _ = fast(**inputs)
    with pytest.raises(RuntimeError, match="once only"):
        torch.autograd.grad(y.sum(), inputs["dt"], create_graph=True)
    torch.autograd.grad(fast(**inputs)[0].sum(), inputs["dt"])


@pytest.mark.parametrize("length", [10, 40])
@pytest.mark.parametrize("name", PAIRS)
def test_backward_pass_under_autocast_uses_the_types_of_the_forward_pass(
    name: str, length: int
) -> None:
    fast, _, make = PAIRS[name]
    sizes = {"d_state": 16} if name == "ssd" else {}
    inputs = {
        k: v.float().requires_grad_() if v.is_floating_point() else v
        for k, v in make(length, **sizes).items()
    }
    wanted = [v for v in inputs.values() if v.requires_grad]
    plain = torch.autograd.grad(fast(**inputs)[0].square().sum(), wanted)
    total = fast(**inputs)[0].square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        cast = torch.autograd.grad(total, wanted)
    for ours, theirs in zip(cast, plain, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("name", PAIRS)
def test_float32_is_close_to_float64(name: str) -> None:
    fast, slow, make = PAIRS[name]
    inputs = make(130)
    single = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    y, state = fast(**single)
    assert y.dtype == state.dtype == torch.float32
    expected, expected_state = slow(**inputs)
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.double(), expected_state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_bfloat16_inputs_keep_a_float32_state(name: str) -> None:
    fast, slow, make = PAIRS[name]
    inputs = make(130)
    half = {k: v.bfloat16() if k in {"x", "B", "C"} else v for k, v in inputs.items()}
    half = {k: v.float() if v.dtype == torch.float64 else v for k, v in half.items()}
    y, state = fast(**half)
    assert y.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    # The reference reads the rounded inputs, so the difference is rounding of products and result.
    exact = {k: v.double() if v.is_floating_point() else v for k, v in half.items()}
    expected, _ = slow(**exact)
    error = (y.double() - expected).abs().max() / expected.abs().max()
    assert error < 0.01


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 0, 2, 3)}, "T >= 1"),
        ({"dt": torch.zeros(1, 4, 3)}, "dt must be"),
        ({"A": torch.zeros(3)}, "dt must be"),
        ({"B": torch.zeros(1, 4, 1, 5)}, "B and C"),
        ({"B": torch.zeros(1, 4, 3, 2), "C": torch.zeros(1, 4, 3, 2)}, "do not divide"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"D": torch.zeros(1)}, "D must be"),
        ({"initial_state": torch.zeros(1, 2, 3, 1)}, "initial_state must be"),
        ({"is_first": torch.zeros(1, 1, dtype=torch.bool)}, "is_first must be bool"),
        ({"is_first": torch.zeros(1, 4, dtype=torch.uint8)}, "got uint8"),
        ({"is_first": torch.zeros(1, 4, dtype=torch.bool).numpy()}, "torch tensor, got ndarray"),
    ],
)
def test_ssd_reports_invalid_inputs(change: dict[str, Any], message: str) -> None:
    inputs: dict[str, Any] = {
        "x": torch.zeros(1, 4, 2, 3),
        "dt": torch.zeros(1, 4, 2),
        "A": torch.zeros(2),
        "B": torch.zeros(1, 4, 1, 2),
        "C": torch.zeros(1, 4, 1, 2),
    }
    ssd(**inputs)
    with pytest.raises(ConfigError, match=message):
        ssd(**{**inputs, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 0, 2)}, "T >= 1"),
        ({"dt": torch.zeros(1, 4, 3)}, "same shape"),
        ({"A": torch.zeros(3, 5)}, "same shape"),
        ({"C": torch.zeros(1, 4, 6)}, "B and C"),
        ({"D": torch.zeros(1)}, "D must be"),
        ({"initial_state": torch.zeros(1, 2, 1)}, "initial_state must be"),
        ({"is_first": torch.zeros(1, 1, dtype=torch.bool)}, "is_first must be bool"),
        ({"is_first": torch.zeros(1, 4)}, "got float32"),
    ],
)
def test_selective_scan_reports_invalid_inputs(change: dict[str, Any], message: str) -> None:
    inputs: dict[str, Any] = {
        "x": torch.zeros(1, 4, 2),
        "dt": torch.zeros(1, 4, 2),
        "A": torch.zeros(2, 5),
        "B": torch.zeros(1, 4, 5),
        "C": torch.zeros(1, 4, 5),
    }
    selective_scan(**inputs)
    with pytest.raises(ConfigError, match=message):
        selective_scan(**{**inputs, **change})
