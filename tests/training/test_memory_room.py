"""A run that cannot fit is refused before anything is allocated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import options, tiny

from drama import Agent, presets
from drama.errors import ConfigError
from drama.observations import ObsSpace
from drama.training import memory
from drama.training.memory import available_bytes, check_room, least_bytes

CPU = torch.device("cpu")


def test_lower_bound_of_memory_matches_hand_computed_values() -> None:
    # 100 000 frames of 64 x 64 x 3 bytes, and 40 bytes of the other columns and counters each
    xs = least_bytes(presets.xs(), ObsSpace.image(64, 64, 3))
    assert xs["replay"] == 100_000 * (12_288 + 40)
    # 16 x 128 frames, floats: the frame itself, and 16 maps of it in encoder and decoder
    assert xs["update"] == 4 * 2048 * (12_288 + 2 * 16 * 4096)
    assert least_bytes(tiny(), ObsSpace.vector(8)) == {"replay": 200 * 72, "update": 4 * 32 * 24}


def test_presets_are_accepted_on_a_machine_with_enough_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 8 * 10**9)
    for preset in presets.PRESETS.values():
        check_room(preset(), ObsSpace.image(64, 64, 3), CPU, CPU)


@pytest.mark.faults
@pytest.mark.parametrize(
    "changes",
    [
        {"replay.capacity": 2**39},
        {"world_model.batch_size": 2**24},
        {
            "world_model.batch_length": 2**24,
            "training.warmup_steps": 2**25,
            "replay.capacity": 2**26,
        },
    ],
)
def test_run_that_does_not_fit_names_the_settings_to_lower(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    agent = Agent("drama/Catch-v0", tiny(changes))
    with pytest.raises(ConfigError, match=r"needs at least .* on cpu .* are free: lower"):
        agent.learn(5, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and ulimit -v")
def test_process_memory_limit_gives_one_error_line(tmp_path: Path) -> None:
    changes = {"replay.capacity": 20_000_000, "steps": 30}
    args = ["train", "quick", "--env", "drama/Catch-v0", "--run-dir", str(tmp_path / "run")]
    code = (  # limited after the import: the libraries of CUDA alone map several GiB
        "import pathlib, resource, sys, torch; from drama.cli import main; "
        "status = pathlib.Path('/proc/self/status').read_text(); "
        "limit = (int(status.split('VmSize:')[1].split()[0]) << 10) + (3 << 30); "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args, *options(changes)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    assert "drama: error: the run needs at least" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_process_memory_limit_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (10**9, 10**9))
    monkeypatch.setattr(memory, "_status", lambda field: 4 * 10**8)
    assert available_bytes(CPU) == 6 * 10**8
