"""Spatial latents: variables at each position of a feature map, read and predicted by convolutions.

A linear layer from all positions to all variables has to learn each arrangement of objects anew:
on MinAtar it memorises the frames that it is trained on. Layers that share their weights across
positions do not. The sequence model's width is divided among the positions: its residual stream
keeps the layout, and its blocks mix the positions over time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.errors import ConfigError
from drama.ops.rms_norm import RMSNormSiLU


class MapShape(NamedTuple):
    """Size of a map of features or latents."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.height * self.width * self.channels


def state_map(latents: MapShape, width: int) -> MapShape:
    """Return the map that fills the first entries of a sequence-model output of ``width``.

    Raises:
        ConfigError: The width is below the number of positions.
    """
    positions = latents.height * latents.width
    if width < positions:
        raise ConfigError(
            f"world_model.spatial_latents needs world_model.dynamics.width of at least {positions},"
            f" one entry for each position of the {latents.height}x{latents.width} feature map, "
            f"got {width}; 0 turns spatial latents off"
        )
    return MapShape(latents.height, latents.width, width // positions)


class SpatialEmbedding(nn.Module):
    """Sequence-model input: two convolutions of the latent map, the action added at each position.

    Args:
        latents: Map of the latents.
        variables: Variables at each position.
        action: Size A of an encoded action.
        width: Size D of the input.
        units: Channels between the convolutions.
    """

    def __init__(
        self, latents: MapShape, variables: int, action: int, width: int, units: int
    ) -> None:
        super().__init__()
        self.latents = latents
        output = state_map(latents, width)
        self.stoch = nn.Conv2d(latents.channels, units, 3, padding=1, bias=False)
        # One entry in each variable is 1: what the convolution adds up has unit variance.
        nn.init.normal_(self.stoch.weight, std=(9 * variables) ** -0.5)
        self.action = nn.Linear(action, units)
        nn.init.normal_(self.action.weight)
        self.out = nn.Conv2d(units, output.channels, 3, padding=1)
        self.rest = width - output.size
        self.norm = RMSNormSiLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map latents and encoded actions ``(..., Z + A)`` to ``(..., D)``."""
        stoch = x[..., : self.latents.size].flatten(0, -2)
        action = x[..., self.latents.size :].flatten(0, -2)
        hidden = self.stoch(to_map(stoch, self.latents)) + self.action(action)[..., None, None]
        y = from_map(self.out(F.silu(hidden)))
        rows: Tensor = self.norm(F.pad(y, (0, self.rest)))
        return rows.reshape(*x.shape[:-1], -1)


class SpatialHidden(nn.Module):
    """Hidden map of a sequence-model output: a convolution, plus all entries at each position."""

    def __init__(self, latents: MapShape, width: int, units: int) -> None:
        super().__init__()
        self.shape = state_map(latents, width)
        self.local = nn.Conv2d(self.shape.channels, units, 3, padding=1, bias=False)
        self.everywhere = nn.Linear(width, units)

    def forward(self, deter: Tensor) -> Tensor:
        """Map ``(N, D)`` to ``(N, units, h, w)``."""
        y = self.local(to_map(deter[:, : self.shape.size], self.shape))
        return F.silu(y + self.everywhere(deter)[..., None, None])


class SpatialPrior(nn.Module):
    """Logits of the next latent map from a sequence-model output."""

    def __init__(self, latents: MapShape, width: int, units: int) -> None:
        super().__init__()
        self.hidden = SpatialHidden(latents, width, units)
        self.out = nn.Conv2d(units, latents.channels, 1)

    def forward(self, deter: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., Z)``."""
        y = from_map(self.out(self.hidden(deter.flatten(0, -2))))
        return y.reshape(*deter.shape[:-1], -1)


class SpatialHead(nn.Module):
    """Prediction from a sequence-model output: a hidden map, its mean and maximum, then an MLP.

    Args:
        latents: Map of the latents.
        width: Size D of the sequence-model output.
        units: Channels of the hidden map.
        head: Maps the ``2 * units`` pooled features to the prediction.
    """

    def __init__(self, latents: MapShape, width: int, units: int, head: nn.Module) -> None:
        super().__init__()
        self.hidden = SpatialHidden(latents, width, units)
        self.head = head

    def forward(self, deter: Tensor) -> Tensor:
        """Map ``(..., D)`` to ``(..., outputs)``."""
        y = self.hidden(deter.flatten(0, -2)).flatten(2)
        output: Tensor = self.head(torch.cat([y.mean(-1), y.amax(-1)], dim=-1))
        return output.reshape(*deter.shape[:-1], -1)


def to_map(x: Tensor, shape: MapShape) -> Tensor:
    """Return ``(N, h * w * C)`` as a view ``(N, C, h, w)``."""
    return x.reshape(-1, *shape).permute(0, 3, 1, 2)


def from_map(x: Tensor) -> Tensor:
    """Return ``(N, C, h, w)`` as ``(N, h * w * C)``."""
    return x.permute(0, 2, 3, 1).flatten(1)
