"""Encoder: from an observation to the logits of its posterior latent, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from drama.config import WorldModelConfig
from drama.ops.batch_norm import ConvLayers
from drama.ops.dispatch import on_cpu
from drama.ops.dtypes import matmul_dtype
from drama.ops.rms_norm import RMSNorm
from drama.ops.standardise import RunningStandardise
from drama.world_model.twohot import symlog

FRAMES_AT_ONCE = 128
"""Images encoded at once on a CPU without gradients, so that their feature maps stay in cache."""


class FeatureMap(NamedTuple):
    """Size of a feature map in pixels, and the stride of the convolution that makes it."""

    height: int
    width: int
    stride: int


def feature_maps(height: int, width: int, config: WorldModelConfig) -> list[FeatureMap]:
    """Return the feature map of each convolution for images of any size.

    Strides are ``stem_stride`` and then 2. Where these would leave less than
    ``min_feature_side`` pixels a side, the first layers have stride 1 instead. A map of odd side
    is padded: stride 2 rounds up.
    """
    strides = [config.stem_stride, *[2] * (len(config.filters) - 1)]
    side, halvings = min(height, width), 0
    while (side := (side + 1) // 2) >= config.min_feature_side and halvings < len(strides):
        halvings += 1
    strides[: len(strides) - halvings] = [1] * (len(strides) - halvings)
    maps = []
    for stride in strides:
        height, width = -(-height // stride), -(-width // stride)
        maps.append(FeatureMap(height, width, stride))
    return maps


def latent_shape(shape: tuple[int, ...], config: WorldModelConfig) -> tuple[int, int]:
    """Return variables and classes of the latent for observations of a shape."""
    variables = config.latent_variables
    if config.spatial_latents and len(shape) == 3:
        last = feature_maps(shape[0], shape[1], config)[-1]
        variables = last.height * last.width * config.spatial_latents
    return variables, config.latent_classes


class ImageEncoder(nn.Module):
    """Convolutions with BatchNorm and SiLU, then one linear layer to the latent's logits."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        height, width, channels = shape
        maps, kernel = feature_maps(height, width, config), config.kernel
        layers: list[nn.Module] = []
        for filters, (_, _, stride) in zip(config.filters, maps, strict=True):
            conv = nn.Conv2d(channels, filters, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.SiLU()]
            channels = filters
        self.layers = ConvLayers(*layers)
        positions = maps[-1].height * maps[-1].width
        self.spatial = config.spatial_latents > 0
        if self.spatial:
            self.out = nn.Linear(channels, config.spatial_latents * config.latent_classes)
        else:
            size = config.latent_variables * config.latent_classes
            self.out = nn.Linear(positions * channels, size)
        self.latent_shape = latent_shape(shape, config)

    def forward(self, obs: Tensor) -> Tensor:
        """Map uint8 images ``(..., H, W, C)`` to logits ``(..., variables, classes)``."""
        images = obs.reshape(-1, *obs.shape[-3:])  # (N, H, W, C)
        if torch.is_grad_enabled() or self.training:
            logits = self._encode(images, [self.layers])
        else:
            layers = self.layers.folded()
            size = FRAMES_AT_ONCE if on_cpu(images) else max(len(images), 1)
            logits = torch.cat([self._encode(part, layers) for part in torch.split(images, size)])
        return logits.reshape(*obs.shape[:-3], *self.latent_shape)

    def update_moments(self, obs: Tensor) -> None:
        """Do nothing: BatchNorm standardises the first feature map."""

    def _encode(self, images: Tensor, layers: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
        # Without a float32 copy under autocast: bytes are exact in bfloat16.
        x = images.permute(0, 3, 1, 2).to(matmul_dtype(self.out.weight)).div_(255.0)
        for layer in layers:
            x = layer(x)  # (N, C, H, W) to (N, filters, h, w)
        x = x.permute(0, 2, 3, 1)
        logits: Tensor = self.out(x if self.spatial else x.flatten(1))
        return logits


class VectorEncoder(nn.Module):
    """Two hidden layers on symlog inputs, for vector observations.

    With ``standardise_obs`` the inputs are standardised by running moments.
    """

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        self.latent_shape = latent_shape(shape, config)
        size = math.prod(self.latent_shape)
        self.layers = vector_layers(shape[0], config.vector_units, size)
        self.moments = RunningStandardise(shape[0]) if config.standardise_obs else None

    def forward(self, obs: Tensor) -> Tensor:
        """Map vectors ``(..., N)`` to logits ``(..., variables, classes)``."""
        x = symlog(obs.float())
        logits: Tensor = self.layers(x if self.moments is None else self.moments(x))
        return logits.reshape(*obs.shape[:-1], *self.latent_shape)

    def update_moments(self, obs: Tensor) -> None:
        """Update the running moments by a training batch ``(..., N)``."""
        if self.moments is not None:
            self.moments.update(symlog(obs.float()))


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
