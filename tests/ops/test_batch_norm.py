"""Fused BatchNorm and SiLU: values, gradients and running statistics of the two in sequence."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from drama.ops import dispatch
from drama.ops.batch_norm import ConvLayers, batch_norm_silu


def build(channels: int, dtype: torch.dtype = torch.float32) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    g = torch.Generator().manual_seed(1)
    norm.weight.data.uniform_(0.5, 2.0, generator=g)
    norm.bias.data.normal_(generator=g)
    return norm.to(dtype)


def images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


def both(norm: nn.BatchNorm2d, x: Tensor, dy: Tensor, *, fused: bool) -> dict[str, Tensor]:
    """All results of a forward and a backward pass."""
    norm, x = copy.deepcopy(norm), x.clone().requires_grad_()
    y = batch_norm_silu(norm, x) if fused else nn.functional.silu(norm(x))
    given = x.detach().clone()
    y.backward(dy)
    assert torch.equal(x, given)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert x.grad is not None
    grads = {f"d {name}": p.grad for name, p in norm.named_parameters() if p.grad is not None}
    return {"y": y.detach(), "dx": x.grad, **grads, **dict(norm.named_buffers())}


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 2e-6), (torch.bfloat16, 0.01)]
)
@pytest.mark.parametrize("shape", [(5, 3, 4, 4), (32, 16, 8, 8), (3, 1, 1, 1)])
def test_values_gradients_and_statistics_equal_the_unfused_ones(
    shape: tuple[int, ...], dtype: torch.dtype, digits: float
) -> None:
    wide = torch.float64
    exact = both(build(shape[1], wide), images(*shape).to(dtype).to(wide),
                 images(*shape, dtype=dtype).flip(0).to(wide), fused=False)  # fmt: skip
    norm = build(shape[1], wide if dtype == wide else torch.float32)  # weights are not rounded
    found = both(norm, images(*shape, dtype=dtype), images(*shape, dtype=dtype).flip(0), fused=True)
    assert found.keys() == exact.keys()
    for name, value in exact.items():
        error = (found[name].double() - value.double()).norm()
        assert error <= digits * value.double().norm(), name
    assert found["y"].dtype == found["dx"].dtype == dtype


def test_gradients_pass_gradcheck() -> None:
    norm = build(2, torch.float64)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parts = {"weight": weight, "bias": bias}
        out: Tensor = torch.func.functional_call(
            ConvLayers(norm, nn.SiLU()), {f"0.{k}": v for k, v in parts.items()}, (x,)
        )
        return out

    x = images(3, 2, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, norm.weight, norm.bias))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("host", [True, False])
def test_sequence_equals_that_of_torch(
    training: bool, grad: bool, host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every code path, including a separate SiLU, a separate norm and a norm at the end."""
    if not host:
        monkeypatch.setattr(dispatch, "_HOSTS", ())
    torch.manual_seed(0)
    layers = [nn.SiLU(), build(4), nn.SiLU(), nn.Conv2d(4, 4, 3), build(4), nn.Tanh(), build(4)]
    plain = nn.Sequential(*layers).train(training)
    ours = ConvLayers(*copy.deepcopy(layers)).train(training)
    assert ours.state_dict().keys() == plain.state_dict().keys()
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(ours(images(6, 4, 5, 5)), plain(images(6, 4, 5, 5)))
    for (name, found), expected in zip(ours.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


def test_only_the_input_is_saved_for_the_backward_pass() -> None:
    norm, x = build(16), images(32, 16, 8, 8).requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (kept.append(t.data_ptr()) if t.numel() == x.numel() else None, t)[1],
        lambda t: t,
    ):
        batch_norm_silu(norm, x)
    assert kept == [x.data_ptr()]
