"""From a latent back to the observation it stands for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from drama.config import WorldModelConfig
from drama.ops.autograd import differentiable_once
from drama.ops.batch_norm import ImageLayers
from drama.ops.blocking import row_blocks
from drama.ops.dispatch import on_cpu
from drama.ops.rms_norm import RMSNorm
from drama.world_model.encoder import channels_last, feature_side
from drama.world_model.motion import moving_pixels
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
        self.layers = ImageLayers(*layers)
        channels_last(self.layers)
        self.motion_weight = config.motion_weight

    def logits(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to frames ``(..., H, W, C)`` before the sigmoid."""
        lead = stoch.shape[:-1]
        x = self.inp(stoch.reshape(-1, stoch.shape[-1]))  # (N, h * w * C')
        x = x.reshape(-1, self.side, self.side, self.filters).permute(0, 3, 1, 2)
        x = self.layers(x).permute(0, 2, 3, 1)  # (N, H, W, C)
        logits: Tensor = x.reshape(*lead, *x.shape[1:])
        return logits

    def forward(self, stoch: Tensor) -> Tensor:
        """Map latents ``(..., Z)`` to frames ``(..., H, W, C)`` with values in [0, 1]."""
        return torch.sigmoid(self.logits(stoch))

    def loss(self, stoch: Tensor, obs: Tensor, is_first: Tensor) -> Tensor:
        """Squared error summed over pixels and channels, of latents ``(B, T, Z)``: ``(B, T)``.

        Pixels that move count ``world_model.motion_weight`` times.
        """
        moving = moving_pixels(obs, is_first) if self.motion_weight != 1 else None
        return frame_error(self.logits(stoch), obs, moving, self.motion_weight)

    @staticmethod
    def to_obs(prediction: Tensor) -> Tensor:
        """Return predictions as observations: uint8 frames."""
        return (prediction.float() * 255.0).round().clamp(0, 255).to(torch.uint8)


def frame_error(
    logits: Tensor, obs: Tensor, moving: Tensor | None = None, motion_weight: float = 1.0
) -> Tensor:
    """Squared error of ``sigmoid(logits)`` to ``obs / 255``, summed over each frame, in float32.

    Args:
        logits: ``(..., H, W, C)``.
        obs: uint8 frames of the same shape.
        moving: Pixels that count ``motion_weight`` times, bool ``(..., H, W)``.
        motion_weight: See ``moving``.

    Returns:
        ``(...)``. On a CPU it can be differentiated once.
    """
    if not on_cpu(logits):
        error = (torch.sigmoid(logits.float()) - obs.float() / 255.0).square()
        if moving is not None:
            error = error * torch.where(moving, motion_weight, 1.0).unsqueeze(-1)
        return error.sum(dim=(-3, -2, -1))
    lead = logits.shape[:-3]
    if moving is not None:
        moving = moving.reshape(lead.numel(), -1)
    total: Tensor = _FrameError.apply(  # type: ignore[no-untyped-call]
        logits.reshape(lead.numel(), -1), obs.reshape(lead.numel(), -1), moving, motion_weight
    )
    return total.reshape(lead)


class _FrameError(torch.autograd.Function):
    """:func:`frame_error` block by block, its gradient taken along while the error is in cache.

    Written out, seven tensors of the size of the batch's frames in float32 pass through memory.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, obs: Tensor, moving: Tensor | None, motion_weight: float
    ) -> Tensor:
        """Take frames ``(N, P C)`` and pixels ``(N, P)``; return ``(N,)``."""
        total = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        slope = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        for rows in row_blocks(len(logits), logits.shape[1], logits.device):
            frame = torch.sigmoid(logits[rows].float())
            error = torch.add(frame, obs[rows], alpha=-1 / 255)
            weighted = error
            if moving is not None:
                weight = torch.where(moving[rows], motion_weight, 1.0).unsqueeze(-1)
                weighted = (error.view(*weight.shape[:2], -1) * weight).view_as(error)
            if slope is not None:
                slope[rows] = torch.ops.aten.sigmoid_backward(weighted, frame)
            torch.sum(error.mul_(weighted), dim=1, out=total[rows])
        ctx.save_for_backward(slope)
        return total

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, dtotal: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of ``logits``."""
        (slope,) = ctx.saved_tensors
        return slope * (2.0 * dtotal).to(slope.dtype)[:, None], None, None, None


class VectorDecoder(nn.Module):
    """Two hidden layers to symlog vectors, all of whose entries count alike."""

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

    def loss(self, stoch: Tensor, obs: Tensor, is_first: Tensor) -> Tensor:
        """Squared error in symlog space summed over entries: ``(B, T, Z)`` to ``(B, T)``."""
        error: Tensor = self(stoch).float() - symlog(obs.float())
        return error.square().sum(dim=-1)

    @staticmethod
    def to_obs(prediction: Tensor) -> Tensor:
        """Return predictions as observations: float32 vectors."""
        return symexp(prediction.float())
