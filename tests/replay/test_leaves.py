"""The replay of observations with several leaves: one column each, sampled and stored together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from drama.config import ReplayConfig
from drama.errors import CheckpointError, ConfigError, ReplayError
from drama.files import read_tensors, sha256, write_tensors
from drama.observations import Leaf, ObsSpace
from drama.replay import ReplayBuffer
from drama.replay.storage import ReplayStore
from drama.types import Transition

SPACE = ObsSpace(
    (
        Leaf("image", (4, 5, 3), "camera"),
        Leaf("vector", (2,), "robot/speed"),
        Leaf("one-hot", (2,), "cards", (3, 7)),
    )
)


def row(g: int) -> Transition:
    obs = {
        "camera": np.full((4, 5, 3), g, np.uint8),
        "robot/speed": np.array([g, -g], np.float32),
        "cards": np.array([g % 3, g % 7], np.int32),
    }
    return Transition(obs, g == 0, g % 2, float(g), False, False, False)


@pytest.fixture
def buffer() -> ReplayBuffer:
    buffer = ReplayBuffer(ReplayConfig(capacity=20), SPACE)
    for g in range(30):
        buffer.append(row(g))
    return buffer


def test_every_leaf_has_a_column_of_its_type(buffer: ReplayBuffer) -> None:
    columns = {name: (c.shape[1:], c.dtype) for name, c in buffer.columns.items() if "obs" in name}
    assert columns == {
        "obs.camera": ((4, 5, 3), torch.uint8),
        "obs.robot/speed": ((2,), torch.float32),
        "obs.cards": ((2,), torch.int32),
    }
    assert "of 4x5x3 uint8 + 2 float32 + 2 int32:" in buffer.describe()


def test_sampled_leaves_belong_to_one_transition(buffer: ReplayBuffer) -> None:
    batch = buffer.sample("world_model", 6, 5, torch.Generator().manual_seed(0))
    assert isinstance(batch.obs, dict)
    assert list(batch.obs) == ["camera", "robot/speed", "cards"]
    number = batch.reward
    assert torch.equal(batch.obs["camera"][:, :, 0, 0, 0].float(), number)
    assert torch.equal(batch.obs["robot/speed"][..., 1], -number)
    assert torch.equal(batch.obs["cards"][..., 1].float(), number % 7)


def test_segments_return_the_same_ring(buffer: ReplayBuffer, tmp_path: Path) -> None:
    store = ReplayStore(tmp_path / "replay")
    segments = store.save(buffer)
    other = ReplayBuffer(ReplayConfig(capacity=20), SPACE)
    ReplayStore(tmp_path / "replay").load(other, segments, buffer.total)
    assert buffer.columns.keys() == other.columns.keys()
    assert all(torch.equal(column, other.columns[name]) for name, column in buffer.columns.items())
    with pytest.raises(CheckpointError, match="does not fit"):
        store.load(ReplayBuffer(ReplayConfig(capacity=20), ObsSpace.vector(2)), segments, 30)


def test_classes_that_a_variable_lacks_are_refused(buffer: ReplayBuffer, tmp_path: Path) -> None:
    store = ReplayStore(tmp_path)
    [segment] = store.save(buffer)
    tensors = read_tensors(tmp_path / segment["file"])
    for wrong in (-1, 3):
        tensors["obs.cards"][4, 0] = wrong
        write_tensors(tmp_path / segment["file"], tensors)
        segment["sha256"] = sha256(tmp_path / segment["file"])
        with pytest.raises(CheckpointError, match="holds a class outside cards"):
            store.load(ReplayBuffer(ReplayConfig(capacity=20), SPACE), [segment], 30)


def test_an_observation_that_does_not_fit_changes_nothing(buffer: ReplayBuffer) -> None:
    before = {name: column.clone() for name, column in buffer.columns.items()}
    wrong = row(30)
    assert isinstance(wrong.obs, dict)
    wrong.obs["cards"] = wrong.obs["cards"][:1]
    with pytest.raises(ReplayError, match=r"shape \(1,\)"):
        buffer.append(wrong)
    assert buffer.total == 30
    assert all(torch.equal(column, before[name]) for name, column in buffer.columns.items())


def test_shifts_move_the_pictures_only(buffer: ReplayBuffer) -> None:
    shifted = ReplayBuffer(ReplayConfig(capacity=20, random_shift=(2, 2)), SPACE)
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    for g in range(20):
        one = row(g)
        assert isinstance(one.obs, dict)
        shifted.append(one._replace(obs={**one.obs, "camera": pixels}))
    batch = shifted.sample("world_model", 8, 4, torch.Generator().manual_seed(0))
    assert isinstance(batch.obs, dict)
    assert torch.equal(batch.obs["robot/speed"][..., 0], batch.reward)
    assert not (batch.obs["camera"] == torch.from_numpy(pixels)).all()
    with pytest.raises(ConfigError, match="leaves nothing of 4 rows"):
        ReplayBuffer(ReplayConfig(capacity=20, random_shift=(4, 2)), SPACE)
    config = ReplayConfig(capacity=20, random_shift=(4, 2))
    assert not ReplayBuffer(config, ObsSpace(SPACE.leaves[1:])).shifts
