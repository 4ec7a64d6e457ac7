"""The factored form of the chunked scan: when it is used, and that it equals the recurrence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from drama.ops.ssd import chunking, factored
from drama.ssm import reference, ssd

LIMIT = chunking.LARGEST_DROP[torch.float32]


def steady(drop: float, length: int, *, heads: int = 2) -> Tensor:
    """Log-decays of ``drop`` doublings a step."""
    return torch.full((1, length, heads), -float(drop))


def chunks(logs: Tensor, longest: int, dt: float = 0.1) -> int | None:
    found = chunking.fit(logs, torch.full_like(logs, dt), longest, torch.float32)
    return None if found is None else found.chunks


def test_chunk_length_is_the_longest_in_range() -> None:
    # 112 doublings at most: 128 steps of one are too many, 64 are not, and 16 of eight are again.
    assert LIMIT == 112
    assert chunks(steady(0.5, 128), 128) == 1
    assert chunks(steady(1, 128), 128) == 2
    assert chunks(steady(3, 128), 128) == 4
    assert chunks(steady(7, 128), 128) == 8
    assert chunks(steady(8, 128), 128) is None
    assert chunks(steady(1, 100), 64) == 2  # 50 and 50


def test_strongest_head_limits_the_chunk_and_padding_does_not() -> None:
    logs = torch.cat([steady(0.1, 128, heads=3), steady(7.5, 128, heads=1)], dim=-1)
    assert chunks(logs, 128) is None
    assert chunks(steady(7, 17), 64) == 2  # 9 steps of 7 and 8 more


def test_step_with_a_very_strong_decay_uses_the_masked_form() -> None:
    logs = steady(0.1, 64)
    logs[0, 40, 1] = -12
    assert chunks(logs, 64) == 1
    logs[0, 40, 1] = -12.5
    assert chunks(logs, 64) is None


def test_small_states_use_the_masked_form(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunking, "SMALLEST_STATE", {torch.float64: 4, torch.float32: 3})
    ssd(**inputs(64, 1))  # of size 3
    assert used == []
    ssd(**inputs(64, 1, dtype=torch.float32))
    assert used == [1]


@pytest.mark.parametrize("dt", [math.nan, math.inf, 2.0**21])
def test_decays_out_of_range_and_short_windows_use_the_masked_form(dt: float) -> None:
    assert chunks(steady(0.1, 128), 64, dt=dt) is None
    assert chunks(steady(0.1, 16), 64) is None


def inputs(length: int, groups: int, *, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    torch.manual_seed(length + groups)
    batch, heads, headdim, d_state = 3, 4, 5, 3
    is_first = torch.rand(batch, length) < 0.05
    is_first[0] = False
    is_first[1, 0] = is_first[1, -1] = True
    floats = {
        "x": torch.randn(batch, length, heads, headdim),
        "dt": torch.rand(batch, length, heads) * 0.5,
        "A": -torch.rand(heads) - 0.1,
        "B": torch.randn(batch, length, groups, d_state),
        "C": torch.randn(batch, length, groups, d_state),
        "D": torch.randn(heads),
        "initial_state": torch.randn(batch, heads, headdim, d_state),
    }
    return {**{k: v.to(dtype) for k, v in floats.items()}, "is_first": is_first}


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of chunks of windows that used the factored form."""
    seen: list[int] = []
    fit = chunking.fit

    def spy(*args: Any, **options: Any) -> chunking.Plan | None:
        found = fit(*args, **options)
        if found is not None:
            seen.append(found.chunks)
        return found

    monkeypatch.setattr(chunking, "fit", spy)
    return seen


@pytest.fixture(autouse=True)
def _any_state_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small states are faster to test, and use the same code."""
    monkeypatch.setattr(chunking, "SMALLEST_STATE", dict.fromkeys(chunking.LARGEST_DROP, 1))
    monkeypatch.setattr(chunking, "SMALLEST_SPLIT_STATE", 1)


@pytest.mark.parametrize("asked", ["y", "state", "both"])
@pytest.mark.parametrize("leave_out", [(), ("is_first",), ("initial_state",), ("D", "is_first")])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [17, 64, 65, 130])
def test_outputs_and_gradients_equal_the_recurrence(
    length: int, groups: int, leave_out: tuple[str, ...], asked: str, used: list[int]
) -> None:
    given = {k: v for k, v in inputs(length, groups).items() if k not in leave_out}
    leaves = {k: v.requires_grad_() for k, v in given.items() if k != "is_first"}
    results = []
    for function in (ssd, reference.ssd):
        y, state = function(**given, chunk_size=32)
        torch.manual_seed(1)
        weighted = {
            "y": (y * torch.randn_like(y)).sum(),
            "state": (state * torch.randn_like(state)).sum(),
        }
        loss = sum(weighted.values()) if asked == "both" else weighted[asked]
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        # An unused input may have no gradient, or a zero one.
        zeros = [torch.zeros_like(v) for v in leaves.values()]
        found = [z if g is None else g for g, z in zip(gradients, zeros, strict=True)]
        results.append([y, state, *found])
    assert used == [math.ceil(length / 32)]
    for name, ours, slow in zip(["y", "state", *leaves], *results, strict=True):
        assert (ours - slow).abs().max() <= 1e-9 * (1 + slow.abs().max()), name


def test_float32_is_accurate_up_to_the_limit(used: list[int]) -> None:
    # 64 steps of up to 1.7 doublings: factors of up to 2^54 on either side.
    given = inputs(64, 1)
    given["A"] = torch.tensor([-1.0, -0.3, -0.05, -1e-6]).double()
    given["dt"] = 1.2 * torch.rand_like(given["dt"])
    given["dt"][:, :, 0] = 1.2
    leaves = [k for k in given if k != "is_first"]
    results = []
    for function, dtype in ((ssd, torch.float32), (reference.ssd, torch.float64)):
        cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in given.items()}
        for k in leaves:
            cast[k].requires_grad_()
        y, state = function(**cast)
        torch.manual_seed(1)
        weights = torch.randn(y.shape, dtype=torch.float64).to(dtype)
        gradients = torch.autograd.grad(
            (y * weights).sum() + state.sum(), [cast[k] for k in leaves]
        )
        results.append([y, state, *gradients])
    assert used == [1]
    for name, ours, exact in zip(["y", "state", *leaves], *results, strict=True):
        assert (ours - exact).norm() <= 3e-6 * exact.norm(), name


def test_factored_and_masked_forms_agree(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(100, 2, dtype=torch.float32)
    y, state = ssd(**given)
    assert used == [2]
    monkeypatch.setattr(chunking, "fit", lambda *_, **__: None)
    other_y, other_state = ssd(**given)
    torch.testing.assert_close(y, other_y, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, other_state, rtol=1e-5, atol=1e-5)


def test_window_with_too_strong_decay_is_accurate(used: list[int]) -> None:
    given = inputs(64, 1)
    given["A"] = given["A"] * 1e4
    torch.testing.assert_close(ssd(**given)[0], reference.ssd(**given)[0], rtol=1e-9, atol=1e-10)
    assert used == []


def at_the_limit(**changes: Tensor) -> dict[str, Tensor]:
    """64 steps with a total decay of 112 doublings, the limit of a float32 chunk."""
    given = {k: v for k, v in inputs(64, 1, dtype=torch.float32).items() if k != "is_first"}
    given["A"] = torch.full_like(given["A"], -math.log(2))
    given["dt"] = torch.full_like(given["dt"], LIMIT / 64 - 1e-3)
    return {**given, **changes}


def test_large_gradients_stay_finite_at_the_limit(used: list[int]) -> None:
    # The product of row 0 and column 63 above the diagonal, 2^112 times this, overflows float32.
    given = at_the_limit()
    given["x"] = given["x"] * 1e6
    exact = {k: v.double() for k, v in given.items()}
    results = []
    for function, of in ((ssd, given), (reference.ssd, exact)):
        leaves = [v.requires_grad_() for v in of.values()]
        y, state = function(**of)
        results.append(torch.autograd.grad(y.sum() + state.sum(), leaves))
    assert used == [1]
    for name, ours, slow in zip(given, *results, strict=True):
        assert (ours - slow).norm() <= 1e-4 * slow.norm(), name


@pytest.mark.parametrize("wide", ["dt", "A", "initial_state"])
def test_powers_stay_in_the_range_of_the_narrower_type(wide: str, used: list[int]) -> None:
    # Log-decays in float64 may fall by 800 doublings; powers of x, in float32, may not.
    given = at_the_limit()
    given["A"] = given["A"] * 4
    given[wide] = given[wide].double()
    expected = reference.ssd(**{k: v.double() for k, v in given.items()})
    for ours, exact in zip(ssd(**given), expected, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
    assert used == [4]


def test_an_empty_batch_gives_an_empty_result() -> None:
    given = {k: v[:0] if v.dim() > 1 else v for k, v in inputs(40, 1).items()}
    y, state = ssd(**given)
    assert (y.shape, state.shape) == ((0, 40, 4, 5), (0, 4, 5, 3))


@pytest.mark.parametrize("size", [1, 3])
def test_returned_state_may_be_overwritten(size: int, used: list[int]) -> None:
    # With one value per head the internal and external layouts are the same.
    given = inputs(40, 1)
    given["B"], given["C"] = given["B"][..., :size], given["C"][..., :size]
    given["initial_state"] = given["initial_state"][..., :size]
    A = given["A"].requires_grad_()
    y, state = ssd(**given)
    expected = torch.autograd.grad(y.sum(), A, retain_graph=True)
    with torch.no_grad():
        state.zero_()
    assert torch.equal(torch.autograd.grad(y.sum(), A)[0], expected[0])
    assert used == [1]


def test_chunks_of_a_few_heads_may_be_split() -> None:
    slow, fast, faster = (steady(drop, 128, heads=1) for drop in (0.1, 1.5, 1.8))

    def cut(*heads: Tensor, longest: int = 128, split: bool = True) -> Any:
        logs = torch.cat(heads, dim=-1)
        dt = torch.full_like(logs, 0.1)
        found = chunking.fit(logs, dt, longest, torch.float32, split=split)
        assert found is not None
        return found.chunks, None if found.split_heads is None else found.split_heads.tolist()

    assert cut(slow, fast, slow) == (1, [1])
    assert cut(slow, slow) == (1, None)
    assert cut(slow, fast, slow, split=False) == (2, None)
    assert cut(slow, fast, slow, longest=64) == (2, None)  # not of a window that is longer
    assert cut(fast, slow, fast) == (2, None)  # not of most of the heads
    assert cut(slow, faster, slow) == (4, None)  # nor where one half is still too long


def split_inputs(length: int, groups: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Windows in which the decay of the second of four heads is between one and two limits."""
    given = inputs(length, groups, dtype=dtype)
    del given["initial_state"]
    steps = torch.rand(given["dt"].shape, dtype=dtype) + 0.5
    given["dt"] = steps / steps.sum(1, keepdim=True)
    limit = chunking.LARGEST_DROP[dtype]
    given["A"] = -math.log(2) * limit * torch.tensor([0.3, 1.6, 0.01, 0.9], dtype=dtype)
    return given


@pytest.mark.parametrize("asked", ["y", "state", "both"])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("length", [17, 40, 64])
def test_split_heads_equal_the_recurrence_with_every_gradient(
    length: int, groups: int, resets: bool, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A low limit, so that nothing underflows in float64 and any omitted term shows.
    monkeypatch.setitem(chunking.LARGEST_DROP, torch.float64, 12.0)
    given = split_inputs(length, groups, torch.float64)
    if not resets:
        del given["is_first"]
    names = [k for k in given if k != "is_first"]
    leaves = [given[k].requires_grad_() for k in names]
    done = []
    first_half = factored.FirstSubchunk.add_to
    monkeypatch.setattr(
        factored.FirstSubchunk, "add_to", lambda *a: done.append(a[-1].tolist()) or first_half(*a)
    )
    results = []
    for function in (ssd, reference.ssd):
        y, state = function(**given)
        torch.manual_seed(1)
        losses = {k: (v * torch.randn_like(v)).sum() for k, v in (("y", y), ("state", state))}
        loss = losses["y"] + losses["state"] if asked == "both" else losses[asked]
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        found = [
            torch.zeros_like(v) if g is None else g for g, v in zip(gradients, leaves, strict=True)
        ]
        results.append([y, state, *found])
    assert done == [[1]]
    for name, ours, slow in zip(["y", "state", *names], *results, strict=True):
        assert (ours - slow).abs().max() <= 1e-9 * (1 + slow.abs().max()), name


def test_split_heads_are_accurate_at_the_real_limit() -> None:
    given = split_inputs(64, 1, torch.float32)
    del given["is_first"]
    exact = {k: v.double() for k, v in given.items()}
    results = []
    for function, of in ((ssd, given), (reference.ssd, exact)):
        leaves = [v.requires_grad_() for v in of.values()]
        y, state = function(**of)
        gradients = torch.autograd.grad(y.double().sum() + state.double().sum(), leaves)
        results.append([y, state, *gradients])
    for name, ours, slow in zip(["y", "state", *given], *results, strict=True):
        assert ours.isfinite().all()
        assert (ours.double() - slow).norm() <= 3e-6 * slow.norm(), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("split", [False, True])
def test_step_size_gradients_do_not_cross_a_reset(
    split: bool, dtype: torch.dtype, used: list[int]
) -> None:
    given = split_inputs(64, 1, torch.float32) if split else inputs(64, 1, dtype=torch.float32)
    reset = 30  # inside the first half
    given["x"] = given["x"].to(dtype)  # its rounding could cross
    given["is_first"] = torch.zeros(3, 64, dtype=torch.bool)
    given["is_first"][:, reset] = True
    dt = given["dt"].requires_grad_()
    y, _ = ssd(**given)
    (gradient,) = torch.autograd.grad(y[:, reset:].float().square().sum(), dt)
    assert torch.equal(gradient[:, :reset], torch.zeros_like(gradient[:, :reset]))
    assert gradient[:, reset:].abs().amax() > 0
    assert used == ([1] if dtype == torch.float32 else [])
