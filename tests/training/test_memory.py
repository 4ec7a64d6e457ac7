"""Memory is constant once the buffers are full."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import tiny

from drama import Agent


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_is_constant_over_a_run(tmp_path: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    sizes: dict[int, int] = {}

    def watch(held: dict[str, Any], _: dict[str, Any]) -> None:
        step = held["self"].num_timesteps
        if step % 500 == 0:
            sizes[step] = resident_bytes()

    config = tiny(
        {
            "replay.capacity": 2000,
            "training.checkpoint_every": 500,
            "training.log_every": 100,
            "training.tensorboard": True,
        }
    )
    Agent("drama/Catch-v0", config).learn(5000, watch, run_dir=tmp_path / "run")
    assert max(sizes.values()) < 1.05 * sizes[1000], sizes
