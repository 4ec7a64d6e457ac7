"""Settings of the world model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from drama.dynamics.config import DynamicsConfig
from drama.training.config import OptimConfig
from drama.validation import Section, fraction, learning, positive, require

TwoHotDecode = Literal["symexp-mean", "mean-symexp"]
ImageLoss = Literal["squared-error", "cross-entropy"]


def check_bins(section: str, bins: int, limit: float, decode: TwoHotDecode) -> None:
    """Require that the two-hot bins of a section are odd in number and finite in float32."""
    require(bins >= 3 and bins % 2 == 1, f"{section}.bins must be odd, at least 3")
    require(
        decode == "symexp-mean" or limit <= 80,
        f"{section}.bin_limit must be at most 80 with twohot_decode {decode}, whose outermost bins "
        f"would overflow float32; got {limit}",
    )


@dataclass(frozen=True)
class WorldModelConfig(Section):
    """Discrete VAE, sequence model and heads, with the weights of their losses."""

    filters: tuple[int, ...] = learning((16, 32, 48, 64, 64), most=2**14)
    """Channels of the encoder's convolutions; the decoder mirrors them."""
    kernel: int = learning(5, most=255)
    """Side of every convolution kernel (odd)."""
    stem_stride: Literal[1, 2] = learning(1)
    """Stride of the first convolution (the others: 2): 1 in the public code; 2 is faster."""
    min_feature_side: int = learning(1, most=2**12)
    """Smallest side of a feature map; the first layers keep a smaller image's size."""
    vector_units: int = learning(256, most=2**16)
    """Width of the two hidden layers that replace convolutions for vector observations."""
    latent_variables: int = learning(32, most=2**12)
    """Categorical variables in the latent."""
    latent_classes: int = learning(32, most=2**12)
    """Classes of each variable, at least 2."""
    spatial_latents: int = learning(0, most=2**12)
    """Variables per position of an image's last feature map; 0: ``latent_variables`` in all.

    Encoder, decoder, prior and heads then share their weights across positions, see
    `drama.world_model.spatial`. Vector observations ignore it; the paper has none.
    """
    unimix: float = learning(0.01)
    """Share of the uniform distribution mixed into each categorical, in [0, 1]."""
    head_units: int = learning(256, most=2**16)
    """Width of the hidden layer of the reward and the termination head."""
    bins: int = learning(255, most=2**16)
    """Two-hot bins over symlog space (odd)."""
    bin_limit: float = learning(20.0)
    """The bins span [-bin_limit, bin_limit] in symlog space."""
    twohot_decode: TwoHotDecode = learning("symexp-mean")
    """Expected reward: symexp of the mean bin (public code) or mean of symexp (DreamerV3)."""
    free_bits: float = learning(1.0)
    """Nats below which the KL of a step has no gradient."""
    beta_dyn: float = learning(1.0)
    """Weight of the dynamics loss, which trains the prior towards the posterior."""
    beta_rep: float = learning(0.1)
    """Weight of the representation loss, which trains the posterior towards the prior."""
    image_loss: ImageLoss = learning("squared-error")
    """Reconstruction loss of pixels in [0, 1]: ``squared-error`` (paper) or ``cross-entropy``."""
    standardise_obs: bool = learning(False)
    """Standardise vectors, decode images as deviations from the mean image; paper: off."""
    motion_weight: float = learning(1.0)
    """Weight in the reconstruction loss of pixels that change between frames; paper: 1.

    Small moving objects are a small share of a frame's error. Vector observations ignore it.
    """
    batch_size: int = learning(16, most=2**24)
    """Windows per update."""
    batch_length: int = learning(128, most=2**24)
    """Steps per window, at least 2."""
    action_scale: float = learning(1.0)
    """Value of the active entry of the one-hot action in the sequence model's input; paper: 1.

    The latent has ``latent_variables`` active entries; with their square root, action and latent
    have equal norms.
    """
    reset_at_episode_start: bool = learning(False)
    """Reset the sequence state at episode boundaries inside a window; paper: off."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Sequence model."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimiser of the world model."""

    def _check(self) -> None:
        section = "world_model"
        require(0 < len(self.filters) <= 16, f"{section}.filters must name 1 to 16 layers")
        positive(section, **{f"filters[{i}]": n for i, n in enumerate(self.filters)})
        require(self.kernel % 2 == 1, f"{section}.kernel must be odd, got {self.kernel}")
        fraction(section, unimix=self.unimix)
        positive(
            section,
            kernel=self.kernel,
            min_feature_side=self.min_feature_side,
            vector_units=self.vector_units,
            latent_variables=self.latent_variables,
            head_units=self.head_units,
            bin_limit=self.bin_limit,
            batch_size=self.batch_size,
            action_scale=self.action_scale,
            motion_weight=self.motion_weight,
        )
        require(self.spatial_latents >= 0, f"{section}.spatial_latents must not be negative")
        for name in ("free_bits", "beta_dyn", "beta_rep"):
            require(getattr(self, name) >= 0, f"{section}.{name} must not be negative")
        require(self.latent_classes >= 2, f"{section}.latent_classes must be at least 2")
        check_bins(section, self.bins, self.bin_limit, self.twohot_decode)
        require(self.batch_length >= 2, f"{section}.batch_length must be at least 2")
