"""Random-shift augmentation of windows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from drama.config import ReplayConfig
from drama.errors import ConfigError
from drama.replay import ReplayBuffer, shift_frames


def g(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def placed(row: int, column: int) -> torch.Tensor:
    """One window of two 4 x 5 frames; the pixel that is lit moves one to the right."""
    obs = torch.zeros(1, 2, 4, 5, 1, dtype=torch.uint8)
    obs[0, 0, row, column], obs[0, 1, row, column + 1] = 7, 7
    return obs


def test_windows_are_shifted_by_every_offset_equally_often() -> None:
    moved = shift_frames(placed(1, 1).repeat(6000, 1, 1, 1, 1), 1, 0, g())
    assert moved.dtype == torch.uint8
    places = moved[..., 0].flatten(2).argmax(-1)  # (N, 2)
    rows, columns = places // 5, places % 5
    assert torch.equal(rows[:, 0], rows[:, 1])  # both frames of a window alike
    assert columns.unique(dim=0).tolist() == [[1, 2]]  # no horizontal shift configured
    counts = torch.bincount(rows[:, 0])
    assert counts.numel() == 3
    assert torch.all((counts - 2000).abs() < 150)  # four standard deviations


def test_rows_and_columns_shift_independently_and_edges_repeat() -> None:
    frame = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3, 1)
    moved = shift_frames(frame.repeat(300, 1, 1, 1, 1), 1, 2, g())
    seen = {tuple(f) for f in moved.flatten(1).tolist()}
    assert len(seen) == 3 * 5
    assert (0, 0, 1, 0, 0, 1, 3, 3, 4) in seen  # one down, one to the right
    assert (5, 5, 5, 8, 8, 8, 8, 8, 8) in seen  # one up, two to the left


def test_offset_zero_is_the_frame_itself() -> None:
    frames = torch.randint(0, 256, (3, 2, 4, 4, 2), generator=g(), dtype=torch.uint8)
    assert torch.equal(shift_frames(frames, 0, 0, g()), frames)


def test_only_world_model_windows_are_shifted(
    make_buffer: Callable[..., ReplayBuffer], fill: Callable[..., ReplayBuffer]
) -> None:
    buffers = {shift: fill(make_buffer(random_shift=shift), 10) for shift in ((0, 0), (1, 1))}
    for buffer in buffers.values():
        buffer.columns["obs"].copy_(torch.arange(40).view(10, 2, 2, 1))
    still, moved = (b.sample("world_model", 4, 3, g()) for b in buffers.values())
    assert torch.equal(still.reward, moved.reward)  # the same windows
    assert not torch.equal(still.obs, moved.obs)
    # Equal slots would imply equal frames.
    assert still.slot is not None
    assert moved.slot is None
    still, moved = (b.sample("behaviour", 4, 3, g()) for b in buffers.values())
    assert torch.equal(still.obs, moved.obs)
    assert moved.slot is not None


def test_shifts_depend_on_the_seed(
    make_buffer: Callable[..., ReplayBuffer], fill: Callable[..., ReplayBuffer]
) -> None:
    drawn = []
    for _ in range(2):
        buffer = fill(make_buffer(random_shift=(1, 0)), 10)
        buffer.columns["obs"].copy_(torch.arange(40).view(10, 2, 2, 1))
        drawn.append(buffer.sample("world_model", 4, 3, g(5)).obs)
    assert torch.equal(*drawn)


def test_rows_come_before_columns(
    make_buffer: Callable[..., ReplayBuffer], fill: Callable[..., ReplayBuffer]
) -> None:
    for shift, alike in (((1, 0), 3), ((0, 1), 2)):  # the axis along which frames are constant
        buffer = fill(make_buffer(random_shift=shift), 10)
        # Frames that are constant along rows or columns: shifting along these changes nothing.
        frame = torch.tensor([[1, 2], [1, 2]] if alike == 3 else [[1, 1], [2, 2]])
        buffer.columns["obs"].copy_(frame.view(1, 2, 2, 1).expand(10, -1, -1, -1))
        obs = buffer.sample("world_model", 8, 3, g()).obs
        assert torch.equal(obs, frame.view(1, 1, 2, 2, 1).expand(8, 3, -1, -1, -1).to(obs.dtype))


def test_shift_must_be_smaller_than_the_frame() -> None:
    ReplayBuffer(ReplayConfig(capacity=4, random_shift=(3, 4)), (4, 5, 1), torch.uint8)
    with pytest.raises(ConfigError, match="random_shift of 5 leaves nothing of 5 columns"):
        ReplayBuffer(ReplayConfig(capacity=4, random_shift=(3, 5)), (4, 5, 1), torch.uint8)


@pytest.mark.parametrize("shift", [(1,), (1, 2, 3), (-1, 0)])
def test_shift_is_two_numbers_of_pixels(shift: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="random_shift must be two numbers of pixels"):
        ReplayConfig(random_shift=shift)


def test_vectors_are_not_shifted() -> None:
    buffer = ReplayBuffer(ReplayConfig(capacity=4, random_shift=(1, 1)), (3,), torch.float32)
    assert not buffer.shifts
