"""Settings of the sequence model."""

from __future__ import annotations

from dataclasses import dataclass

from drama.ops.backend_name import BackendName
from drama.registry import SEQUENCE_MODELS
from drama.validation import Section, learning, positive, require, speed


@dataclass(frozen=True)
class DynamicsConfig(Section):
    """The sequence model ``d_t = f(z_{1:t}, a_{1:t})`` and its sizes.

    Raises:
        ConfigError: If a size is out of range, or sizes that the model relates do not fit.
    """

    name: str = learning("mamba2")
    """Registered model: mamba2, mamba1, transformer, gru, or one of an installed package."""
    width: int = learning(512, most=2**16)
    """Width D of the input and output features."""
    layers: int = learning(2, most=256)
    """Number of blocks."""
    d_state: int = learning(16, most=2**14)
    """mamba1, mamba2: state size N per channel."""
    expand: int = learning(2, most=64)
    """mamba1, mamba2: inner width as a multiple of width."""
    d_conv: int = learning(4, most=1024)
    """mamba1, mamba2: taps of the causal convolution."""
    headdim: int = learning(128, most=2**16)
    """mamba2: size P of a head; divides expand * width."""
    chunk_size: int = speed(64, resume=False, most=2**16)
    """mamba2: steps per chunk of the scan; affects speed only."""
    backend: BackendName = speed("auto")
    """mamba1, mamba2: ``torch``, ``kernels`` (of mamba_ssm, CUDA only) or ``auto``."""
    num_heads: int = learning(8, most=2**12)
    """transformer: attention heads; divides width."""
    context: int = learning(64, most=2**20)
    """transformer: steps that a layer attends to, the current one included."""

    def _check(self) -> None:
        SEQUENCE_MODELS.check(self.name, "dynamics.name")
        positive(
            "dynamics",
            width=self.width,
            layers=self.layers,
            d_state=self.d_state,
            expand=self.expand,
            d_conv=self.d_conv,
            headdim=self.headdim,
            chunk_size=self.chunk_size,
            num_heads=self.num_heads,
            context=self.context,
        )
        if self.name == "mamba2":
            inner = self.expand * self.width
            require(
                inner % self.headdim == 0,
                f"dynamics.headdim must divide expand * width = {inner}, got {self.headdim}",
            )
        if self.name == "transformer":
            require(
                self.width % self.num_heads == 0,
                f"dynamics.num_heads must divide width = {self.width}, got {self.num_heads}",
            )
