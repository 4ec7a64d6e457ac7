"""From an observation to the logits of its posterior latent, one frame at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from drama.config import WorldModelConfig
from drama.errors import ConfigError
from drama.ops.batch_norm import ImageLayers
from drama.ops.rms_norm import RMSNorm
from drama.world_model.twohot import symlog

FRAMES_AT_ONCE = 128
"""Frames encoded in one piece when no gradient is needed."""


def feature_side(image_side: int, config: WorldModelConfig) -> int:
    """Side of the last feature map for a square image.

    Raises:
        ConfigError: The image cannot be halved as often as the layers ask.
    """
    halvings = len(config.filters) - 1 + (config.stem_stride == 2)
    factor: int = 2**halvings
    side, rest = divmod(image_side, factor)
    if rest or side < 1:
        raise ConfigError(
            f"{len(config.filters)} convolution layers halve a frame {halvings} times, which "
            f"{image_side} pixels do not allow; set env.image_size to a multiple of {factor}, or "
            "world_model.filters to fewer layers"
        )
    return side


def channels_last(module: nn.Module) -> None:
    """Store convolution weights channels-last, the faster layout on CPUs and tensor cores."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that equals ``conv``, then ``norm`` in evaluation.

    ``conv`` has no bias of its own.
    """
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


class ImageEncoder(nn.Module):
    """Convolutions with BatchNorm and SiLU, then one linear layer to the latent's logits."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        height, width, channels = shape
        if height != width:
            raise ConfigError(f"frames must be square, got {height}x{width}; set env.image_size")
        side = feature_side(height, config)
        layers: list[nn.Module] = []
        for i, filters in enumerate(config.filters):
            stride = config.stem_stride if i == 0 else 2
            conv = nn.Conv2d(
                channels, filters, config.kernel, stride, padding=config.kernel // 2, bias=False
            )
            layers += [conv, nn.BatchNorm2d(filters), nn.SiLU()]
            channels = filters
        self.layers = ImageLayers(*layers)
        channels_last(self.layers)
        self.out = nn.Linear(side * side * channels, config.stoch_size)
        self.latent_shape = (config.latent_variables, config.latent_classes)

    def forward(self, obs: Tensor) -> Tensor:
        """Map uint8 frames ``(..., H, W, C)`` to logits ``(..., variables, classes)``."""
        frames = obs.reshape(-1, *obs.shape[-3:])  # (N, H, W, C)
        if torch.is_grad_enabled() or self.training:
            logits = self._encode(frames)
        else:
            # Imagination encodes thousands of frames without a gradient: bound the memory.
            logits = torch.cat([self._encode(part) for part in torch.split(frames, FRAMES_AT_ONCE)])
        return logits.reshape(*obs.shape[:-3], *self.latent_shape)

    def _encode(self, frames: Tensor) -> Tensor:
        # (N, H, W, C) seen as (N, C, H, W) is channels-last already. Bytes are exact in bfloat16
        # too, so no float32 copy of the frames is made on the way.
        x = frames.permute(0, 3, 1, 2).to(self._image_dtype(frames.device)).div_(255.0)
        x = self.layers(x) if self.training or torch.is_grad_enabled() else self._folded(x)
        logits: Tensor = self.out(x.permute(0, 2, 3, 1).flatten(1))  # from (N, C', h, w)
        return logits

    def _folded(self, x: Tensor) -> Tensor:
        """Return what the layers make of ``x`` in evaluation mode, in fewer passes over it."""
        layers = list(self.layers)
        for conv, norm in zip(layers[::3], layers[1::3], strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            x = F.conv2d(x, *fold(conv, norm), conv.stride, conv.padding)
            x = F.silu(x, inplace=True)
        return x

    def _image_dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self.out.weight.dtype


class VectorEncoder(nn.Module):
    """Two hidden layers on symlog inputs, for flat vector observations."""

    def __init__(self, shape: tuple[int, ...], config: WorldModelConfig) -> None:
        super().__init__()
        (size,), units = shape, config.vector_units
        self.layers = nn.Sequential(
            nn.Linear(size, units),
            RMSNorm(units),
            nn.SiLU(),
            nn.Linear(units, units),
            RMSNorm(units),
            nn.SiLU(),
            nn.Linear(units, config.stoch_size),
        )
        self.latent_shape = (config.latent_variables, config.latent_classes)

    def forward(self, obs: Tensor) -> Tensor:
        """Map vectors ``(..., N)`` to logits ``(..., variables, classes)``."""
        logits: Tensor = self.layers(symlog(obs.float()))
        return logits.reshape(*obs.shape[:-1], *self.latent_shape)
