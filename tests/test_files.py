"""Atomic writes, and errors that name damaged files."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError

from drama import files
from drama.errors import CheckpointError, DramaError

TENSORS = {
    "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(5).bfloat16(),
    "int": torch.tensor([2**40, -1]),
    "bytes": torch.arange(256, dtype=torch.uint8),
    "flags": torch.tensor([True, False]),
    "scalar": torch.tensor(3.5),
    "none": torch.zeros(0, 4),
}


def test_tensors_round_trip_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    digest = files.write_tensors(path, TENSORS)
    found = files.read_tensors(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest() == files.sha256(path)


def test_views_and_shared_and_permuted_memory_round_trip(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(1, 2, 3, 4)
    tensors = {
        "whole": base,
        "part": base[..., 1:3],
        "again": base,
        "channels_last": base.clone().to(memory_format=torch.channels_last),
        "turned": base.permute(3, 2, 1, 0),
        "parameter": torch.nn.Parameter(base),
    }
    files.write_tensors(tmp_path / "a", tensors)
    found = files.read_tensors(tmp_path / "a")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_sha256_works_without_file_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(1 << 20) * 2 + b"tail")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert files.sha256(path) == expected
    monkeypatch.delattr(hashlib, "file_digest", raising=False)  # as in Python 3.10
    assert files.sha256(path) == expected


def test_text_and_json_round_trip(tmp_path: Path) -> None:
    files.write_text(tmp_path / "t", "γ = 0.985\n")
    assert (tmp_path / "t").read_text(encoding="utf-8") == "γ = 0.985\n"
    tree = {"a": [1, 2.5, None, "é"], "big": 2**70}
    files.write_json(tmp_path / "j", tree)
    assert files.read_json(tmp_path / "j") == tree
    assert {p.name for p in tmp_path.iterdir()} == {"t", "j"}, "nothing is left beside them"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path: Path, value: float) -> None:
    path = tmp_path / "j"
    files.write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"a": value})
    assert files.read_json(path) == {"a": 1}


@pytest.mark.faults
@pytest.mark.faults
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_interrupted_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    files.write_text(tmp_path / "t", "old")
    files.write_tensors(tmp_path / "s", {"a": torch.zeros(2)})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, fail)
        with pytest.raises(OSError, match="disk full"):
            files.write_text(tmp_path / "t", "new")
        with pytest.raises(OSError, match="disk full"):
            files.write_tensors(tmp_path / "s", {"a": torch.ones(2)})
    assert (tmp_path / "t").read_text() == "old"
    assert torch.equal(files.read_tensors(tmp_path / "s")["a"], torch.zeros(2))
    files.write_text(tmp_path / "t", "new")  # the remains of the failed write do not matter
    assert (tmp_path / "t").read_text() == "new"


@pytest.mark.faults
@pytest.mark.faults
def test_os_errors_of_safetensors_are_raised_as_oserror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors has one error type, which a command could not distinguish from a bug."""
    with pytest.raises(OSError, match="No such file") as caught:
        files.write_tensors(tmp_path / "nowhere" / "s", {"a": torch.zeros(2)})
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename == str(tmp_path / "nowhere" / "s")

    def full(*_: object) -> None:
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            files.write_tensors(tmp_path / "s", {"a": torch.zeros(2)})
    assert (caught.value.errno, caught.value.strerror) == (errno.ENOSPC, "No space left on device")

    def wrong(*_: object) -> None:
        raise SafetensorError("Error while serializing: tensors overlap")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", wrong)
        with pytest.raises(SafetensorError, match="overlap"):
            files.write_tensors(tmp_path / "s", {"a": torch.zeros(2)})


def test_the_file_is_synced_before_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("sync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    files.write_text(tmp_path / "t", "x")
    assert calls == ["sync", "rename", "sync"]


@pytest.mark.faults
def test_errors_name_missing_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for read in (files.read_json, files.read_tensors, files.check_tensors):
        with pytest.raises(CheckpointError, match=r"file is missing"):
            read(path)
    path.write_bytes(b'{"a": 1')
    with pytest.raises(CheckpointError, match="damaged: it is not JSON"):
        files.read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="damaged"):
        files.read_json(path)
    for text in ("[" * 100_000, '{"a": ' * 100_000, "1" * 5000, ""):
        path.write_text(text)
        with pytest.raises(CheckpointError, match="damaged: it is not JSON"):
            files.read_json(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        files.read_json(tmp_path)
    files.write_tensors(path, TENSORS)
    files.check_tensors(path)
    content = path.read_bytes()
    for damaged in (content[:-1], content[:20], b"", b"\xff" * 64):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            files.read_tensors(path)
        assert isinstance(caught.value, DramaError)
        with pytest.raises(CheckpointError, match="damaged"):
            files.check_tensors(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (-1.5, -1.5),
        (1e100, 1e100),
        (-1.1e100, None),
        (1.7e308, None),
        (10**400, None),
        (float("nan"), None),
        (float("-inf"), None),
        (True, None),
        ("3", None),
        (None, None),
        ([1], None),
    ],
)
def test_numbers_in_json_are_checked(value: object, expected: float | None) -> None:
    found = files.as_number(value)
    assert found == expected
    assert found is None or isinstance(found, float)


@pytest.mark.faults
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_file_system_without_sync_is_tolerated(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    files.write_text(tmp_path / "t", "kept")
    assert (tmp_path / "t").read_text() == "kept"


@pytest.mark.faults
def test_a_disk_that_fails_to_sync_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        files.write_text(tmp_path / "t", "lost")
    assert caught.value.filename == str(tmp_path / ".t.tmp")
