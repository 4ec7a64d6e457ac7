"""Settings of the sequence model."""

from __future__ import annotations

from dataclasses import dataclass

from drama.errors import ConfigError
from drama.ops.backend_name import BackendName, check_backend_name
from drama.text import brief

MOST = {
    "width": 2**16,
    "layers": 256,
    "d_state": 2**14,
    "expand": 64,
    "d_conv": 1024,
    "headdim": 2**16,
    "chunk_size": 2**16,
    "num_heads": 2**12,
    "context": 2**20,
}
"""Largest value of each size: far beyond what is of use, below what aborts the process."""


@dataclass(frozen=True)
class DynamicsConfig:
    """Which sequence model computes ``d_t = f(z_{1:t}, a_{1:t})``, and its sizes.

    Raises:
        ConfigError: If a size is below 1, sizes that the named backbone relates do not fit, or
            there is no such backend.
    """

    name: str = "mamba2"
    """Registered backbone: mamba2, mamba1, transformer, gru, or one of an installed package."""
    width: int = 512
    """Width D of the features that go in and come out."""
    layers: int = 2
    """Number of blocks."""
    d_state: int = 16
    """mamba1, mamba2: state size N per channel."""
    expand: int = 2
    """mamba1, mamba2: inner width as a multiple of width."""
    d_conv: int = 4
    """mamba1, mamba2: taps of the causal convolution."""
    headdim: int = 128
    """mamba2: size P of a head; divides expand * width."""
    chunk_size: int = 64
    """mamba2: steps handled as one quadratic product; changes speed only."""
    backend: BackendName = "auto"
    """mamba1, mamba2: ``torch``; ``kernels``, those of mamba_ssm and causal_conv1d on CUDA, or an
    error; ``auto``, the kernels wherever they can be used."""
    num_heads: int = 8
    """transformer: attention heads; divides width."""
    context: int = 64
    """transformer: steps a layer attends to, the current one included."""

    def __post_init__(self) -> None:
        """Check every size."""
        for field, most in MOST.items():
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
                raise ConfigError(
                    f"dynamics.{field} must be an integer in 1 .. {most:,}, got {brief(value)}"
                )
        check_backend_name(self.backend)
        if self.name == "mamba2" and (self.expand * self.width) % self.headdim:
            raise ConfigError(
                f"dynamics.headdim must divide expand * width = {self.expand * self.width}, "
                f"got {self.headdim}"
            )
        if self.name == "transformer" and self.width % self.num_heads:
            raise ConfigError(
                f"dynamics.num_heads must divide width = {self.width}, got {self.num_heads}"
            )
