"""Two-hot codes over symlog space, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from drama.actions import ActionSpace
from drama.config import TwoHotDecode, WorldModelConfig
from drama.dynamics import DynamicsConfig
from drama.observations import ObsSpace
from drama.world_model import TwoHot, WorldModel, symexp, symlog
from drama.world_model.heads import MLP


def code(twohot: TwoHot, value: float) -> Tensor:
    """The dense two-hot code that the loss implies: its gradient is softmax(logits) - code."""
    logits = torch.zeros(twohot.bins.shape[0], dtype=torch.float32, requires_grad=True)
    twohot.loss(logits, torch.tensor(value)).backward()
    assert logits.grad is not None
    return torch.softmax(logits.detach(), -1) - logits.grad


def test_symlog_and_symexp_by_hand() -> None:
    x = torch.tensor([-(math.e**2 - 1), -1.0, 0.0, math.e - 1])
    torch.testing.assert_close(symlog(x), torch.tensor([-2.0, -math.log(2), 0.0, 1.0]))
    torch.testing.assert_close(symexp(symlog(x)), x)


@given(st.floats(-1e8, 1e8))
def test_symexp_inverts_symlog(value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64)
    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-9, atol=1e-12)


def test_bins_are_symmetric_with_an_exact_zero_and_exact_ends() -> None:
    twohot = TwoHot()
    assert twohot.bins.shape == (255,)
    assert twohot.bins[127] == 0.0
    assert twohot.bins[0] == -20.0
    assert twohot.bins[-1] == 20.0
    assert torch.equal(twohot.bins, -twohot.bins.flip(0))
    torch.testing.assert_close(twohot.bins.diff(), torch.full((254,), 40 / 254), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("symlog_value", "expected"),
    [
        (0.0, [0, 0, 1, 0, 0]),
        (0.25, [0, 0, 0.75, 0.25, 0]),
        (-0.25, [0, 0.25, 0.75, 0, 0]),
        (1.0, [0, 0, 0, 1, 0]),
        (-1.5, [0.5, 0.5, 0, 0, 0]),
        (2.0, [0, 0, 0, 0, 1]),
        (-2.0, [1, 0, 0, 0, 0]),
        (7.0, [0, 0, 0, 0, 1]),
        (-7.0, [1, 0, 0, 0, 0]),
    ],
)
def test_codes_by_hand(symlog_value: float, expected: list[float]) -> None:
    # Bins -2, -1, 0, 1, 2 in symlog space; what lies beyond is clamped to the outermost.
    value = math.copysign(math.expm1(abs(symlog_value)), symlog_value)
    torch.testing.assert_close(
        code(TwoHot(5, 2.0), value), torch.tensor(expected, dtype=torch.float32), atol=1e-5, rtol=0
    )


def test_loss_is_the_cross_entropy_to_the_code() -> None:
    twohot = TwoHot(5, 2.0)
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.0])
    log_probs = logits - logits.exp().sum().log()
    expected = -(0.75 * log_probs[2] + 0.25 * log_probs[3])
    torch.testing.assert_close(twohot.loss(logits, torch.tensor(math.expm1(0.25))), expected)


@pytest.mark.parametrize(
    "value", [0.0, 1.0, -1.0, 0.01, -0.3, 21.0, 300.0, -12_345.0, 1e6, math.expm1(20.0)]
)
def test_decoding_a_code_gives_the_value_back(value: float) -> None:
    twohot = TwoHot()
    weights = code(twohot, value).clamp_min(0.0)
    decoded = twohot.decode(weights.log())
    assert decoded.item() == pytest.approx(value, rel=2e-4, abs=1e-4)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_values_beyond_the_outermost_bin_are_clamped_to_it(sign: float) -> None:
    twohot = TwoHot()
    for value in (1e12, math.inf):
        weights = code(twohot, sign * value)
        assert weights.argmax() == (254 if sign > 0 else 0)
        decoded = twohot.decode(weights.clamp_min(0).log())
        assert decoded.item() == pytest.approx(sign * math.expm1(20.0), rel=1e-3)


@given(st.floats(-1e6, 1e6))
def test_a_code_has_two_neighbouring_weights_that_sum_to_one(value: float) -> None:
    weights = code(TwoHot(), value)
    assert weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    used = (weights > 1e-4).nonzero().flatten()
    assert 1 <= len(used) <= 2
    assert used[-1] - used[0] <= 1


def test_a_value_on_a_bin_uses_that_bin() -> None:
    twohot = TwoHot()
    for k in range(0, 255, 6):
        weights = code(twohot, symexp(twohot.bins[k].double()).item())
        assert weights[k].item() == pytest.approx(1.0, abs=1e-3), k


def test_the_code_of_zero_is_the_centre_bin_alone() -> None:
    assert code(TwoHot(), 0.0)[127].item() == pytest.approx(1.0, abs=1e-6)


def test_half_precision_logits_are_read_in_float32() -> None:
    twohot = TwoHot()
    logits = torch.randn(8, 255, generator=torch.Generator().manual_seed(0)).bfloat16()
    target = torch.linspace(-50, 50, 8)
    assert twohot.loss(logits, target).dtype == torch.float32
    torch.testing.assert_close(twohot.loss(logits, target), twohot.loss(logits.float(), target))
    torch.testing.assert_close(twohot.decode(logits), twohot.decode(logits.float()))


def test_shapes() -> None:
    twohot = TwoHot(9, 3.0)
    assert twohot.decode(torch.zeros(4, 5, 9)).shape == (4, 5)
    assert twohot.loss(torch.zeros(4, 5, 9), torch.zeros(4, 5)).shape == (4, 5)


def test_a_head_that_starts_at_zero_predicts_zero() -> None:
    head = MLP(6, 255, layers=1, units=8, zero_init=True)
    x = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(head(x), torch.zeros(16, 255))
    assert TwoHot().decode(head(x)).abs().max() < 1e-5
    assert MLP(6, 255, layers=1, units=8)(x).abs().max() > 0


def test_several_targets_at_once_are_the_targets_one_by_one() -> None:
    twohot = TwoHot(21, 5.0)
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 21, generator=g, requires_grad=True)
    targets = 30 * torch.randn(4, 3, 2, generator=g)
    weight = torch.rand(4, 3, 2, generator=g)
    together = twohot.losses(logits, targets)
    alone = torch.stack([twohot.loss(logits, t) for t in targets.unbind(-1)], dim=-1)
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    found = torch.autograd.grad((weight * together).sum(), logits)
    expected = torch.autograd.grad((weight * alone).sum(), logits)
    torch.testing.assert_close(found, expected)


DECODES: list[TwoHotDecode] = ["symexp-mean", "mean-symexp"]


@pytest.mark.parametrize(("decode", "expected"), [("symexp-mean", 0.59), ("mean-symexp", 10.03)])
def test_decoding_an_uncertain_outcome(decode: TwoHotDecode, expected: float) -> None:
    # 0 with probability 0.9 and 100 with 0.1, predicted perfectly.
    twohot = TwoHot(decode=decode)
    weights = (0.9 * code(twohot, 0.0) + 0.1 * code(twohot, 100.0)).clamp_min(0.0)
    assert twohot.decode(weights.log()).item() == pytest.approx(expected, abs=0.005)


def test_both_decodes_by_hand() -> None:
    # Bins -2 .. 2 with probabilities 0.1, 0, 0.5, 0, 0.4: the mean bin is 0.6.
    logits = torch.tensor([0.1, 0.0, 0.5, 0.0, 0.4]).log()
    mean, value = (TwoHot(5, 2.0, decode).decode(logits).item() for decode in DECODES)
    assert mean == pytest.approx(math.expm1(0.6), rel=1e-6)
    assert value == pytest.approx(0.3 * math.expm1(2.0), rel=1e-6)


@pytest.mark.parametrize("level", [0.0, 3.7])
@pytest.mark.parametrize("bins", [3, 21, 255])
def test_the_mean_of_symexp_is_exactly_zero_for_equal_logits(bins: int, level: float) -> None:
    # The outermost of 255 bins are worth 4.8e8: any rounding left over would show.
    twohot = TwoHot(bins, decode="mean-symexp")
    logits = torch.full((7, bins), level)
    assert torch.equal(twohot.decode(logits), torch.zeros(7))
    assert torch.equal(twohot.decode(logits.bfloat16()), torch.zeros(7))


@given(st.integers(0, 10_000))
def test_the_mean_of_symexp_changes_its_sign_with_mirrored_logits(seed: int) -> None:
    twohot = TwoHot(decode="mean-symexp")
    logits = torch.randn(255, generator=torch.Generator().manual_seed(seed))
    values = twohot.decode(torch.stack([logits, logits.flip(0)]))
    exact = torch.softmax(logits.double(), -1) @ symexp(twohot.bins.double())
    torch.testing.assert_close(values[0], -values[1], rtol=1e-5, atol=50.0)
    torch.testing.assert_close(values[0].double(), exact, rtol=1e-5, atol=50.0)


def test_the_reward_of_a_world_model_follows_the_switch() -> None:
    sizes: dict[str, Any] = {"filters": (4,), "latent_variables": 2, "latent_classes": 2}
    found = []
    for decode in DECODES:
        torch.manual_seed(0)
        dynamics = DynamicsConfig(width=8, headdim=8)
        config = WorldModelConfig(twohot_decode=decode, dynamics=dynamics, **sizes)
        model = WorldModel(config, ObsSpace.image(8, 8, 3), ActionSpace(2)).eval()
        assert model.reward(torch.randn(3, 8)).abs().max() <= (decode == "symexp-mean") * 1e-6
        weights = 0.9 * code(model.twohot, 0.0) + 0.1 * code(model.twohot, 100.0)
        model.reward_head.out.bias.data = weights.clamp_min(1e-30).log()
        found.append(model.reward(torch.randn(3, 8)).mean().item())
    assert found == pytest.approx([0.59, 10.03], abs=0.005)
