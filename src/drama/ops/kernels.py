"""Adapters to the CUDA and Triton kernels of ``mamba_ssm`` and ``causal_conv1d``.

Each function has the signature and meaning of the PyTorch version of the same name in
:mod:`drama.ops.conv1d`, :mod:`drama.ssm.ssd` and :mod:`drama.ssm.selective_scan`, and translates
to what the kernels expect: other layouts, a sequence number per step instead of resets, states that
are overwritten. :func:`layer_obstacle`, :func:`window_obstacle` and :func:`step_obstacle` return
why a kernel cannot run a call; :mod:`drama.ops.backend` calls them first.

Facts about the kernels are those of mamba_ssm 2.2.4 to 2.3.2 and causal_conv1d 1.5.0 to 1.7.0. The
packages are imported on first use and need not be installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.autograd import differentiable_once
from drama.ops.dtypes import matmul_dtype
from drama.ops.scan import ScanInputs, chunked_scan


@dataclass(frozen=True)
class LayerSizes:
    """Sizes of a layer that decide whether the kernels can run it."""

    mixer: Literal["mamba1", "mamba2"]
    """Kind of layer."""
    d_conv: int
    """Taps of its convolution."""
    channels: int
    """Channels of its convolution."""
    d_state: int
    """State size N."""


def layer_obstacle(layer: LayerSizes) -> str | None:
    """Return why the kernels cannot run ``layer`` on any input; None if they can."""
    if not 2 <= layer.d_conv <= 4:
        return f"causal_conv1d takes 2 to 4 taps, and d_conv is {layer.d_conv}"
    if layer.channels % 8:
        return f"causal_conv1d takes channels in multiples of 8, and there are {layer.channels}"
    if layer.mixer == "mamba1" and layer.d_state > 256:
        return f"mamba_ssm's selective scan takes d_state up to 256, and it is {layer.d_state}"
    return None


def window_obstacle(
    layer: LayerSizes, dtype: torch.dtype, *, resets: bool, carried: bool
) -> str | None:
    """Return why the kernels cannot run a window; None if they can.

    Args:
        layer: Sizes of the layer.
        dtype: Type of its matrix products.
        resets: Whether the window may contain resets.
        carried: Whether it starts from a given state.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return _type_obstacle(dtype)
    if layer.mixer == "mamba1":
        if resets:
            return "mamba_ssm's selective scan has no resets inside a window"
        if carried:
            return "mamba_ssm's selective scan cannot start from a carried state"
    elif dtype == torch.float32:
        return "in float32 the products of mamba_ssm's chunk scan are rounded to TF32"
    return None


def step_obstacle(dtype: torch.dtype, *, grad: bool) -> str | None:
    """Return why the kernels cannot run a step in ``dtype``; None if they can."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return _type_obstacle(dtype)
    return "the kernels for single steps have no gradient" if grad else None


def _type_obstacle(dtype: torch.dtype) -> str:
    return f"the kernels do not compute in {str(dtype).removeprefix('torch.')}"


# -- convolution ----------------------------------------------------------------------------------


def causal_conv1d_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    history: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run :func:`drama.ops.conv1d.causal_conv1d_silu` on ``causal_conv1d``'s kernel.

    Kernel and layer agree on channels in the last dimension of memory, so transposing is free. The
    kernel takes either sequence numbers or states; so a history goes in front of the window, where
    both it and the resets are heeded, and the new one is cut from the inputs here.
    """
    from causal_conv1d import causal_conv1d_fn

    length, past = x.shape[1], weight.shape[-1] - 1
    read = x if history is None else torch.cat([history.to(x.dtype), x], dim=1)
    if read.stride(2) != 1 or read.stride(0) % 8 or read.stride(1) % 8:
        read = read.contiguous()
    # (B, past + T): inputs before the window belong to sequence 0.
    sequence = None if is_first is None else F.pad(_sequence(is_first), (past, 0))
    with torch.autocast(x.device.type, enabled=False):
        y = causal_conv1d_fn(
            read.to(matmul_dtype(x)).transpose(1, 2),  # (B, C, T)
            weight[:, 0],
            bias,
            seq_idx=None if sequence is None else sequence[:, -read.shape[1] :].contiguous(),
            activation="silu",
        ).transpose(1, 2)
    recent = F.pad(read[:, -past:], (0, 0, max(past - length, 0) if history is None else 0, 0))
    if sequence is not None:
        same = sequence[:, -past:] == sequence[:, -1:]
        recent = torch.where(same[..., None], recent, 0)
    return y[:, -length:], recent


def causal_conv1d_silu_step(
    x: Tensor, weight: Tensor, bias: Tensor | None, history: Tensor
) -> tuple[Tensor, Tensor]:
    """Run :func:`drama.ops.conv1d.causal_conv1d_silu_step` on ``causal_conv1d``'s kernel."""
    from causal_conv1d import causal_conv1d_update

    history = history.to(x.dtype, copy=True)  # the kernel updates it in place
    y = causal_conv1d_update(x, history.transpose(1, 2), weight[:, 0], bias, activation="silu")
    return y, history


# -- Mamba-2 --------------------------------------------------------------------------------------


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    chunk_size: int = 64,
    initial_state: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run :func:`drama.ssm.ssd` on the Triton kernels of ``mamba_ssm``.

    Their chunks are powers of two, and an initial state belongs to sequence 0. Between chunks they
    keep states in the type of ``C``; the final one is float32.
    """
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    compute = matmul_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        y, state = mamba_chunk_scan_combined(
            x.to(compute),
            dt.float(),
            A.float(),
            B.to(compute),
            C.to(compute),
            chunk_size=max(16, 1 << (chunk_size - 1).bit_length()),
            D=None if D is None else D.float(),
            initial_states=None if initial_state is None else initial_state.float(),
            seq_idx=None if is_first is None else _sequence(is_first),
            return_final_states=True,
        )
    return y.to(x.dtype), state


def ssd_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run :func:`drama.ssm.ssd.ssd_step` on the Triton kernel."""
    heads, headdim, d_state = state.shape[1:]
    # Expanded with stride 0: the kernel detects by it that there is one value per head.
    return _state_update(
        x,
        dt[..., None].expand_as(x),
        A[:, None, None].expand(heads, headdim, d_state),
        B,
        C,
        state,
        D=None if D is None else D[:, None].expand(heads, headdim),
        dt_bias=A.new_zeros(heads, 1).expand(heads, headdim),
        inplace=inplace,
    )


# -- Mamba-1 --------------------------------------------------------------------------------------


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
    is_first: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run :func:`drama.ssm.selective_scan` on the CUDA kernel of ``mamba_ssm``.

    In float32: the kernel needs one type for all inputs, and step sizes need that one.

    Raises:
        NotImplementedError: For an initial state or resets; see :func:`window_obstacle`.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    if initial_state is not None or is_first is not None:
        raise NotImplementedError("mamba_ssm's selective scan has neither initial state nor resets")
    inputs = [v.float() for v in (x, dt, A, B)]
    x_, dt_, A_, B_ = inputs
    with torch.autocast(x.device.type, enabled=False):
        y, state = selective_scan_fn(
            x_.transpose(1, 2),  # (B, D, T)
            dt_.transpose(1, 2),
            A_,
            B_.transpose(1, 2),  # (B, N, T)
            C.float().transpose(1, 2),
            D=None if D is None else D.float(),
            return_last_state=True,
        )
    final: Tensor = _FinalState.apply(state.detach(), *inputs)  # type: ignore[no-untyped-call]
    return y.transpose(1, 2).to(x.dtype), final


def selective_scan_step(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None = None,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run :func:`drama.ssm.selective_scan.selective_scan_step` on the Triton kernel."""
    dt_bias = A.new_zeros(A.shape[0])
    return _state_update(x, dt, A, B, C, state, D=D, dt_bias=dt_bias, inplace=inplace)


class _FinalState(torch.autograd.Function):
    """Adds the gradient of the final state, which the kernel omits.

    The backward pass runs only if the state is differentiated, and then scans the window again in
    PyTorch.
    """

    @staticmethod
    def forward(ctx: Any, state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
        ctx.save_for_backward(x, dt, A, B)
        return state.clone()

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dstate: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_() for v in ctx.saved_tensors]
            x, dt, A, B = leaves
            inputs = ScanInputs(x, dt, A, B, B, None)  # the state does not depend on C
            _, state = chunked_scan(inputs, torch.zeros_like(dstate))
            return None, *torch.autograd.grad(state, leaves, dstate)


# -- common ---------------------------------------------------------------------------------------


def _sequence(is_first: Tensor) -> Tensor:
    """Number the sequences of a window: 0 before its first reset, one more after each; int32."""
    return is_first.cumsum(1, dtype=torch.int32)


def _state_update(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    state: Tensor,
    *,
    D: Tensor | None,
    dt_bias: Tensor,
    inplace: bool,
) -> tuple[Tensor, Tensor]:
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    state = state if inplace else state.clone()  # the kernel overwrites it
    # The launcher of the kernel fails without D or dt_bias: zeros where there is none.
    D = torch.zeros_like(dt_bias) if D is None else D
    y = selective_state_update(state, x, dt, A, B, C, D=D, dt_bias=dt_bias, dt_softplus=False)
    return y, state
