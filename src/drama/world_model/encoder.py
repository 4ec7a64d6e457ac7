"""Encoder: from an observation to the logits of its posterior latent, one step at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drama.config import WorldModelConfig
from drama.errors import ConfigError
from drama.ops.batch_norm import ConvLayers
from drama.ops.dtypes import matmul_dtype
from drama.ops.rms_norm import RMSNorm
from drama.world_model.twohot import symlog

FRAMES_AT_ONCE = 128
"""Images encoded at once without a gradient; bounds memory in imagination."""


def feature_side(image_side: int, config: WorldModelConfig) -> int:
    """Return the side of the last feature map of a square image, in pixels.

    Raises:
        ConfigError: The image cannot be halved as often as the layers require.
    """
    halvings = len(config.filters) - 1 + (config.stem_stride == 2)
    factor: int = 2**halvings
    side, rest = divmod(image_side, factor)
    if rest or side < 1:
        raise ConfigError(
            f"{len(config.filters)} convolution layers halve an image {halvings} times, which "
            f"{image_side} pixels do not allow; set env.image_size to a multiple of {factor}, or "
            "world_model.filters to fewer layers"
        )
    return side


class ImageEncoder(nn.Module):
    """Convolutions with BatchNorm and SiLU, then one linear layer to the latent's logits."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        height, width, channels = shape
        if height != width:
            raise ConfigError(f"images must be square, got {height}x{width}; set env.image_size")
        side, kernel = feature_side(height, config), config.kernel
        layers: list[nn.Module] = []
        for i, filters in enumerate(config.filters):
            stride = config.stem_stride if i == 0 else 2
            conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.SiLU()]
            channels = filters
        self.layers = ConvLayers(*layers)
        self.out = nn.Linear(side * side * channels, config.stoch_size)
        self.latent_shape = (config.latent_variables, config.latent_classes)

    def forward(self, obs: Tensor) -> Tensor:
        """Map uint8 images ``(..., H, W, C)`` to logits ``(..., variables, classes)``."""
        images = obs.reshape(-1, *obs.shape[-3:])  # (N, H, W, C)
        if torch.is_grad_enabled() or self.training:
            logits = self._encode(images)
        else:
            logits = torch.cat([self._encode(part) for part in torch.split(images, FRAMES_AT_ONCE)])
        return logits.reshape(*obs.shape[:-3], *self.latent_shape)

    def _encode(self, images: Tensor) -> Tensor:
        # Without a float32 copy under autocast: bytes are exact in bfloat16.
        x = images.permute(0, 3, 1, 2).to(matmul_dtype(self.out.weight)).div_(255.0)
        x = self.layers(x)  # (N, C, H, W) to (N, filters, h, w)
        logits: Tensor = self.out(x.permute(0, 2, 3, 1).flatten(1))
        return logits


class VectorEncoder(nn.Module):
    """Two hidden layers on symlog inputs, for vector observations."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        self.layers = vector_layers(shape[0], config.vector_units, config.stoch_size)
        self.latent_shape = (config.latent_variables, config.latent_classes)

    def forward(self, obs: Tensor) -> Tensor:
        """Map vectors ``(..., N)`` to logits ``(..., variables, classes)``."""
        logits: Tensor = self.layers(symlog(obs.float()))
        return logits.reshape(*obs.shape[:-1], *self.latent_shape)


def vector_layers(inputs: int, units: int, outputs: int) -> nn.Sequential:
    """Return two hidden layers of linear, RMSNorm and SiLU, then a linear output."""
    return nn.Sequential(
        nn.Linear(inputs, units),
        RMSNorm(units),
        nn.SiLU(),
        nn.Linear(units, units),
        RMSNorm(units),
        nn.SiLU(),
        nn.Linear(units, outputs),
    )
