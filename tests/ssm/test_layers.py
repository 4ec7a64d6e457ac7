"""Properties of the layers beyond the four laws: types, initial values, errors, pure steps."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drama.errors import ConfigError
from drama.ops.conv1d import causal_conv1d_silu, causal_conv1d_silu_step
from drama.ops.rms_norm import GatedRMSNorm
from drama.ssm import Mamba1, Mamba2

LAYERS: dict[str, Any] = {
    "mamba1": lambda: Mamba1(32, d_state=8),
    "mamba2": lambda: Mamba2(32, d_state=8, headdim=16, ngroups=2, chunk_size=16),
}


@pytest.mark.parametrize("name", LAYERS)
def test_autocast_uses_bfloat16_and_keeps_the_state_in_float32(name: str) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    x = torch.randn(2, 40, 32)
    expected, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        stepped, _ = layer.step(x[:, 0], layer.init_state(2))
    assert y.dtype == stepped.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32
    assert (y - expected).norm() < 0.02 * expected.norm()
    assert (stepped - expected[:, 0]).norm() < 0.02 * expected[:, 0].norm()
    y.float().square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("grad", [False, True])
def test_step_does_not_change_the_given_state(name: str, grad: bool) -> None:
    layer = LAYERS[name]()
    x = torch.randn(2, 32)
    _, state = layer(torch.randn(2, 5, 32))
    before = [t.detach().clone() for t in state]
    with torch.set_grad_enabled(grad):
        layer.step(x, state)
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_in_place_step_equals_an_ordinary_step(name: str, autocast: bool) -> None:
    layer = LAYERS[name]()
    x = torch.randn(2, 32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        _, state = layer(torch.randn(2, 5, 32))
        expected, carried = layer.step(x, state)
        place = state.ssm.data_ptr()
        y, state = layer.step(x, state, inplace=True)
    assert state.ssm.data_ptr() == place
    for a, b in zip((y, *state), (expected, *carried), strict=True):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_state_shape_does_not_depend_on_the_input_length(name: str) -> None:
    layer = LAYERS[name]()
    shapes = [t.shape for t in layer.init_state(2)]
    for length in (1, 2, 3, 40):
        assert [t.shape for t in layer(torch.randn(2, length, 32))[1]] == shapes
    assert [t.shape for t in layer.step(torch.randn(2, 32), layer.init_state(2))[1]] == shapes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_initial_state_has_the_types_of_a_carried_state(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]().to(dtype)
    x = torch.randn(2, 5, 32, dtype=dtype)
    _, after = layer(x)
    state = layer.init_state(2)
    assert [v.dtype for v in state] == [v.dtype for v in after]
    assert state.ssm.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for t in range(5):
        y, state = layer.step(x[:, t], state)
    assert y.dtype == dtype
    torch.testing.assert_close(state.ssm, after.ssm, rtol=2e-2, atol=2e-2)


def test_initial_values() -> None:
    torch.manual_seed(0)
    layer = Mamba2(512, headdim=2)
    dt = F.softplus(layer.dt_bias)
    assert 1e-3 * 0.999 <= dt.min() < 1.2e-3
    assert 0.09 < dt.max() <= 0.1 * 1.001
    assert dt.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.2)
    A = layer.A_log.exp()
    assert 1 <= A.min() < 1.2
    assert 15.8 < A.max() <= 16.001
    assert A.mean().item() == pytest.approx(8.5, abs=0.7)
    assert torch.equal(layer.D, torch.ones(512))
    first = Mamba1(64, d_state=4)
    torch.testing.assert_close(first.A_log.exp(), torch.tensor([[1.0, 2, 3, 4]]).expand(128, 4))
    dt = F.softplus(first.dt_proj.bias)
    assert 1e-3 * 0.999 <= dt.min() <= dt.max() <= 0.1 * 1.001


@pytest.mark.parametrize("parameter", ["A_log", "dt_bias", "D"])
def test_ssm_parameters_are_not_rounded_under_autocast(parameter: str) -> None:
    # 1.001 is not a bfloat16: if the parameter were cast, the change would have no effect.
    torch.manual_seed(0)
    layer = Mamba2(32, d_state=8, headdim=16)
    x = torch.randn(1, 64, 32)
    getattr(layer, parameter).data.fill_(1.0)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        state = layer(x)[1].ssm
        y = layer.step(x[:, 0], layer.init_state(1))[0]
        getattr(layer, parameter).data.fill_(1.001)
        changed = layer(x)[1].ssm
    if parameter == "D":
        assert torch.equal(state, changed)
        assert y.isfinite().all()
    else:
        assert not torch.equal(state, changed)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 0}, "d_model must be at least 1"),
        ({"d_model": 32, "headdim": 48}, "must divide expand"),
        ({"d_model": 32, "headdim": 16, "ngroups": 3}, "must divide the 4 heads"),
        ({"d_model": 32, "d_conv": 0}, "d_conv"),
    ],
)
def test_mamba2_reports_a_wrong_size(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mamba2(**sizes)


def test_mamba1_reports_a_wrong_size() -> None:
    with pytest.raises(ConfigError, match="dt_rank must be at least 1"):
        Mamba1(32, dt_rank=0)


def test_convolution_matches_hand_computed_values() -> None:
    def check(sums: list[float], recent: list[float], result: tuple[Tensor, Tensor]) -> None:
        torch.testing.assert_close(result[0].flatten(), F.silu(torch.tensor(sums)))
        assert result[1].flatten().tolist() == recent

    weight = torch.tensor([[[100.0, 10.0, 1.0]]]) / 100
    bias = torch.tensor([0.5])
    x = torch.tensor([3.0, 4.0, 5.0, 6.0]).view(1, 4, 1)
    history = torch.tensor([1.0, 2.0]).view(1, 2, 1)

    def conv(*is_first: bool) -> tuple[Tensor, Tensor]:
        resets = torch.tensor([is_first]) if is_first else None
        return causal_conv1d_silu(x, weight, bias, history, resets)

    check([1.73, 2.84, 3.95, 5.06], [5.0, 6.0], conv())
    check([1.73, 0.54, 0.95, 5.06], [5.0, 6.0], conv(False, True, False, False))
    check([1.73, 2.84, 3.95, 0.56], [0.0, 6.0], conv(False, False, False, True))
    one = causal_conv1d_silu(x[:, :1], weight, bias, history)
    check([1.73], [2.0, 3.0], one)
    check([1.73], [2.0, 3.0], causal_conv1d_silu_step(x[:, 0], weight, bias, history))


def test_convolution_step_is_as_precise_as_a_window() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, 24, generator=g).bfloat16()
    weight, bias = torch.randn(24, 1, 4, generator=g), torch.randn(24, generator=g)
    window, recent = causal_conv1d_silu(x, weight, bias)
    step, history = causal_conv1d_silu_step(x[:, 3], weight, bias, x[:, :3])
    assert step.dtype == torch.bfloat16
    assert torch.equal(history, recent)
    exact, _ = causal_conv1d_silu(x.double(), weight.double(), bias.double())
    for y in (step, window[:, 3]):  # one rounding to eight digits, of the result
        assert ((y.double() - exact[:, 3]).abs() <= 2.0**-8 * exact[:, 3].abs() + 1e-6).all()


def test_convolution_equals_that_of_torch() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 9, 6), torch.randn(6, 1, 4), torch.randn(6)
    for b in (bias, None):
        expected = F.silu(F.conv1d(x.transpose(1, 2), weight, b, padding=3, groups=6)[..., :9])
        y, _ = causal_conv1d_silu(x, weight, b)
        torch.testing.assert_close(y, expected.transpose(1, 2))
        step, _ = causal_conv1d_silu_step(x[:, 3], weight, b, x[:, :3])
        torch.testing.assert_close(step, expected[..., 3])


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocked_gradients_of_convolution_and_norm_are_correct(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def blocks(total: int, *_: object) -> list[slice]:
        return [slice(i, min(i + rows, total)) for i in range(0, total, rows)]

    monkeypatch.setattr("drama.ops.blocking.row_blocks", blocks)
    monkeypatch.setattr("drama.ops.rms_norm.row_blocks", blocks)
    torch.manual_seed(0)
    is_first = torch.tensor([[0, 0, 0, 1, 0], [1, 0, 1, 1, 0], [0, 0, 0, 0, 1]]).bool()

    def conv(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d_silu(*tensors, is_first=is_first)

    def double(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    inputs = [double(3, 5, 2), double(2, 1, 4), double(2), double(3, 3, 2)]
    assert torch.autograd.gradcheck(conv, inputs)
    norm = GatedRMSNorm(4, groups=2).double()

    def gated(y: Tensor, z: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, (y, z))

    assert torch.autograd.gradcheck(gated, [double(5, 4), double(5, 4), double(4)])


def test_gated_norm_matches_hand_computed_values() -> None:
    norm = GatedRMSNorm(4, groups=2, eps=0.0)
    norm.weight.data = torch.tensor([1.0, 1.0, 1.0, 10.0])
    gate = torch.full((1, 4), 2.0)
    y = torch.tensor([[3.0, 4.0, 0.0, 5.0]])
    # A constant gate cancels: (3, 4) / 3.5355 and (0, 5) / 3.5355.
    expected = torch.tensor([[0.848528, 1.131371, 0.0, 14.142136]])
    torch.testing.assert_close(norm(y, gate), expected)


@pytest.mark.parametrize("length", [2, 3, 40])
def test_returned_history_is_a_copy(length: int) -> None:
    x, filters = torch.randn(2, length, 8), torch.randn(8, 1, 4)
    _, recent = causal_conv1d_silu(x, filters, None)
    recent.fill_(7.0)
    assert not (x == 7.0).any()
    assert recent.untyped_storage().nbytes() == 2 * 3 * 8 * 4  # not the whole window's


@pytest.mark.parametrize("name", LAYERS)
def test_state_of_a_wrong_shape_is_reported(name: str) -> None:
    layer, other = LAYERS[name](), LAYERS["mamba1" if name == "mamba2" else "mamba2"]()
    x, kind = torch.zeros(2, 3, 32), type(layer).__name__
    for batch in (1, 3):  # 1 would be broadcast
        state = layer.init_state(batch)
        for call in (lambda s: layer(x, None, s), lambda s: layer.step(x[:, 0], s)):
            with pytest.raises(ConfigError, match=rf"{kind}: state\.conv must be \(2, 3, "):
                call(state)
            with pytest.raises(ConfigError, match=rf"{kind}: state\.ssm must be \(2, "):
                call(state._replace(conv=layer.init_state(2).conv))
    for wrong in (other.init_state(2), tuple(layer.init_state(2)), "a"):
        with pytest.raises(ConfigError, match=f"{kind}: the state must be a {kind}State, got"):
            layer(x, None, wrong)
        with pytest.raises(ConfigError, match=f"{kind}: the state must be a {kind}State, got"):
            layer.step(x[:, 0], wrong)
    with pytest.raises(ConfigError, match=f"{kind}: step needs a state"):
        layer.step(x[:, 0], None)


@pytest.mark.parametrize("name", LAYERS)
def test_input_of_a_wrong_shape_is_reported(name: str) -> None:
    layer = LAYERS[name]()
    for shape in ((2, 32), (2, 0, 32), (2, 3, 31), (1, 2, 3, 32)):
        with pytest.raises(ConfigError, match=r"the input must be \(B, T, 32\), got"):
            layer(torch.zeros(shape))
    for shape in ((32,), (2, 3, 32), (2, 31)):
        with pytest.raises(ConfigError, match=r"the input must be \(B, 32\), got"):
            layer.step(torch.zeros(shape), layer.init_state(2))
