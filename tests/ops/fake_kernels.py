"""Stand-ins for ``mamba_ssm`` and ``causal_conv1d`` that run anywhere.

They have the signatures of mamba_ssm 2.2.4 and causal_conv1d 1.5.0, refuse the same arguments, and
compute step by step.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops import backend
from drama.ssm import reference

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
calls: list[str] = []
"""Names of the kernels that ran, in order."""


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    calls.append("causal_conv1d_fn")
    batch, channels, length = x.shape
    _check_filters(x, weight, bias, activation)
    assert channels % 8 == 0
    assert x.stride(1) == 1, "channels last in memory"
    assert x.stride(0) % 8 == x.stride(2) % 8 == 0
    assert initial_states is final_states_out is None
    assert not return_final_states
    if seq_idx is None:
        seq_idx = torch.zeros(batch, length, dtype=torch.int32)
    assert seq_idx.dtype == torch.int32
    assert seq_idx.shape == (batch, length)
    assert seq_idx.is_contiguous()
    taps = weight.shape[1]
    outputs = []
    for t in range(length):
        total = torch.zeros(batch, channels) if bias is None else bias.expand(batch, -1).float()
        for offset in range(min(taps, t + 1)):
            same = (seq_idx[:, t - offset] == seq_idx[:, t])[:, None]
            total = total + same * weight[:, taps - 1 - offset].float() * x[:, :, t - offset]
        outputs.append(F.silu(total))
    return torch.stack(outputs, dim=2).to(x.dtype)


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    calls.append("causal_conv1d_update")
    _check_filters(x, weight, bias, activation)
    assert conv_state.shape == (*x.shape, weight.shape[1] - 1)
    assert conv_state.dtype == x.dtype
    window = torch.cat([conv_state, x[..., None]], dim=2)
    conv_state.copy_(window[..., 1:].clone())
    total = (window.float() * weight.float()).sum(-1)
    return F.silu(total if bias is None else total + bias.float()).to(x.dtype)


def _check_filters(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> None:
    assert x.dtype in FLOATS
    assert weight.dtype in FLOATS
    assert bias is None or bias.dtype == weight.dtype
    assert weight.shape[0] == x.shape[1]
    assert 2 <= weight.shape[1] <= 4
    assert activation in ("silu", "swish")


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    seq_idx: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    return_varlen_states: bool = False,
) -> Any:
    calls.append("mamba_chunk_scan_combined")
    assert x.dtype == B.dtype == C.dtype
    assert x.dtype in FLOATS
    assert chunk_size >= 16
    assert chunk_size.bit_count() == 1
    assert z is cu_seqlens is None
    assert not return_varlen_states
    steps = dt.float() if dt_bias is None else dt.float() + dt_bias.float()
    is_first = None
    if seq_idx is not None:
        assert seq_idx.dtype == torch.int32
        assert seq_idx.shape == x.shape[:2]
        # The initial state belongs to sequence 0.
        is_first = seq_idx.diff(dim=1, prepend=torch.zeros_like(seq_idx[:, :1])) != 0
    y, state = reference.ssd(
        x.float(),
        F.softplus(steps) if dt_softplus else steps,
        A.float(),
        B.float(),
        C.float(),
        D=D,
        initial_state=None if initial_states is None else initial_states.float(),
        is_first=is_first,
    )
    return (y.to(x.dtype), state) if return_final_states else y.to(x.dtype)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Any:
    calls.append("selective_scan_fn")
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert u.dtype in FLOATS
    assert A.dtype == torch.float32
    assert D is None or D.dtype == torch.float32
    assert A.shape[1] <= 256
    assert z is None
    assert u.shape == delta.shape == (*u.shape[:1], A.shape[0], B.shape[2])
    assert B.shape == C.shape == (u.shape[0], A.shape[1], u.shape[2])
    steps = delta.float() if delta_bias is None else delta.float() + delta_bias[:, None]
    y, state = reference.selective_scan(
        u.float().transpose(1, 2),
        (F.softplus(steps) if delta_softplus else steps).transpose(1, 2),
        A,
        B.float().transpose(1, 2),
        C.float().transpose(1, 2),
        D=D,
    )
    y = y.transpose(1, 2).to(u.dtype)
    # The last state has no gradient.
    return (y, state.detach()) if return_last_state else y


@torch.no_grad()
def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    calls.append("selective_state_update")
    assert z is state_batch_indices is None
    assert D is not None, "the launcher unpacks its strides"
    assert dt_bias is not None, "the launcher unpacks its strides"
    heads = state.dim() == 4
    if not heads:
        state, x, dt, B, C = (v.unsqueeze(1) for v in (state, x, dt, B, C))
        A, D, dt_bias = (v.unsqueeze(0) for v in (A, D, dt_bias))
    assert dt.shape == x.shape == state.shape[:3]
    assert A.shape == state.shape[1:]
    assert D.shape == dt_bias.shape == state.shape[1:3]
    per_group = state.shape[1] // B.shape[1]
    B, C = (v.float().repeat_interleave(per_group, dim=1) for v in (B, C))
    steps = dt.float() + dt_bias.float()
    steps = (F.softplus(steps) if dt_softplus else steps)[..., None]
    state.mul_(torch.exp(steps * A.float()))
    state.add_(steps * x.float()[..., None] * B[:, :, None])
    y = (state.float() * C[:, :, None]).sum(-1) + D.float() * x.float()
    return (y if heads else y.squeeze(1)).to(x.dtype)


MODULES: dict[str, dict[str, Any]] = {
    "causal_conv1d": {
        "__version__": "1.5.0",
        "causal_conv1d_fn": causal_conv1d_fn,
        "causal_conv1d_update": causal_conv1d_update,
    },
    "mamba_ssm": {"__version__": "2.2.4"},
    "mamba_ssm.ops": {},
    "mamba_ssm.ops.triton": {},
    "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
    "mamba_ssm.ops.triton.ssd_combined": {"mamba_chunk_scan_combined": mamba_chunk_scan_combined},
    "mamba_ssm.ops.triton.selective_state_update": {
        "selective_state_update": selective_state_update
    },
}


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the stand-ins in place of the packages."""
    for name, content in MODULES.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    backend._packages.cache_clear()
    calls.clear()


def uninstall(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make ``import name`` fail, whether the package is installed or not."""
    for known in list(sys.modules):
        if known.split(".")[0] == name:
            monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, name, None)
    backend._packages.cache_clear()
