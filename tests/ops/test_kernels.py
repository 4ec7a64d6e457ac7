"""The kernels' adapters against the PyTorch operations.

Everything runs on stand-ins that check the real kernels' requirements, and, on a GPU with both
packages (``pytest -m gpu``), on the real kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from tests.ops import fake_kernels
from torch import Tensor

from drama.dynamics import where_state
from drama.ops import backend, conv1d, kernels
from drama.ops.backend import choose_backend
from drama.ssm import Mamba1, Mamba2, selective_scan, ssd
from drama.ssm.selective_scan import selective_scan_step
from drama.ssm.ssd import ssd_step

LENGTHS = [1, 2, 3, 17, 70]
BATCH = 3


@pytest.fixture(params=["stand-ins", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    backend._packages.cache_clear()
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        found = choose_backend(torch.device("cuda"))
        if found.name != "kernels":
            pytest.skip(found.reason)
        yield "cuda"
    else:
        fake_kernels.install(monkeypatch)
        monkeypatch.setattr(backend, "_device_obstacle", lambda device: None)
        yield "cpu"
    backend._packages.cache_clear()


def tolerance(device: str, dtype: torch.dtype, *, products: bool = False) -> float:
    """Largest relative error, in the norm."""
    if dtype != torch.float32:
        return 2e-2
    return 1e-5 if device == "cpu" or not products else 5e-3  # matrix products in TF32


def resets(length: int) -> Tensor:
    """None in row 0; the first and the last step in row 1; two in a row in row 2."""
    is_first = torch.zeros(BATCH, length, dtype=torch.bool)
    is_first[1, 0] = is_first[1, -1] = True
    is_first[2, length // 2 : length // 2 + 2] = True
    return is_first


class Inputs:
    """Random tensors with gradients, sampled on the CPU so that they are the same everywhere."""

    def __init__(self, device: str, seed: int = 0) -> None:
        self.device = device
        self.generator = torch.Generator().manual_seed(seed)
        self.leaves: list[Tensor] = []

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self._leaf(torch.randn(shape, generator=self.generator).to(dtype))

    def positive(self, *shape: int) -> Tensor:
        return self._leaf(torch.rand(shape, generator=self.generator) * 0.5)

    def negative(self, *shape: int) -> Tensor:
        return self._leaf(-4 * torch.rand(shape, generator=self.generator) - 0.1)

    def _leaf(self, tensor: Tensor) -> Tensor:
        leaf = tensor.to(self.device).requires_grad_()
        self.leaves.append(leaf)
        return leaf


def compare(
    inputs: Inputs,
    kernel: Callable[[], tuple[Tensor, Tensor]],
    plain: Callable[[], tuple[Tensor, Tensor]],
    limit: float,
) -> None:
    """Same shapes, types, values; and gradients, of outputs and final state, for every leaf."""
    ours, theirs = plain(), kernel()
    weights = [torch.randn(t.shape, generator=inputs.generator).to(t.device) for t in ours]
    for name, a, b in zip(("y", "state"), theirs, ours, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert (a - b).norm() <= limit * b.norm() + 1e-12, name
    gradients = []
    for result in (theirs, ours):
        total = sum((t.float() * w).sum() for t, w in zip(result, weights, strict=True))
        gradients.append(torch.autograd.grad(total, inputs.leaves, materialize_grads=True))
    for index, (a, b) in enumerate(zip(*gradients, strict=True)):
        assert a.dtype == b.dtype
        assert (a - b).norm() <= 2 * limit * b.norm() + 1e-12, f"gradient {index}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps", [2, 4])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("length", LENGTHS[:-1])
def test_convolution_equals_the_pytorch_operation(
    device: str, length: int, reset: bool, carried: bool, taps: int, dtype: torch.dtype
) -> None:
    inputs = Inputs(device, length)
    arguments = (
        inputs.normal(BATCH, length, 16, dtype=dtype),
        inputs.normal(16, 1, taps),
        inputs.normal(16),
        inputs.normal(BATCH, taps - 1, 16, dtype=dtype) if carried else None,
        resets(length).to(device) if reset else None,
    )
    compare(
        inputs,
        lambda: kernels.causal_conv1d_silu(*arguments),
        lambda: conv1d.causal_conv1d_silu(*arguments),
        tolerance(device, dtype),
    )


def test_convolution_of_a_strided_view(device: str) -> None:
    inputs = Inputs(device)
    wide = inputs.normal(BATCH, 5, 35)  # a stride that the kernel does not support
    weight, bias = inputs.normal(16, 1, 4), inputs.normal(16)
    compare(
        inputs,
        lambda: kernels.causal_conv1d_silu(wide[..., 3:19], weight, bias),
        lambda: conv1d.causal_conv1d_silu(wide[..., 3:19], weight, bias),
        tolerance(device, torch.float32),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("carried", [False, True])
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("length", LENGTHS)
def test_ssd_equals_the_pytorch_operation(
    device: str, length: int, reset: bool, carried: bool, dtype: torch.dtype
) -> None:
    inputs = Inputs(device, length)
    heads, headdim, groups, d_state = 4, 16, 2, 16
    arguments = (
        inputs.normal(BATCH, length, heads, headdim, dtype=dtype),
        inputs.positive(BATCH, length, heads),
        inputs.negative(heads),
        inputs.normal(BATCH, length, groups, d_state, dtype=dtype),
        inputs.normal(BATCH, length, groups, d_state, dtype=dtype),
    )
    options = {
        "D": inputs.normal(heads),
        "chunk_size": 20,
        "initial_state": inputs.normal(BATCH, heads, headdim, d_state) if carried else None,
        "is_first": resets(length).to(device) if reset else None,
    }
    compare(
        inputs,
        lambda: kernels.ssd(*arguments, **options),
        lambda: ssd(*arguments, **options),
        tolerance(device, dtype, products=True),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan_equals_the_pytorch_operation(
    device: str, length: int, dtype: torch.dtype
) -> None:
    inputs = Inputs(device, length)
    channels, d_state = 24, 16
    arguments = (
        inputs.normal(BATCH, length, channels, dtype=dtype),
        inputs.positive(BATCH, length, channels),
        inputs.negative(channels, d_state),
        inputs.normal(BATCH, length, d_state, dtype=dtype),
        inputs.normal(BATCH, length, d_state, dtype=dtype),
    )
    D = inputs.normal(channels)
    compare(
        inputs,
        lambda: kernels.selective_scan(*arguments, D=D),
        lambda: selective_scan(*arguments, D=D),
        tolerance(device, dtype),
    )


def test_selective_scan_refuses_unsupported_inputs(device: str) -> None:
    x, maps = torch.ones(1, 2, 8, device=device), torch.ones(1, 2, 4, device=device)
    for option in ({"initial_state": torch.ones(1, 8, 4)}, {"is_first": torch.ones(1, 2).bool()}):
        with pytest.raises(NotImplementedError):
            kernels.selective_scan(x, x, -torch.ones(8, 4, device=device), maps, maps, **option)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("skip", [False, True])
@torch.no_grad()
def test_single_steps_equal_the_pytorch_operations(
    device: str, skip: bool, dtype: torch.dtype
) -> None:
    inputs = Inputs(device)
    heads, headdim, d_state = 4, 16, 16
    D = inputs.normal(heads) if skip else None
    two = (
        inputs.normal(BATCH, heads, headdim, dtype=dtype),
        inputs.positive(BATCH, heads),
        inputs.negative(heads),
        inputs.normal(BATCH, 2, d_state, dtype=dtype),
        inputs.normal(BATCH, 2, d_state, dtype=dtype),
        inputs.normal(BATCH, heads, headdim, d_state),
    )
    one = (
        inputs.normal(BATCH, 24, dtype=dtype),
        inputs.positive(BATCH, 24),
        inputs.negative(24, d_state),
        inputs.normal(BATCH, d_state, dtype=dtype),
        inputs.normal(BATCH, d_state, dtype=dtype),
        inputs.normal(BATCH, 24, d_state),
    )
    skip_one = {"D": inputs.normal(24) if skip else None}
    three = (one[0], inputs.normal(24, 1, 4), inputs.normal(24), inputs.normal(BATCH, 3, 24))
    cases: list[tuple[Any, Any, tuple[Tensor, ...], dict[str, Any]]] = [
        (kernels.ssd_step, ssd_step, two, {"D": D}),
        (kernels.selective_scan_step, selective_scan_step, one, skip_one),
        (kernels.causal_conv1d_silu_step, conv1d.causal_conv1d_silu_step, three, {}),
    ]
    for kernel, plain, arguments, options in cases:
        before = [t.clone() for t in arguments]
        results = kernel(*arguments, **options), plain(*arguments, **options)
        for a, b in zip(*results, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            assert (a - b).norm() <= tolerance(device, dtype) * b.norm()
        # The inputs, the state above all, are unchanged.
        assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))
        if kernel is not kernels.causal_conv1d_silu_step:
            y, state = kernel(*arguments, **options, inplace=True)
            assert torch.equal(y, results[0][0])
            assert state is arguments[-1]
            assert torch.equal(state, results[0][1])


# -- the layers on the kernels -----------------------------------------------------------------


def layer_and_input(name: str, device: str) -> tuple[Any, Tensor, Any]:
    """A layer without initial values, a window, and a carried state."""
    torch.manual_seed(0)
    layer: Any = Mamba1(32, d_state=8) if name == "mamba1" else Mamba2(32, 16, headdim=16)
    for parameter in layer.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x, before = torch.randn(BATCH, 9, 32), torch.randn(BATCH, 4, 32)
    with torch.no_grad():
        layer.backend = "torch"
        state = layer(before)[1]
        layer.backend = "auto"
    return layer.to(device), x.to(device), type(state)(*(t.to(device) for t in state))


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_layer_on_kernels_equals_pytorch_under_autocast(name: str, device: str) -> None:
    layer, x, state = layer_and_input(name, device)
    is_first = resets(9).to(device) if name == "mamba2" else None
    carried = state if name == "mamba2" else None
    x.requires_grad_()
    results = {}
    for backend_name in ("kernels", "torch"):
        layer.backend = backend_name
        with torch.autocast(device, torch.bfloat16):
            y, end = layer(x, is_first, carried)
        total = y.float().square().sum() + sum(t.float().square().sum() for t in end)
        wanted = [x, *layer.parameters()]
        results[backend_name] = [y, *end, *torch.autograd.grad(total, wanted)]
    for index, (a, b) in enumerate(zip(*results.values(), strict=True)):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert (a - b).norm() <= 3e-2 * b.norm(), index


@torch.no_grad()
def test_the_laws_hold_on_the_kernels(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In float32, so that a violation cannot hide behind rounding.
    monkeypatch.setattr(backend, "window_obstacle", lambda *_, **__: None)
    layer, x, state = layer_and_input("mamba2", device)
    is_first = resets(9).to(device)
    limit = tolerance(device, torch.float32, products=True)

    def same(a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=limit, atol=10 * limit)

    whole, end = layer(x, is_first, state)
    # A pass over a window equals its steps, resets included.
    carried = state
    for t in range(9):
        carried = where_state(is_first[:, t], layer.init_state(BATCH), carried)
        y, carried = layer.step(x[:, t], carried)
        same(y, whole[:, t])
    for a, b in zip(carried, end, strict=True):
        same(a, b)
    # A pass in two parts equals one over all.
    for cut in (1, 2, 5):
        first, middle = layer(x[:, :cut], is_first[:, :cut], state)
        second, last = layer(x[:, cut:], is_first[:, cut:], middle)
        same(torch.cat([first, second], dim=1), whole)
        for a, b in zip(last, end, strict=True):
            same(a, b)
    # A reset equals a fresh start.
    reset = torch.zeros_like(is_first)
    reset[:, 3] = True
    after, fresh = layer(x[:, 3:])
    y, end = layer(x, reset, state)
    same(y[:, 3:], after)
    for a, b in zip(end, fresh, strict=True):
        same(a, b)
    # No output depends on a later input.
    later = x.clone()
    later[:, 5:] += 1
    same(layer(later, is_first, state)[0][:, :5], whole[:, :5])
