"""Single steps of a Mamba-2 layer after an empty state, in the dual form.

The recurrent form reads and writes ``P N`` numbers per head at each step. Over few steps the inputs
are fewer. With ``u_s = Δ_s x_s`` and ``L_t`` the sum of the log-decays ``Δ_s A`` up to step t:

    y_t = Σ_{s <= t} (C_t · B_s) exp(L_t - L_s) u_s + D x_t

Source: Dao and Gu, 2024, arXiv 2405.21060, section 4 (the quadratic form).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from drama.ops.dtypes import accumulation_dtype, matmul_dtype
from drama.ops.rms_norm import rms_scale
from drama.ssm.mamba2 import Mamba2

_LEAST_STEPS = 8
"""Steps in the sum, at least: `torch.bmm` is slow for fewer than 400 products a matrix."""


class Mamba2Unroll:
    """Reads single steps of ``batch`` sequences through a layer, without gradients.

    Weights are cast and rearranged once, at construction: they must not change meanwhile.

    Args:
        layer: The layer.
        batch: Number of sequences B.
        steps: Largest number of steps that are read.
    """

    def __init__(self, layer: Mamba2, batch: int, steps: int) -> None:
        weight = layer.in_proj.weight
        dtype = accumulation_dtype(layer.A_log)
        groups, self.eps = layer.ngroups, layer.norm.eps
        self.parts = [layer.d_inner, layer.conv_dim, layer.nheads]
        self.maps = [layer.d_inner, groups * layer.d_state, groups * layer.d_state]
        self.matmul_dtype = matmul_dtype(weight)
        with torch.autocast(weight.device.type, enabled=False):
            self.in_proj = weight.detach().to(self.matmul_dtype).t()
            # The norm's weight is a factor of the projection after it.
            out_proj = layer.out_proj.weight.detach() * layer.norm.weight.detach()
            self.out_proj = out_proj.to(self.matmul_dtype).t()
            filters = layer.conv1d.weight.detach().flatten(1).t()
            self.filters = filters.to(dtype).contiguous().unbind()  # K of (conv_dim,)
            bias = layer.conv1d.bias
            self.conv_bias = filters.new_zeros(()) if bias is None else bias.detach().to(dtype)
            self.dt_bias = layer.dt_bias.detach().to(dtype)
            # A, to base 2: on a CPU exp takes many times as long where its result underflows.
            self.rates = -torch.exp(layer.A_log.detach().to(dtype)) / math.log(2)
            self.skip = layer.D.detach().to(dtype)[:, None]
        count, device = max(steps, _LEAST_STEPS), weight.device
        heads, width = layer.nheads, layer.headdim

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.recent = zeros(layer.d_conv, batch, layer.conv_dim).unbind()
        """The last inputs of the convolution, that of step t at ``t % d_conv``."""
        self.inputs = torch.empty(count, batch, heads, width, dtype=dtype, device=device)
        """``u_s``."""
        self.inputs[:_LEAST_STEPS] = 0.0  # in sums before they are read, with B of 0
        self.B = zeros(batch, groups, count, layer.d_state)
        self.since = zeros(2, batch, groups, heads // groups, count)
        """``L_t - L_s`` before and after a step, to base 2: after step t at ``(t + 1) % 2``."""

    def reset(self, rows: Tensor) -> None:
        """Clear the state of some sequences, bool ``(B,)``."""
        self.B.masked_fill_(rows[:, None, None, None], 0.0)
        for inputs in self.recent:
            inputs.masked_fill_(rows[:, None], 0.0)

    def read(self, x: Tensor, t: int) -> Tensor:
        """Output ``(B, d_model)`` of step ``t`` for the input ``x`` ``(B, d_model)``.

        It may be called again for the same ``t``, with another input.
        """
        with torch.autocast(x.device.type, enabled=False):
            projected = torch.mm(x.to(self.matmul_dtype), self.in_proj)
            z, xBC, dt = torch.split(projected, self.parts, dim=-1)
            values, B, C = torch.split(self._convolve(xBC, t), self.maps, dim=-1)
            step = F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)  # Δ, (B, H)
            y = self._mix(values, step, B, C, t)
            gated = F.silu(z.to(y.dtype), inplace=True).mul_(y)
            parts = gated.view(len(gated), self.B.shape[1], -1)
            parts.mul_(rms_scale(parts, self.eps))
            return torch.mm(gated.to(self.matmul_dtype), self.out_proj)

    def _convolve(self, x: Tensor, t: int) -> Tensor:
        taps = len(self.filters)
        current = self.recent[t % taps].copy_(x)
        total = torch.addcmul(self.conv_bias, current, self.filters[-1])
        for tap in range(taps - 1):
            total.addcmul_(self.recent[(t + 1 + tap) % taps], self.filters[tap])
        return F.silu(total, inplace=True)

    def _mix(self, x: Tensor, step: Tensor, B: Tensor, C: Tensor, t: int) -> Tensor:
        """Output ``(B, H P)`` of the recurrence; ``x`` ``(B, H P)``, B and C ``(B, G N)``."""
        _, batch, heads, width = self.inputs.shape
        groups = self.B.shape[1]
        count = max(t + 1, _LEAST_STEPS)
        x = x.view(batch, heads, width)
        torch.mul(x, step[..., None], out=self.inputs[t])
        self.B[:, :, t] = B.view(batch, groups, -1)
        # Sums since each step, not since the first: their differences would lose digits.
        before, since = self.since[t % 2, ..., :count], self.since[(t + 1) % 2, ..., :count]
        torch.add(before, (step * self.rates).view(batch, groups, -1, 1), out=since)
        since.select(-1, t).zero_()
        past = self.B[:, :, :count].reshape(batch * groups, count, -1)
        scores = torch.bmm(C.reshape(batch * groups, 1, -1), past.transpose(1, 2))
        weights = since.exp2().mul_(scores.view(batch, groups, 1, count))
        inputs = self.inputs[:count].view(count, batch * heads, width).transpose(0, 1)
        y = torch.bmm(weights.view(batch * heads, 1, count), inputs)
        return y.view(batch, heads, width).addcmul_(x, self.skip).view(batch, -1)
