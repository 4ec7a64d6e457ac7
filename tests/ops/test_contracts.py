"""Every operation equals its plain form in all its versions: values, and gradients of all inputs.

The versions: the CPU's, in one block and in many; the accelerator's, whose code runs here on the
CPU and which compiled code uses. `test_kernels.py` compares the CUDA kernels with the CPU version.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.ops import blocking, conv1d, dispatch, pixel_loss, rms_norm
from drama.ops.batch_norm import ConvLayers, batch_norm_silu
from drama.ops.batch_norm import reference as plain_batch_norm_silu
from drama.ops.linear import split_linear
from drama.ops.recurrence import recurrent_step
from drama.ops.ssd import chunking
from drama.ssm import reference, selective_scan, ssd
from drama.ssm.selective_scan import selective_scan_step
from drama.ssm.ssd import ssd_step

BATCH, LENGTH, HEADS, HEADDIM, STATE = 3, 40, 4, 6, 16
VERSIONS = ["one block", "many blocks", "accelerator"]

Case = tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Select the version of every operation."""
    monkeypatch.setattr(rms_norm, "_FEW_ELEMENTS", 0)
    if request.param == "accelerator":
        monkeypatch.setattr(dispatch, "_HOSTS", ())
    if request.param == "many blocks":

        def small(rows: int, *_: object, **__: object) -> list[slice]:
            return [slice(i, min(i + 2, rows)) for i in range(0, rows, 2)]

        for module in (blocking, rms_norm, pixel_loss):
            monkeypatch.setattr(module, "row_blocks", small)
    return str(request.param)


def normal(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(shape, dtype=torch.float64).requires_grad_(grad)


def resets() -> Tensor:
    """None; at the first and last step; two in a row."""
    is_first = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    is_first[1, 0] = is_first[1, -1] = is_first[2, 9] = is_first[2, 10] = True
    return is_first


def pixels(weight: float, cross_entropy: bool = False) -> Case:
    obs = torch.randint(0, 256, (5, 3, 8, 8, 3), dtype=torch.uint8)
    moving = torch.rand(5, 3, 8, 8) < 0.2 if weight != 1 else None
    # In float32 for any type of logits.
    given = {"logits": torch.randn(5, 3, 8, 8, 3, requires_grad=True), "obs": obs}
    return pixel_loss.pixel_loss, pixel_loss.reference, {
        **given, "moving": moving, "motion_weight": weight, "cross_entropy": cross_entropy
    }  # fmt: skip


def norm(silu: bool) -> Case:
    given = {"x": normal(7, 5, 12), "weight": normal(12), "eps": 1e-5, "silu": silu}
    return rms_norm.rms_norm, rms_norm.reference, given


def gated_norm(groups: int) -> Case:
    given = {"y": normal(7, 5, 12), "z": normal(7, 5, 12), "weight": normal(12)}
    return rms_norm.gated_rms_norm, rms_norm.gated_reference, {
        **given, "groups": groups, "eps": 1e-5
    }  # fmt: skip


def batch_norm() -> Case:
    def call(function: Any) -> Any:
        def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            layer = nn.BatchNorm2d(4, dtype=torch.float64)
            del layer.weight, layer.bias
            layer.weight, layer.bias = weight, bias
            return torch.stack([function(layer, x).sum(), layer.running_var.sum().detach()])

        return run

    given = {"x": normal(6, 4, 5, 5), "weight": normal(4), "bias": normal(4)}
    return call(batch_norm_silu), call(plain_batch_norm_silu), given


def linear() -> Case:
    def plain(x: Tensor, weight: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        return torch.split(F.linear(x, weight), sizes, dim=-1)

    given = {"x": normal(BATCH, LENGTH, 8), "weight": normal(12, 8), "sizes": [5, 1, 6]}
    return split_linear, plain, given


def convolution(*, reset: bool, carried: bool) -> Case:
    given = {"x": normal(BATCH, LENGTH, 8), "weight": normal(8, 1, 4), "bias": normal(8)}
    history = normal(BATCH, 3, 8) if carried else None
    return conv1d.causal_conv1d_silu, conv1d.reference, {
        **given, "history": history, "is_first": resets() if reset else None
    }  # fmt: skip


def mamba2(speed: float, *, reset: bool, carried: bool, chunk_size: int = 16) -> Case:
    """Chunks in the factored form where decays are slow, in the masked form where they are fast."""
    given = {
        "x": normal(BATCH, LENGTH, HEADS, HEADDIM),
        "dt": (torch.rand(BATCH, LENGTH, HEADS).double() * speed).requires_grad_(),
        "A": (-torch.rand(HEADS).double() - 0.1).requires_grad_(),
        "B": normal(BATCH, LENGTH, 2, STATE),
        "C": normal(BATCH, LENGTH, 2, STATE),
        "D": normal(HEADS),
        "initial_state": normal(BATCH, HEADS, HEADDIM, STATE) if carried else None,
        "is_first": resets() if reset else None,
        "chunk_size": chunk_size,
    }
    return ssd, reference.ssd, given


def mamba1(*, reset: bool, carried: bool) -> Case:
    given = {
        "x": normal(BATCH, LENGTH, HEADS),
        "dt": torch.rand(BATCH, LENGTH, HEADS).double().requires_grad_(),
        "A": (-torch.rand(HEADS, STATE).double() - 0.1).requires_grad_(),
        "B": normal(BATCH, LENGTH, STATE),
        "C": normal(BATCH, LENGTH, STATE),
        "D": normal(HEADS),
        "initial_state": normal(BATCH, HEADS, STATE) if carried else None,
        "is_first": resets() if reset else None,
    }
    return selective_scan, reference.selective_scan, given


def step_of(step: Callable[..., Any], case: Case) -> Case:
    """A single step, as a window of length one."""
    _, plain, given = case

    def one(**given: Any) -> Any:
        return step(**given, state=torch.clone(state))

    def window(**given: Any) -> Any:
        shape = {k: v if k in ("A", "D") else v[:, None] for k, v in given.items()}
        y, end = plain(**shape, initial_state=state)
        return y[:, 0], end

    state = given["initial_state"]
    kept = {k: v for k, v in given.items() if k in ("x", "dt", "A", "B", "C", "D")}
    first = {
        k: v if k in ("A", "D") else v[:, 0].detach().requires_grad_() for k, v in kept.items()
    }
    return one, window, first


CASES: dict[str, Callable[[], Case]] = {
    "pixel_loss": lambda: pixels(1.0),
    "pixel_loss, motion": lambda: pixels(10.0),
    "pixel_loss, cross-entropy": lambda: pixels(1.0, cross_entropy=True),
    "pixel_loss, cross-entropy, motion": lambda: pixels(10.0, cross_entropy=True),
    "rms_norm": lambda: norm(False),
    "rms_norm, silu": lambda: norm(True),
    "gated_rms_norm": lambda: gated_norm(1),
    "gated_rms_norm, groups": lambda: gated_norm(3),
    "batch_norm_silu": batch_norm,
    "split_linear": linear,
    "conv1d": lambda: convolution(reset=False, carried=False),
    "conv1d, resets": lambda: convolution(reset=True, carried=True),
    "ssd, slow": lambda: mamba2(0.3, reset=False, carried=False),
    "ssd, slow, resets": lambda: mamba2(0.3, reset=True, carried=True),
    "ssd, fast": lambda: mamba2(200.0, reset=False, carried=True),
    "ssd, fast, resets": lambda: mamba2(200.0, reset=True, carried=False),
    "selective_scan": lambda: mamba1(reset=False, carried=False),
    "selective_scan, resets": lambda: mamba1(reset=True, carried=True),
    "ssd_step": lambda: step_of(ssd_step, mamba2(0.3, reset=False, carried=True)),
    "selective_scan_step": lambda: step_of(selective_scan_step, mamba1(reset=False, carried=True)),
}


def run(function: Callable[..., Any], given: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the outputs and the gradients of all inputs that have one."""
    results = function(**given)
    outputs = [results] if isinstance(results, Tensor) else list(results)
    torch.manual_seed(1)
    loss = sum((out * torch.randn(out.shape, dtype=out.dtype)).sum() for out in outputs)
    leaves = [v for v in given.values() if isinstance(v, Tensor) and v.requires_grad]
    return outputs, list(torch.autograd.grad(loss, leaves))


@pytest.mark.parametrize("name", CASES)
def test_fast_operations_equal_plain_ones(name: str, version: str) -> None:
    torch.manual_seed(0)
    fast, plain, given = CASES[name]()
    outputs, gradients = run(fast, given)
    expected, expected_gradients = run(plain, given)
    for ours, theirs in zip(outputs + gradients, expected + expected_gradients, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        digits = 1e-9 if ours.dtype == torch.float64 else 1e-5
        assert (ours - theirs).abs().max() <= digits * (1 + theirs.abs().max())


@pytest.mark.parametrize("name", [name for name in CASES if name.endswith("_step")])
@torch.no_grad()
def test_steps_without_a_gradient_equal_plain_ones(name: str, version: str) -> None:
    torch.manual_seed(0)
    fast, plain, given = CASES[name]()
    for ours, theirs in zip(fast(**given), plain(**given), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_cases_cover_both_chunk_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    plan = chunking.plan
    monkeypatch.setattr(chunking, "plan", lambda *given: plans.append(plan(*given)) or plans[-1])
    for name in ("ssd, slow", "ssd, fast"):
        torch.manual_seed(0)
        fast, _, given = CASES[name]()
        fast(**given)
    assert [found is None for found in plans] == [False, True]


@torch.no_grad()
def test_layers_in_evaluation_equal_plain_ones() -> None:
    torch.manual_seed(0)
    plain = [nn.Conv2d(3, 4, 3, bias=bias) for bias in (False, True)]
    for conv in plain:
        norm = nn.BatchNorm2d(4)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        layers = (conv, norm, nn.SiLU())
        x = torch.randn(2, 3, 8, 8)
        expected = nn.Sequential(*layers).eval()(x)
        torch.testing.assert_close(ConvLayers(*layers).eval()(x), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("inplace", [False, True])
def test_a_step_overwrites_its_state_only_if_requested(inplace: bool, version: str) -> None:
    state, decay = normal(5, 3, 4, grad=False), torch.rand(5, 3, 1, dtype=torch.float64)
    inputs, B, C = normal(5, 1, 3, 1), normal(5, 1, 1, 4), normal(5, 1, 1, 4)
    before = state.clone()
    y, after = recurrent_step(state, lambda rows: decay[rows], inputs, B, C, inplace=inplace)
    expected = before * decay + (inputs * B)[:, 0]
    torch.testing.assert_close(after, expected)
    torch.testing.assert_close(y, (expected @ C[:, 0].mT).mT[:, None])
    assert (after is state) == inplace
    assert torch.equal(state, after if inplace else before)
