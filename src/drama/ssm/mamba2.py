"""The Mamba-2 layer, with the parameter names and layout of mamba_ssm and transformers."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drama.errors import ConfigError
from drama.ops.backend import (
    BackendName,
    check_backend_name,
    step_backend,
    window_backend,
)
from drama.ops.backend_name import ChosenBackend
from drama.ops.conv1d import causal_conv1d_silu, causal_conv1d_silu_step
from drama.ops.dtypes import accumulation_dtype
from drama.ops.kernels import LayerSizes
from drama.ops.linear import split_linear
from drama.ops.rms_norm import GatedRMSNorm
from drama.ssm.checks import check_mixer, check_sizes
from drama.ssm.init import inverse_softplus, log_uniform_dt
from drama.ssm.ssd import ssd, ssd_peek, ssd_step


class Mamba2State(NamedTuple):
    """State of a :class:`Mamba2` layer, batch first."""

    conv: Tensor
    """The last ``d_conv - 1`` inputs of the convolution ``(B, d_conv - 1, conv_dim)``."""
    ssm: Tensor
    """State of the recurrence ``(B, H, P, N)``, float32 (float64 in a float64 layer)."""


class Mamba2(nn.Module):
    """Mamba-2 mixer: ``(B, T, d_model) -> (B, T, d_model)``.

    ::

        [z, xBC, Δ'] = in_proj(u)     [x, B, C] = silu(conv1d(xBC))     Δ = softplus(Δ' + dt_bias)
        A = -exp(A_log)               y = ssd(x, Δ, A, B, C, D)         out_proj(RMSNorm(y silu(z)))

    Source: Dao and Gu, 2024, arXiv 2405.21060, section 7. ``A_log``, ``dt_bias`` and ``D`` are
    float32, under autocast too.

    Args:
        d_model: Width D.
        d_state: State size N per head channel.
        d_conv: Taps of the convolution.
        expand: Inner width as a multiple of ``d_model``.
        headdim: Head size P; divides ``expand * d_model``.
        ngroups: Groups G of heads that share B and C.
        chunk_size: Of :func:`drama.ssm.ssd`; affects speed only.
        backend: ``torch``, ``kernels`` or ``auto``, see :mod:`drama.ops.backend`.

    Raises:
        ConfigError: If a size is below 1, ``headdim`` or ``ngroups`` divides unevenly, or the
            backend is unknown.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        chunk_size: int = 256,
        backend: BackendName = "auto",
    ) -> None:
        super().__init__()
        check_sizes(
            "Mamba2",
            d_model=d_model,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            headdim=headdim,
            ngroups=ngroups,
            chunk_size=chunk_size,
        )
        check_backend_name(backend)
        self.d_model = d_model
        self.d_state = d_state
        self.d_conv = d_conv
        self.d_inner = expand * d_model
        self.headdim = headdim
        self.ngroups = ngroups
        self.chunk_size = chunk_size
        if self.d_inner % headdim:
            raise ConfigError(
                f"Mamba2: headdim {headdim} must divide expand * d_model = {self.d_inner}"
            )
        self.nheads = self.d_inner // headdim
        if self.nheads % ngroups:
            raise ConfigError(f"Mamba2: ngroups {ngroups} must divide the {self.nheads} heads")
        self.conv_dim = self.d_inner + 2 * ngroups * d_state
        self.backend = backend
        self.kernel_sizes = LayerSizes("mamba2", d_conv, self.conv_dim, d_state)

        self.in_proj = nn.Linear(d_model, self.d_inner + self.conv_dim + self.nheads, bias=False)
        self.conv1d = nn.Conv1d(
            self.conv_dim, self.conv_dim, d_conv, groups=self.conv_dim, padding=d_conv - 1
        )
        self.dt_bias = nn.Parameter(inverse_softplus(log_uniform_dt(self.nheads)))
        self.A_log = nn.Parameter(torch.empty(self.nheads).uniform_(1, 16).log_())
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.norm = GatedRMSNorm(self.d_inner, ngroups)
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def init_state(self, batch_size: int) -> Mamba2State:
        """Return the state at the start of a sequence: all zeros."""
        weight, dtype = self.in_proj.weight, accumulation_dtype(self.A_log)
        sizes = self.nheads, self.headdim, self.d_state
        return Mamba2State(
            weight.new_zeros(batch_size, self.d_conv - 1, self.conv_dim),
            self.A_log.new_zeros(batch_size, *sizes, dtype=dtype),
        )

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: Mamba2State | None = None
    ) -> tuple[Tensor, Mamba2State]:
        """Mix a window in parallel.

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
        z, xBC, dt = split_linear(x, self.in_proj.weight, self._parts)
        backend = window_backend(self.backend, self.kernel_sizes, xBC, is_first, state)
        xBC, conv = causal_conv1d_silu(
            xBC, self.conv1d.weight, self.conv1d.bias, conv, is_first, backend=backend
        )
        x, B, C = self._heads(xBC)
        y, ssm = ssd(
            x,
            self._dt(dt),
            -torch.exp(self.A_log),
            B,
            C,
            D=self.D,
            chunk_size=self.chunk_size,
            initial_state=ssm,
            is_first=is_first,
            backend=backend,
        )
        y = self.norm(y.flatten(-2), z)  # RMSNorm(y silu(z))
        return self.out_proj(y), Mamba2State(conv, ssm)

    def step(
        self, x: Tensor, state: Mamba2State, *, inplace: bool = False
    ) -> tuple[Tensor, Mamba2State]:
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
        z, xBC, dt, conv, backend = self._read_step(x, state)
        x, B, C = self._heads(xBC)
        y, ssm = ssd_step(
            x,
            self._dt(dt),
            -torch.exp(self.A_log),
            B,
            C,
            state.ssm,
            D=self.D,
            inplace=inplace,
            backend=backend,
        )
        y = self.norm(y.flatten(-2), z)
        return self.out_proj(y), Mamba2State(conv, ssm)

    def peek(self, x: Tensor, state: Mamba2State) -> Tensor:
        """Output of :meth:`step` ``(B, d_model)``; no gradients, no next state."""
        z, xBC, dt, _, backend = self._read_step(x, state)
        x, B, C = self._heads(xBC)
        A = -torch.exp(self.A_log)
        y = ssd_peek(x, self._dt(dt), A, B, C, state.ssm, D=self.D, backend=backend)
        output: Tensor = self.out_proj(self.norm(y.flatten(-2), z))
        return output

    def _read_step(
        self, x: Tensor, state: Mamba2State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, ChosenBackend]:
        """Return z, xBC, Δ before softplus, the next convolution state, and the backend."""
        if state is None:
            raise ConfigError("Mamba2: step needs a state, see init_state")
        self._check(x, ("B", self.d_model), state)
        z, xBC, dt = torch.split(self.in_proj(x), self._parts, dim=-1)
        backend = step_backend(self.backend, self.kernel_sizes, xBC)
        xBC, conv = causal_conv1d_silu_step(
            xBC, self.conv1d.weight, self.conv1d.bias, state.conv, backend=backend
        )
        return z, xBC, dt, conv, backend

    @property
    def _parts(self) -> list[int]:
        """Widths of z, xBC and Δ in the output of ``in_proj``."""
        return [self.d_inner, self.conv_dim, self.nheads]

    def _heads(self, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split into x ``(..., H, P)``, B and C ``(..., G, N)``."""
        shared = self.ngroups * self.d_state
        x, B, C = torch.split(xBC, [self.d_inner, shared, shared], dim=-1)
        lead = xBC.shape[:-1]
        return (
            x.reshape(*lead, self.nheads, self.headdim),
            B.reshape(*lead, self.ngroups, self.d_state),
            C.reshape(*lead, self.ngroups, self.d_state),
        )

    def _dt(self, dt: Tensor) -> Tensor:
        """Return the step sizes Δ > 0, ``(..., H)``."""
        return F.softplus(dt.to(self.dt_bias.dtype) + self.dt_bias)

    def _check(self, x: Tensor, shape: tuple[int | str, ...], state: Mamba2State | None) -> None:
        check_mixer(
            "Mamba2",
            x,
            shape,
            state,
            Mamba2State,
            conv=(self.d_conv - 1, self.conv_dim),
            ssm=(self.nheads, self.headdim, self.d_state),
        )
