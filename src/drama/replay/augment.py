"""Random-shift augmentation (DrQ) of whole windows."""

from __future__ import annotations

import torch
from torch import Tensor

from drama.errors import ConfigError


def check_shift(random_shift: tuple[int, ...], obs_shape: tuple[int, ...]) -> None:
    """Check ``replay.random_shift`` against the shape of an observation.

    Raises:
        ConfigError: A shift is not smaller than the frame.
    """
    for most, side, word in zip(random_shift, obs_shape[:2], ("rows", "columns"), strict=True):
        if most >= side:
            raise ConfigError(
                f"replay.random_shift of {most} leaves nothing of {side} {word} of pixels"
            )


def shift_frames(
    obs: Tensor, rows: int, columns: int, generator: torch.Generator | None = None
) -> Tensor:
    """Shift each window by a random offset, the same for all of its frames.

    Kostrikov et al. (2021), *Image Augmentation Is All You Need*, applied to whole windows: what
    is learnt at one position also holds at the positions around it.

    Args:
        obs: Frames ``(B, T, H, W, C)``.
        rows: Largest vertical shift in pixels; offsets are uniform.
        columns: Largest horizontal shift in pixels.
        generator: Source of the offsets, on the device of ``obs``.

    Returns:
        Frames of the same shape; uncovered pixels repeat the edge.
    """
    batch, length, height, width = obs.shape[:4]
    index = []
    for side, most in ((height, rows), (width, columns)):
        move = torch.randint(-most, most + 1, (batch, 1), generator=generator, device=obs.device)
        # Row i of the shifted frame is row i - move of the frame.
        index.append((torch.arange(side, device=obs.device) - move).clamp(0, side - 1))
    window = torch.arange(batch, device=obs.device).view(batch, 1, 1, 1)
    time = torch.arange(length, device=obs.device).view(1, length, 1, 1)
    return obs[window, time, index[0].view(batch, 1, height, 1), index[1].view(batch, 1, 1, width)]
