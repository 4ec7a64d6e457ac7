"""Decoder: from a latent to the observation it represents, and the reconstruction loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from drama.config import WorldModelConfig
from drama.ops.batch_norm import ConvLayers
from drama.ops.pixel_loss import pixel_loss
from drama.ops.standardise import RunningStandardise
from drama.world_model.encoder import feature_maps, vector_layers
from drama.world_model.motion import moving_pixels
from drama.world_model.twohot import symexp, symlog

MARGIN = 0.01
"""Least distance of a pixel of the mean image from 0 and 1, where the sigmoid saturates."""


class ImageDecoder(nn.Module):
    """Mirror of the encoder: linear, BatchNorm, SiLU, then transposed convolutions.

    It reads the latent alone, not the deterministic state. With ``standardise_obs`` the layers
    add to the logits of a running mean image, so that a latent need not hold the background.
    """

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        height, width, channels = shape
        maps = feature_maps(height, width, config)
        *_, (h, w, _) = maps
        self.map_shape = (h, w, config.filters[-1])
        self.spatial = config.spatial_latents > 0
        if self.spatial:
            size = config.spatial_latents * config.latent_classes
            self.inp = nn.Linear(size, self.map_shape[-1], bias=False)
        else:
            size = config.latent_variables * config.latent_classes
            self.inp = nn.Linear(size, math.prod(self.map_shape), bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(config.filters[-1]), nn.SiLU()]
        sizes = [(height, width), *[(h, w) for h, w, _ in maps]]
        outputs = [channels, *config.filters]
        kernel, padding = config.kernel, config.kernel // 2
        for i in reversed(range(len(maps))):
            stride, last = maps[i].stride, i == 0
            # Undo the encoder's rounding: the output has the size of that layer's input.
            (h, w), (h_in, w_in) = sizes[i], sizes[i + 1]
            extra = (h - (h_in - 1) * stride - 1, w - (w_in - 1) * stride - 1)
            layers.append(
                nn.ConvTranspose2d(
                    outputs[i + 1], outputs[i], kernel, stride, padding, extra, bias=last
                )
            )
            if not last:
                layers += [nn.BatchNorm2d(outputs[i]), nn.SiLU()]
        self.layers = ConvLayers(*layers)
        self.motion_weight = config.motion_weight
        self.cross_entropy = config.image_loss == "cross-entropy"
        self.moments = RunningStandardise(math.prod(shape)) if config.standardise_obs else None

    def logits(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to images ``(..., H, W, C)`` before the sigmoid."""
        lead = stoch.shape[:-1]
        latents = (*self.map_shape[:2], -1) if self.spatial else (-1,)
        x = self.inp(stoch.reshape(math.prod(lead), *latents))  # (N, h * w * filters)
        x = x.reshape(-1, *self.map_shape).permute(0, 3, 1, 2)
        x = self.layers(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        logits: Tensor = x.reshape(*lead, *x.shape[1:])
        if self.moments is not None:
            mean = self.moments.mean.clamp(MARGIN, 1.0 - MARGIN).view(x.shape[1:])
            logits = logits + torch.logit(mean).to(logits.dtype)
        return logits

    def forward(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to images ``(..., H, W, C)`` with values in [0, 1]."""
        return torch.sigmoid(self.logits(stoch))

    def loss(self, stoch: Tensor, obs: Tensor, is_first: Tensor) -> Tensor:
        """Error summed over pixels and channels, for latents ``(B, T, Z)``: ``(B, T)``.

        Squared error or cross-entropy (``world_model.image_loss``), weighted by
        ``world_model.motion_weight`` where pixels move.
        """
        moving = moving_pixels(obs, is_first) if self.motion_weight != 1 else None
        return pixel_loss(self.logits(stoch), obs, moving, self.motion_weight, self.cross_entropy)

    def update_moments(self, obs: Tensor) -> None:
        """Update the mean image by a training batch ``(..., H, W, C)``."""
        if self.moments is not None:
            self.moments.update(obs.flatten(-3).float() / 255.0)

    @staticmethod
    def to_obs(prediction: Tensor) -> Tensor:
        """Return predictions as observations: uint8 images."""
        return (prediction.float() * 255.0).round().clamp(0, 255).to(torch.uint8)


class VectorDecoder(nn.Module):
    """Two hidden layers to symlog vectors; the loss weights all entries alike."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        size = config.latent_variables * config.latent_classes
        self.layers = vector_layers(size, config.vector_units, shape[0])
        self.moments = RunningStandardise(shape[0]) if config.standardise_obs else None

    def forward(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to symlog vectors ``(..., N)``, standardised if configured."""
        prediction: Tensor = self.layers(stoch)
        return prediction

    def loss(self, stoch: Tensor, obs: Tensor, is_first: Tensor) -> Tensor:
        """Squared error in symlog space summed over entries: ``(B, T, Z)`` to ``(B, T)``.

        With ``standardise_obs`` each entry is in units of its standard deviation.
        """
        target = symlog(obs.float())
        if self.moments is not None:
            target = self.moments(target)
        error: Tensor = self(stoch).float() - target
        return error.square().sum(dim=-1)

    def update_moments(self, obs: Tensor) -> None:
        """Update the running moments by a training batch ``(..., N)``."""
        if self.moments is not None:
            self.moments.update(symlog(obs.float()))

    def to_obs(self, prediction: Tensor) -> Tensor:
        """Return predictions as observations: float32 vectors."""
        if self.moments is not None:
            prediction = self.moments.invert(prediction)
        return symexp(prediction.float())
