"""The settings of the package's tests, and one short run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # lab/ is not part of the package

import tests.conftest  # noqa: F401 (threads, display, place of state)
from tests.training.runs import tiny

from drama import Agent


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Catch with twenty steps after its warm-up."""
    directory = tmp_path_factory.mktemp("lab") / "run"
    config = tiny()
    Agent("drama/Catch-v0", config).learn(config.training.warmup_steps + 20, run_dir=directory)
    return directory
