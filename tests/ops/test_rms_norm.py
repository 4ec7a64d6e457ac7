"""RMSNorm on a CPU against its formula, with and without SiLU, in all sizes and types."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from drama.ops import rms_norm as norm
from drama.ops.rms_norm import RMSNorm, RMSNormSiLU

KINDS = [RMSNorm, RMSNormSiLU]


def formula(layer: RMSNorm, x: Tensor) -> Tensor:
    y = x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight
    return F.silu(y) if isinstance(layer, RMSNormSiLU) else y


def build(kind: type[RMSNorm], size: int, dtype: torch.dtype = torch.float32) -> RMSNorm:
    layer = kind(size)
    layer.weight.data.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(1))
    return layer.to(dtype)


def close(left: Tensor, right: Tensor, digits: float) -> None:
    assert left.shape == right.shape
    assert (left.double() - right.double()).norm() <= digits * right.double().norm()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("few", [0, 2**15])
@pytest.mark.parametrize("shape", [(5,), (3, 5), (700, 3, 256), (1, 2**16 + 8), (9000, 5)])
def test_values_and_gradients_equal_the_formula(
    kind: type[RMSNorm], few: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one row to several blocks, on the code path of each size."""
    monkeypatch.setattr(norm, "_FEW_ELEMENTS", few)
    g = torch.Generator().manual_seed(0)
    x = (3 * torch.randn(shape, generator=g, dtype=torch.float64)).requires_grad_()
    dy = torch.randn(shape, generator=g, dtype=torch.float64)
    exact = build(kind, shape[-1], torch.float64)
    expected = formula(exact, x)
    gradients = torch.autograd.grad(expected, [x, exact.weight], dy)
    for dtype, digits in (
        (torch.float64, 1e-12),
        (torch.float32, 2e-6),
        (torch.bfloat16, 0.02),
    ):
        # A weight stays in float32 where its input was rounded.
        layer = build(kind, shape[-1], torch.float64 if dtype == torch.float64 else torch.float32)
        given = x.detach().to(dtype).requires_grad_()
        y = layer(given)
        assert y.dtype == dtype
        close(y, expected, digits)
        y.backward(dy.to(dtype))
        for found, gradient in zip((given.grad, layer.weight.grad), gradients, strict=True):
            assert found is not None
            close(found, gradient, digits)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_pass_gradcheck(kind: type[RMSNorm], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "_FEW_ELEMENTS", 0)
    layer = build(kind, 4, torch.float64)
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def run(x: Tensor, weight: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, {"weight": weight}, (x,))
        return out

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), layer.weight))


@pytest.mark.parametrize("kind", KINDS)
def test_non_contiguous_inputs(kind: type[RMSNorm]) -> None:
    g = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 300, 2, 64, generator=g)
    layer = build(kind, 64)
    for view in (wide[..., 0, :], wide.transpose(0, 1), wide.transpose(1, 2)):
        assert view.numel() > norm._FEW_ELEMENTS
        before = view.clone()
        torch.testing.assert_close(layer(view), formula(layer, view))
        assert torch.equal(view, before)


def test_float32_statistics_under_autocast() -> None:
    # In bfloat16 the mean of these squares would be lost.
    x = torch.full((512, 1024), 1.0, dtype=torch.bfloat16)
    x[:, 0] = 64.0
    layer = build(RMSNorm, 1024)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.requires_grad_())
        y.sum().backward()  # here too, although products with a vector are part of it
    assert y.dtype == torch.bfloat16
    plain = build(RMSNorm, 1024)
    formula(plain, x.detach().float()).sum().backward()
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    close(layer.weight.grad, plain.weight.grad, 1e-5)
