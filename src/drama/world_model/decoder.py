"""From a latent back to the observation it stands for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drama.config import WorldModelConfig
from drama.norm import RMSNorm
from drama.world_model.encoder import channels_last, feature_side
from drama.world_model.twohot import symexp, symlog


class ImageDecoder(nn.Module):
    """Mirror of the encoder: linear, BatchNorm, SiLU, then transposed convolutions.

    It reads the latent alone, not the deterministic state.
    """

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        height, _, channels = shape
        self.side, self.filters = feature_side(height, config), config.filters[-1]
        self.inp = nn.Linear(config.stoch_size, self.side * self.side * self.filters, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.filters), nn.SiLU()]
        padding, before = config.kernel // 2, self.filters
        for filters in reversed(config.filters[:-1]):
            conv = nn.ConvTranspose2d(
                before, filters, config.kernel, 2, padding, output_padding=1, bias=False
            )
            layers += [conv, nn.BatchNorm2d(filters), nn.SiLU()]
            before = filters
        stride = config.stem_stride
        layers.append(
            nn.ConvTranspose2d(
                before, channels, config.kernel, stride, padding, output_padding=stride - 1
            )
        )
        self.layers = nn.Sequential(*layers)
        channels_last(self.layers)

    def forward(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to frames ``(..., H, W, C)`` with values in [0, 1]."""
        lead = stoch.shape[:-1]
        x = self.inp(stoch.reshape(-1, stoch.shape[-1]))  # (N, h * w * C')
        x = x.reshape(-1, self.side, self.side, self.filters).permute(0, 3, 1, 2)
        x = torch.sigmoid(self.layers(x)).permute(0, 2, 3, 1)  # (N, H, W, C)
        return x.reshape(*lead, *x.shape[1:])

    @staticmethod
    def loss(prediction: Tensor, obs: Tensor) -> Tensor:
        """Squared error summed over pixels and channels: ``(..., H, W, C)`` to ``(...)``."""
        error = prediction.float() - obs.float() / 255.0
        return error.square().sum(dim=(-3, -2, -1))

    @staticmethod
    def to_obs(prediction: Tensor) -> Tensor:
        """Return predictions as observations: uint8 frames."""
        return (prediction.float() * 255.0).round().clamp(0, 255).to(torch.uint8)


class VectorDecoder(nn.Module):
    """Two hidden layers to symlog vectors."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        (size,), units = shape, config.vector_units
        self.layers = nn.Sequential(
            nn.Linear(config.stoch_size, units),
            RMSNorm(units),
            nn.SiLU(),
            nn.Linear(units, units),
            RMSNorm(units),
            nn.SiLU(),
            nn.Linear(units, size),
        )

    def forward(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to symlog vectors ``(..., N)``."""
        prediction: Tensor = self.layers(stoch)
        return prediction

    @staticmethod
    def loss(prediction: Tensor, obs: Tensor) -> Tensor:
        """Squared error in symlog space summed over entries: ``(..., N)`` to ``(...)``."""
        return (prediction.float() - symlog(obs.float())).square().sum(dim=-1)

    @staticmethod
    def to_obs(prediction: Tensor) -> Tensor:
        """Return predictions as observations: float32 vectors."""
        return symexp(prediction.float())
