"""Decoder: from a latent to the observation it represents, and the reconstruction loss.

Each kind of leaf has its decoder and its likelihood; :func:`make_decoder` returns that of the only
leaf, or a :class:`JointDecoder` of those of several.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from drama.config import WorldModelConfig
from drama.observations import Leaf, ObsSpace
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


class OneHotDecoder(nn.Module):
    """Two hidden layers to the logits of categorical variables."""

    known: Tensor

    def __init__(self, classes: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        shape = (len(classes), max(classes))
        size = config.latent_variables * config.latent_classes
        self.layers = vector_layers(size, config.vector_units, math.prod(shape))
        known = torch.arange(shape[1]) < torch.tensor(classes).unsqueeze(-1)  # (N, C)
        self.register_buffer("known", known, persistent=False)

    def forward(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to log-probabilities ``(..., N, C)``, float32.

        C is the most classes of a variable; classes that a variable lacks have probability 0.
        """
        logits: Tensor = self.layers(stoch).float()
        logits = logits.reshape(*stoch.shape[:-1], *self.known.shape)  # (..., N, C)
        return torch.log_softmax(logits.masked_fill(~self.known, -torch.inf), dim=-1)

    def loss(self, stoch: Tensor, obs: Tensor, is_first: Tensor) -> Tensor:
        """Cross-entropy summed over variables: ``(B, T, Z)`` to ``(B, T)``."""
        log_prob: Tensor = self(stoch).gather(-1, obs.long().unsqueeze(-1))  # (B, T, N, 1)
        return -log_prob.sum(dim=(-2, -1))

    def update_moments(self, obs: Tensor) -> None:
        """Do nothing: class indices need no standardisation."""

    @staticmethod
    def to_obs(prediction: Tensor) -> Tensor:
        """Return the most probable classes ``(..., N)``, int32."""
        return prediction.argmax(dim=-1).int()


class JointDecoder(nn.Module):
    """Decoders of the leaves that are reconstructed."""

    def __init__(self, observations: ObsSpace, config: WorldModelConfig) -> None:
        super().__init__()
        config = dataclasses.replace(config, spatial_latents=0)  # see JointEncoder
        decoded = observations.decoded
        self.names = tuple(leaf.name for leaf in decoded.leaves)
        self.parts = nn.ModuleList(leaf_decoder(leaf, config) for leaf in decoded.leaves)

    def forward(self, stoch: Tensor) -> dict[str, Tensor]:
        """Map latents ``(..., Z)`` to the predictions of each leaf's decoder."""
        return {name: part(stoch) for name, part in self._items()}

    def loss(self, stoch: Tensor, obs: dict[str, Tensor], is_first: Tensor) -> dict[str, Tensor]:
        """Loss of each leaf, its negative log-likelihood: ``(B, T, Z)`` to ``(B, T)``."""
        return {name: part.loss(stoch, obs[name], is_first) for name, part in self._items()}

    def update_moments(self, obs: dict[str, Tensor]) -> None:
        """Update the running moments of each leaf's decoder."""
        for name, part in self._items():
            part.update_moments(obs[name])

    def to_obs(self, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return predictions as observations, without the leaves that are not reconstructed."""
        return {name: part.to_obs(prediction[name]) for name, part in self._items()}

    def _items(self) -> Iterator[tuple[str, Any]]:
        return zip(self.names, self.parts, strict=True)


def make_decoder(observations: ObsSpace, config: WorldModelConfig) -> Any:
    """Return the decoder of an observation space."""
    single = observations.single
    return JointDecoder(observations, config) if single is None else leaf_decoder(single, config)


def leaf_decoder(leaf: Leaf, config: WorldModelConfig) -> nn.Module:
    """Return the decoder of one leaf."""
    if leaf.kind == "one-hot":
        return OneHotDecoder(leaf.classes, config)
    return (ImageDecoder if leaf.kind == "image" else VectorDecoder)(leaf.shape, config)
