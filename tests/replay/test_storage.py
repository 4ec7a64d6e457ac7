"""The replay on disk: round trips, incremental saves, damage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from drama.config import ReplayConfig
from drama.errors import CheckpointError
from drama.files import read_tensors
from drama.observations import ObsSpace
from drama.replay import ReplayBuffer
from drama.replay.storage import ReplayStore, Segment
from drama.types import Transition

Build = Callable[..., ReplayBuffer]


def same(left: ReplayBuffer, right: ReplayBuffer) -> None:
    assert left.total == right.total
    span = (left.total - len(left), left.total)
    a, b = left.read(*span), right.read(*span)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
        held = len(left)
        assert torch.equal(left.columns[name][:held], right.columns[name][:held]), name


@given(
    capacity=st.integers(2, 12),
    totals=st.lists(st.integers(0, 15), min_size=1, max_size=5),
    prune=st.booleans(),
)
def test_saved_replay_loads_unchanged(
    tmp_path_factory: pytest.TempPathFactory,
    make_buffer: Build,
    fill: Build,
    capacity: int,
    totals: list[int],
    prune: bool,
) -> None:
    directory = tmp_path_factory.mktemp("replay")
    buffer, store = make_buffer(capacity=capacity), ReplayStore(directory)
    for more in totals:
        fill(buffer, buffer.total + more, 4)
        segments = store.save(buffer)
        if prune:
            store.prune({s["file"] for s in segments})
        loaded, reader = make_buffer(capacity=capacity), ReplayStore(directory)
        reader.load(loaded, segments, buffer.total)
        same(buffer, loaded)
        assert reader.segments == segments
        # Only files with rows that are still stored are needed.
        assert all(s["stop"] > buffer.total - len(buffer) for s in segments)


def test_second_save_writes_only_new_rows(tmp_path: Path, make_buffer: Build, fill: Build) -> None:
    store, buffer = ReplayStore(tmp_path / "replay"), make_buffer(capacity=10)
    (first,) = store.save(fill(buffer, 6))
    assert (first["start"], first["stop"]) == (0, 6)
    content = (store.directory / first["file"]).read_bytes()
    stamp = (store.directory / first["file"]).stat().st_mtime_ns
    segments = store.save(fill(buffer, 9))
    assert segments[0] == first
    assert (segments[1]["start"], segments[1]["stop"]) == (6, 9)
    assert read_tensors(store.directory / segments[1]["file"])["reward"].tolist() == [6, 7, 8]
    assert (store.directory / first["file"]).read_bytes() == content
    assert (store.directory / first["file"]).stat().st_mtime_ns == stamp
    assert store.save(buffer) == segments, "nothing new, nothing written"
    assert len(list(store.directory.iterdir())) == 2


def test_rows_overwritten_before_a_save_are_not_needed(
    tmp_path: Path, make_buffer: Build, fill: Build
) -> None:
    store, buffer = ReplayStore(tmp_path), make_buffer(capacity=4)
    store.save(fill(buffer, 3))
    (segment,) = store.save(fill(buffer, 20))
    assert (segment["start"], segment["stop"]) == (16, 20)
    loaded = make_buffer(capacity=4)
    ReplayStore(tmp_path).load(loaded, [segment], 20)
    same(buffer, loaded)


def test_loaded_store_continues_incrementally(
    tmp_path: Path, make_buffer: Build, fill: Build
) -> None:
    buffer = fill(make_buffer(capacity=8), 11, 4)
    segments = ReplayStore(tmp_path).save(buffer)
    store, resumed = ReplayStore(tmp_path), make_buffer(capacity=8)
    store.load(resumed, segments, 11)
    later = store.save(fill(resumed, 14, 4))
    assert [s["start"] for s in later] == [3, 11]
    reloaded = make_buffer(capacity=8)
    ReplayStore(tmp_path).load(reloaded, later, 14)
    same(resumed, reloaded)
    same(fill(buffer, 14, 4), reloaded)


def test_files_written_after_the_checkpoint_are_ignored(
    tmp_path: Path, make_buffer: Build, fill: Build, numbered: Callable[..., Transition]
) -> None:
    # A killed run saved rows 5 to 8; the run resumed at row 5 differs.
    store, buffer = ReplayStore(tmp_path), make_buffer()
    early = store.save(fill(buffer, 5))
    store.save(fill(buffer, 8))
    again, resumed = ReplayStore(tmp_path), make_buffer()
    again.load(resumed, early, 5)
    for g in range(5, 8):
        resumed.append(numbered(g, reward=99.0))
    segments = again.save(resumed)
    loaded = make_buffer()
    ReplayStore(tmp_path).load(loaded, segments, 8)
    assert loaded.columns["reward"][:8].tolist() == [0, 1, 2, 3, 4, 99, 99, 99]


def test_prune_keeps_the_listed_files(tmp_path: Path, make_buffer: Build, fill: Build) -> None:
    store, buffer = ReplayStore(tmp_path), make_buffer(capacity=30)
    for total in (5, 10, 15):
        segments = store.save(fill(buffer, total))
    keep = {s["file"] for s in segments[1:]}
    for name in (".000000000015-000000000020.safetensors.tmp", ".tmpE78Pk7"):
        (tmp_path / name).write_text("of a killed write")
    others = ("@eaDir", ".ipynb_checkpoints", "000000000000-000000000099.safetensors")
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("of somebody else")
    (tmp_path / "notes.txt").write_text("the user's")
    store.prune(keep)
    assert {p.name for p in tmp_path.iterdir()} == {*keep, *others, "notes.txt"}
    ReplayStore(tmp_path / "nowhere").prune(set())


@pytest.mark.faults
def test_damage_is_detected(tmp_path: Path, make_buffer: Build, fill: Build) -> None:
    store, buffer = ReplayStore(tmp_path), make_buffer(capacity=30)
    store.save(fill(buffer, 5))
    first, second = store.save(fill(buffer, 10))

    def load(segments: list[Segment], total: int = 10) -> None:
        ReplayStore(tmp_path).load(make_buffer(capacity=30), segments, total)

    load([first, second])
    for broken, message in (
        ([second], "gap"),
        ([first], "end at transition 5, not 10"),
        ([second, first], "gap|end"),
        ([], "end at transition 0, not 10"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load(broken)
    with pytest.raises(CheckpointError, match="gap"):
        load([first, second], total=9)

    path = tmp_path / second["file"]
    content = path.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), b"", content + b"\0"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged.*hash"):
            load([first, second])
    path.unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load([first, second])


def test_rows_of_another_environment_are_refused(
    tmp_path: Path, make_buffer: Build, fill: Build
) -> None:
    segments = ReplayStore(tmp_path).save(fill(make_buffer(), 5))
    other = ReplayBuffer(ReplayConfig(capacity=10), ObsSpace.image(3, 3, 1))
    with pytest.raises(CheckpointError, match="the saved tensor 'obs'"):
        ReplayStore(tmp_path).load(other, segments, 5)


def test_an_empty_replay_saves_nothing(tmp_path: Path, make_buffer: Build) -> None:
    store = ReplayStore(tmp_path / "replay")
    assert store.save(make_buffer()) == []
    assert not store.directory.exists()
    ReplayStore(tmp_path / "replay").load(make_buffer(), [], 0)


def test_a_segment_is_written_again_if_its_last_transition_was_cut(
    tmp_path: Path, make_buffer: Build, fill: Build
) -> None:
    buffer, store = make_buffer(capacity=100), ReplayStore(tmp_path)
    for total in (10, 20):
        fill(buffer, total, 4)
        store.save(buffer)
    fill(buffer, 23, 4)
    buffer.mark_cut()  # no segment holds it yet
    fill(buffer, 25, 4)
    assert [s["stop"] for s in store.save(buffer)] == [10, 20, 25]
    buffer.mark_cut()
    fill(buffer, 26, 4)
    assert [(s["start"], s["stop"]) for s in store.save(buffer)] == [(0, 10), (10, 20), (20, 26)]
    fill(buffer, 27, 4)
    assert [s["stop"] for s in store.save(buffer)] == [10, 20, 26, 27]  # once
    loaded, reader = make_buffer(capacity=100), ReplayStore(tmp_path)
    reader.load(loaded, store.segments, buffer.total)
    same(buffer, loaded)
    assert loaded.columns["truncated"][[22, 24]].all()
