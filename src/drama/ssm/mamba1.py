"""The Mamba-1 layer, with the parameter names and layout of mamba_ssm and transformers."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drama.errors import ConfigError
from drama.ops.backend import BackendName, check_backend_name, step_backend, window_backend
from drama.ops.conv1d import causal_conv1d_silu, causal_conv1d_silu_step
from drama.ops.dtypes import accumulation_dtype
from drama.ops.kernels import LayerSizes
from drama.ssm.checks import check_mixer, check_sizes
from drama.ssm.init import inverse_softplus, log_uniform_dt
from drama.ssm.selective_scan import selective_scan, selective_scan_step


class Mamba1State(NamedTuple):
    """State of a :class:`Mamba1` layer, batch first."""

    conv: Tensor
    """The last ``d_conv - 1`` inputs of the convolution ``(B, d_conv - 1, d_inner)``."""
    ssm: Tensor
    """State of the recurrence ``(B, d_inner, N)``, float32 (float64 in a float64 layer)."""


class Mamba1(nn.Module):
    """Mamba-1 mixer: ``(B, T, d_model) -> (B, T, d_model)``.

    ::

        [x, z] = in_proj(u)     x ← silu(conv1d(x))     [Δ', B, C] = x_proj(x)
        Δ = softplus(dt_proj(Δ'))     A = -exp(A_log)
        y = selective_scan(x, Δ, A, B, C, D)            out_proj(y silu(z))

    Source: Gu and Dao, 2023, arXiv 2312.00752, section 3.4. ``A_log``, ``D`` and the bias of Δ are
    float32, under autocast too.

    Args:
        d_model: Width D.
        d_state: State size N per channel.
        d_conv: Taps of the convolution.
        expand: Inner width as a multiple of ``d_model``.
        dt_rank: Rank of Δ's projection; ``"auto"`` is ``ceil(d_model / 16)``.
        backend: ``torch``, ``kernels`` or ``auto``, see :mod:`drama.ops.backend`.

    Raises:
        ConfigError: If a size is below 1, or the backend is unknown.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | Literal["auto"] = "auto",
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        check_sizes(
            "Mamba1", d_model=d_model, d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=rank
        )
        check_backend_name(backend)
        self.d_model = d_model
        self.d_state = d_state
        self.d_conv = d_conv
        self.d_inner = expand * d_model
        self.dt_rank = rank
        self.backend = backend
        self.kernel_sizes = LayerSizes("mamba1", d_conv, self.d_inner, d_state)

        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, groups=self.d_inner, padding=d_conv - 1
        )
        self.x_proj = nn.Linear(self.d_inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, self.d_inner)
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(rank**-0.5), rank**-0.5)
            self.dt_proj.bias.copy_(inverse_softplus(log_uniform_dt(self.d_inner)))
        rates = torch.arange(1, d_state + 1, dtype=torch.float32).log()
        self.A_log = nn.Parameter(rates.repeat(self.d_inner, 1))
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def init_state(self, batch_size: int) -> Mamba1State:
        """Return the state at the start of a sequence: all zeros."""
        dtype = accumulation_dtype(self.A_log)
        return Mamba1State(
            self.in_proj.weight.new_zeros(batch_size, self.d_conv - 1, self.d_inner),
            self.A_log.new_zeros(batch_size, self.d_inner, self.d_state, dtype=dtype),
        )

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: Mamba1State | None = None
    ) -> tuple[Tensor, Mamba1State]:
        """Mix a window.

        Args:
            x: ``(B, T, d_model)``.
            is_first: Steps that begin a new sequence, bool ``(B, T)``; recurrence and convolution
                restart there.
            state: State before the first step; that of :meth:`init_state` if None.

        Returns:
            ``y`` ``(B, T, d_model)`` and the state after the last step.

        Raises:
            ConfigError: The input or the state has another shape, or another batch size.
        """
        self._check(x, ("B", "T", self.d_model), state)
        conv, ssm = (None, None) if state is None else state
        x, z = self.in_proj(x).chunk(2, dim=-1)
        backend = window_backend(self.backend, self.kernel_sizes, x, is_first, state)
        x, conv = causal_conv1d_silu(
            x, self.conv1d.weight, self.conv1d.bias, conv, is_first, backend=backend
        )
        dt, B, C = self._selection(x)
        y, ssm = selective_scan(
            x,
            dt,
            -torch.exp(self.A_log),
            B,
            C,
            D=self.D,
            initial_state=ssm,
            is_first=is_first,
            backend=backend,
        )
        return self.out_proj(y * F.silu(z)), Mamba1State(conv, ssm)

    def step(
        self, x: Tensor, state: Mamba1State, *, inplace: bool = False
    ) -> tuple[Tensor, Mamba1State]:
        """Mix one step, at constant cost.

        Args:
            x: ``(B, d_model)``.
            state: State before the step.
            inplace: Overwrite ``state``, which is otherwise unchanged; not with gradients.

        Returns:
            ``y`` ``(B, d_model)`` and the state after the step.

        Raises:
            ConfigError: The input or the state has another shape, or another batch size.
        """
        if state is None:
            raise ConfigError("Mamba1: step needs a state, see init_state")
        self._check(x, ("B", self.d_model), state)
        x, z = self.in_proj(x).chunk(2, dim=-1)
        backend = step_backend(self.backend, self.kernel_sizes, x)
        x, conv = causal_conv1d_silu_step(
            x, self.conv1d.weight, self.conv1d.bias, state.conv, backend=backend
        )
        dt, B, C = self._selection(x)
        y, ssm = selective_scan_step(
            x,
            dt,
            -torch.exp(self.A_log),
            B,
            C,
            state.ssm,
            D=self.D,
            inplace=inplace,
            backend=backend,
        )
        return self.out_proj(y * F.silu(z)), Mamba1State(conv, ssm)

    def _selection(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute Δ ``(..., d_inner)``, B and C ``(..., N)`` from the convolved input."""
        low, B, C = torch.split(self.x_proj(x), [self.dt_rank, self.d_state, self.d_state], dim=-1)
        bias = self.dt_proj.bias
        return F.softplus(F.linear(low, self.dt_proj.weight).to(bias.dtype) + bias), B, C

    def _check(self, x: Tensor, shape: tuple[int | str, ...], state: Mamba1State | None) -> None:
        check_mixer(
            "Mamba1",
            x,
            shape,
            state,
            Mamba1State,
            conv=(self.d_conv - 1, self.d_inner),
            ssm=(self.d_inner, self.d_state),
        )
