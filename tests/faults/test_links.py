"""Symbolic links and special files inside a run directory: refused, never written through."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import tiny

from drama import Agent
from drama.errors import DramaError
from drama.files import open_append, read_text, truncate, write_text

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("links") / "run"
    Agent(env_id(Walk), tiny({"steps": 40})).learn(40, run_dir=run)
    return run


@pytest.mark.parametrize(
    "name",
    ["metrics.jsonl", "episodes.jsonl", ".config.json.tmp", ".run.json.tmp", ".lock", "run.json"],
)
def test_a_link_inside_a_run_is_not_written_through(name: str, sound: Path, tmp_path: Path) -> None:
    run, precious = tmp_path / "run", tmp_path / "precious"
    shutil.copytree(sound, run)
    precious.write_text("mine\n" * 10_000)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious)
    with pytest.raises(DramaError, match="is a symbolic link") as caught:
        Agent.load(run).learn(3)
    assert name in str(caught.value)
    assert precious.read_text() == "mine\n" * 10_000


@pytest.mark.parametrize("name", ["replay", "checkpoints"])
def test_a_linked_folder_inside_a_run_is_refused(name: str, sound: Path, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    shutil.copytree(sound, run)
    (run / name).rename(elsewhere)
    (run / name).symlink_to(elsewhere)
    before = sorted(p.name for p in elsewhere.iterdir())
    with pytest.raises(DramaError, match="is a symbolic link"):
        Agent.load(run).learn(3)
    assert sorted(p.name for p in elsewhere.iterdir()) == before


def test_linked_run_directory_can_resume(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert Agent.load(tmp_path / "link").learn(3).num_timesteps == 43


@pytest.mark.parametrize("name", ["state.json", "config.json", "manifest.json"])
def test_a_fifo_is_refused_at_once(name: str, sound: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(sound, run)
    path = run / "checkpoints" / "000000040" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DramaError):
        Agent.load(run)


def test_writing_replaces_links_and_temporary_names(tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "file"
    precious.write_text("mine")
    path.symlink_to(precious)
    (tmp_path / ".file.tmp").symlink_to(precious)
    write_text(path, "new")
    assert precious.read_text() == "mine"
    assert not path.is_symlink()
    assert path.read_text() == "new"


@pytest.mark.parametrize("use", [open_append, read_text, lambda path: truncate(path, 0)])
def test_special_files_are_refused_at_once(use: object, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="not a regular file"):
        use(fifo)  # type: ignore[operator]
    with pytest.raises(OSError, match=r"not a regular file|directory"):
        use(tmp_path)  # type: ignore[operator]


def test_a_log_is_not_appended_through_a_link(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "link"
    precious.write_text("mine")
    link.symlink_to(precious)
    for use in (open_append, lambda path: truncate(path, 0)):
        with pytest.raises(OSError, match="is a symbolic link"):
            use(link)
    assert precious.read_text() == "mine"
