"""An empty working directory for each test of the command line, and a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.cli.commands import WALK
from tests.training.runs import tiny

from drama import Agent


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 steps."""
    path = tmp_path_factory.mktemp("cli") / "run"
    Agent(WALK, tiny({"steps": 40, "env.id": WALK})).learn(40, run_dir=path)
    return path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))
