"""Gradients of the scans with bfloat16 products against float64, at the sizes of the presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from drama.ssm import selective_scan, ssd
from drama.ssm.init import inverse_softplus, log_uniform_dt

LENGTH = 128
ROUNDED = {"x", "B", "C"}
"""Inputs that autocast rounds; the others stay float32."""


def window(seed: int, heads: int, headdim: int, d_state: int) -> dict[str, Tensor]:
    """Inputs of a newly initialised layer, rounded to bfloat16 where autocast rounds them."""
    torch.manual_seed(seed)
    batch = 4
    bias = inverse_softplus(log_uniform_dt(heads))
    inputs = {
        "x": torch.randn(batch, LENGTH, heads, headdim),
        "dt": torch.nn.functional.softplus(0.5 * torch.randn(batch, LENGTH, heads) + bias),
        "A_log": torch.empty(heads).uniform_(1, 16).log(),
        "B": torch.randn(batch, LENGTH, 1, d_state) / 2,
        "C": torch.randn(batch, LENGTH, 1, d_state) / 2,
        "D": torch.ones(heads),
    }
    return {k: v.bfloat16().float() if k in ROUNDED else v for k, v in inputs.items()}


def errors(function: Any, inputs: dict[str, Tensor], **options: Any) -> dict[str, float]:
    """Relative error of every gradient in bfloat16, by the norm of its difference to float64."""
    found = []
    torch.manual_seed(0)
    upstream = torch.randn(inputs["x"].shape).bfloat16()
    for exact in (False, True):
        leaves = {
            k: (v.double() if exact else v.bfloat16() if k in ROUNDED else v.clone())
            for k, v in inputs.items()
        }
        for leaf in leaves.values():
            leaf.requires_grad_()
        A = -torch.exp(leaves["A_log"])
        y, _ = function(A=A, **{k: v for k, v in leaves.items() if k != "A_log"}, **options)
        gradients = torch.autograd.grad(y, list(leaves.values()), upstream.to(y.dtype))
        found.append([g.double() for g in gradients])
    return {
        name: ((ours - exact).norm() / exact.norm()).item()
        for name, ours, exact in zip(inputs, *found, strict=True)
    }


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    ("heads", "headdim", "d_state"),
    [(8, 128, 16), (8, 128, 32), (16, 64, 32), (8, 128, 64), (16, 64, 64)],
)
def test_every_gradient_of_ssd_is_within_1_percent(
    heads: int, headdim: int, d_state: int, resets: bool
) -> None:
    is_first = torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(0)) < 0.02
    for seed in range(2):
        inputs = window(seed, heads, headdim, d_state)
        found = errors(ssd, inputs, chunk_size=256, is_first=is_first if resets else None)
        assert max(found.values()) < 0.01, found


@pytest.mark.parametrize("d_state", [16, 32])
def test_every_gradient_of_the_selective_scan_is_within_1_percent(d_state: int) -> None:
    inputs = window(0, 256, 1, d_state)
    for name in ("x", "B", "C"):
        inputs[name] = inputs[name].squeeze(3 if name == "x" else 2)
    rates = torch.arange(1, d_state + 1).log().expand(256, d_state)
    found = errors(selective_scan, {**inputs, "A_log": rates.contiguous()})
    assert max(found.values()) < 0.01, found
