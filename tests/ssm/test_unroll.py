"""Single steps of a Mamba-2 layer in the dual form against its recurrence."""

from __future__ import annotations

import pytest
import torch

from drama.ssm import Mamba2
from drama.ssm.unroll import Mamba2Unroll


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("steps", [1, 12])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@torch.no_grad()
def test_steps_equal_those_of_the_recurrence(
    groups: int, steps: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    layer = Mamba2(24, d_state=5, headdim=6, ngroups=groups)
    layer.norm.weight.uniform_(0.5, 2.0)
    layer.A_log.add_(1.0)
    x = torch.randn(steps, 3, 24)
    state = layer.init_state(3)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        unrolled = Mamba2Unroll(layer, 3, steps)
        for t in range(steps):
            unrolled.read(torch.randn(3, 24), t)  # read again below
            expected, state = layer.step(x[t], state)
            found = unrolled.read(x[t], t)
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert expected.abs().mean() > 0.05


@torch.no_grad()
def test_a_step_that_forgets_everything_costs_later_ones_no_digits() -> None:
    torch.manual_seed(0)
    layer = Mamba2(8, d_state=4, headdim=8)
    layer.in_proj.weight[-layer.nheads :] *= 100.0  # Δ from 0 to a hundred
    layer.A_log.fill_(5.0)
    x = torch.randn(20, 2, 8)
    unrolled, state = Mamba2Unroll(layer, 2, 20), layer.init_state(2)
    for t in range(20):
        expected, state = layer.step(x[t], state)
        torch.testing.assert_close(unrolled.read(x[t], t), expected, atol=1e-5, rtol=1e-5)
