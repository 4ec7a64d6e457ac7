"""LaProp with warm-up and clipping, against hand-computed numbers and `pytorch-optimizer`'s."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from drama.config import OptimConfig
from drama.ops import dispatch
from drama.training.optim import Optimiser

PLAIN = OptimConfig(lr=0.1, eps=1e-20, beta1=0.9, beta2=0.99, warmup=0, grad_clip=1e9)


def one(value: float, config: OptimConfig = PLAIN) -> tuple[nn.Parameter, Optimiser]:
    p = nn.Parameter(torch.tensor([value], dtype=torch.float64))
    return p, Optimiser([("p", p)], config)


def update(optimiser: Optimiser, p: nn.Parameter, grad: float) -> float:
    before = p.item()
    p.grad = torch.full_like(p, grad)
    optimiser.step()
    return p.item() - before


def test_two_updates_match_hand_computed_values() -> None:
    p, optimiser = one(1.0)
    # Both corrections cancel in the first update: a step of lr against the sign for any g.
    assert update(optimiser, p, 3.0) == pytest.approx(-0.1, rel=1e-6)
    # v = 0.99 * 0.09 + 0.01 * 1 = 0.0991, corrected by 1 - 0.99^2 = 0.0199: root 2.231572...
    second = -1.0 / math.sqrt(0.0991 / 0.0199)
    # weights of the momentum: 0.09 for the first, 0.1 for the second, their sum 0.19
    assert update(optimiser, p, -1.0) == pytest.approx(
        -0.1 * (0.09 * 1.0 + 0.1 * second) / 0.19, rel=1e-6
    )


def test_momentum_is_weighted_by_the_warm_up_step_sizes() -> None:
    p, optimiser = one(0.0, OptimConfig(lr=0.1, beta1=0.5, beta2=0.9, warmup=2))
    assert optimiser.learning_rate().item() == pytest.approx(0.05)
    assert update(optimiser, p, 2.0) == pytest.approx(-0.05, rel=1e-6)
    assert optimiser.learning_rate().item() == pytest.approx(0.1)
    # A gradient of the same size keeps a normalised one of 1 in both: any average of them is 1.
    assert update(optimiser, p, 2.0) == pytest.approx(-0.1, rel=1e-6)
    # The other way: b = .5 * (.5 * .5 * .05 + .5 * .1) + .5 * .1, the last of weight .05 in it.
    b = 0.5 * (0.5 * 0.5 * 0.05 + 0.5 * 0.1) + 0.5 * 0.1
    assert update(optimiser, p, -2.0) == pytest.approx(-0.1 * (b - 2 * 0.05) / b, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1.0, 1e6])
def test_update_is_invariant_to_the_gradient_scale(scale: float) -> None:
    """A larger epsilon than requested would break this."""
    p, optimiser = one(0.0)
    moves = [update(optimiser, p, scale * g) for g in (1.0, -0.5, 2.0)]
    q, other = one(0.0)
    assert moves == pytest.approx([update(other, q, g) for g in (1.0, -0.5, 2.0)], rel=1e-6)


def test_epsilon_damps_small_gradients() -> None:
    p, optimiser = one(0.0, OptimConfig(lr=0.1, eps=1.0, beta1=0.9, beta2=0.99, warmup=0))
    # root of v = 0.1 * g; without epsilon its correction (0.1) would cancel
    assert update(optimiser, p, 2.0) == pytest.approx(-0.1 * 2.0 * 0.1 / (0.2 + 1.0), rel=1e-6)


def test_equals_an_independent_laprop() -> None:
    from pytorch_optimizer import LaProp

    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(7, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    theirs = [nn.Parameter(p.detach().clone()) for p in ours.parameters()]
    config = OptimConfig(lr=1e-2, eps=1e-8, warmup=4, grad_clip=1e9)
    optimiser = Optimiser(ours.named_parameters(), config)
    oracle = LaProp(theirs, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)
    for k in range(12):
        for p, q in zip(ours.parameters(), theirs, strict=True):
            # Far from zero: the oracle adds 1e-15 to the second moment, for any eps.
            p.grad = torch.sign(torch.randn_like(p)) * (1 + torch.rand_like(p)) * 10.0 ** (k % 3)
            q.grad = p.grad.clone()
        oracle.param_groups[0]["lr"] = float(optimiser.learning_rate())
        optimiser.step()
        oracle.step()
    for p, q in zip(ours.parameters(), theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=2e-6, atol=2e-7)


def test_clips_the_norm_over_all_parameters() -> None:
    p, q = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    optimiser = Optimiser([("p", p), ("q", q)], OptimConfig(grad_clip=1.0))
    norm = optimiser.backward((3.0 * p + 4.0 * q).sum())
    assert norm.item() == pytest.approx(5.0)
    assert (p.grad.item(), q.grad.item()) == pytest.approx((0.6, 0.8), rel=1e-5)  # type: ignore[union-attr]


def test_frozen_parameters_and_those_without_gradient_are_unchanged() -> None:
    p, q, frozen = (nn.Parameter(torch.ones(1)) for _ in range(3))
    frozen.requires_grad_(False)
    optimiser = Optimiser([("p", p), ("q", q), ("frozen", frozen)], PLAIN)
    optimiser.backward(p.sum())
    optimiser.step()
    assert optimiser.names == ["p", "q"]
    assert (p.item(), q.item(), frozen.item()) == pytest.approx((0.9, 1.0, 1.0))


def test_saved_state_resumes_bit_for_bit() -> None:
    def grads() -> list[Tensor]:
        return [torch.randn(4, 3, generator=generator) for _ in range(6)]

    generator = torch.Generator().manual_seed(0)
    config = OptimConfig(lr=1e-2, warmup=4)
    p = nn.Parameter(torch.zeros(4, 3))
    optimiser = Optimiser([("p", p)], config)
    first, second = grads(), grads()
    for g in first:
        p.grad = g.clone()
        optimiser.step()
    tensors, scalars = optimiser.state()
    tensors = {k: t.clone() for k, t in tensors.items()}
    q = nn.Parameter(p.detach().clone())
    other = Optimiser([("p", q)], config)
    other.load_state(tensors, json.loads(json.dumps(scalars)))
    for g in second:
        p.grad, q.grad = g.clone(), g.clone()
        optimiser.step()
        other.step()
    assert other.updates == optimiser.updates == 12
    assert torch.equal(p, q)


def test_update_without_gradients_changes_nothing() -> None:
    p, optimiser = one(1.0)
    optimiser.step()
    assert p.item() == 1.0
    Optimiser([], PLAIN).step()


class Lists(TorchDispatchMode):
    """Records the shapes of the tensors in every operation on lists."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, list[list[torch.Size]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        lists = [[x.shape for x in a] for a in args if isinstance(a, (list, tuple))]
        if func._schema.name.startswith("aten::_foreach"):
            self.shapes[str(func)] = lists
        return func(*args, **(kwargs or {}))


def test_on_an_accelerator_every_operation_is_fused_and_the_update_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyTorch fuses an operation on lists only where tensors correspond in shape."""
    torch.manual_seed(0)
    config = OptimConfig(lr=1e-2, warmup=3)
    start = [torch.randn(5, 7), torch.randn(3), torch.randn(())]
    grads = [[torch.randn_like(x) for x in start] for _ in range(4)]
    results = []
    for hosts in (("cpu",), ()):
        monkeypatch.setattr(dispatch, "_HOSTS", hosts)
        params = [nn.Parameter(x.clone()) for x in start]
        optimiser = Optimiser([(str(i), p) for i, p in enumerate(params)], config)
        for each in grads:
            for p, grad in zip(params, each, strict=True):
                p.grad = grad.clone()
            with Lists() as lists:
                optimiser.step()
        results.append(params)
    assert len(lists.shapes) >= 8
    for name, shapes in lists.shapes.items():
        assert all(each == shapes[0] for each in shapes), name
    for host, accelerator in zip(*results, strict=True):
        torch.testing.assert_close(accelerator, host, rtol=1e-6, atol=1e-7)
