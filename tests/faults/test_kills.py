"""Runs killed at random moments end bit for bit as undisturbed ones.

A kill is SIGKILL from outside after a random time, or at a random disk operation, before it or
halfway through a write. A killed run is continued, and killed again up to four times.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.faults.count import Faults
from tests.training.conftest import Forks
from tests.training.runs import STEPS, assert_same_run

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("DRAMA_KILLS", "2"))
"""Total kills; the long campaign uses more than a hundred."""
SEED = int(os.environ.get("DRAMA_FAULTS_SEED", "0"))
MOST_PER_RUN = 4

PPO = {"behaviour.algorithm": "ppo"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba2-actor-critic": ("drama/Catch-v0", {"training.log_every": 15}),
    "overlap-small-ring-ppo": (
        "CartPole-v1",
        {
            **PPO,
            "training.overlap": True,
            "replay.capacity": 24,
            "training.warmup_steps": 16,
            "training.checkpoint_every": 16,
            "training.keep_checkpoints": 1,
        },
    ),
    "mamba1-ppo": ("drama/Catch-v0", {**PPO, "world_model.dynamics.name": "mamba1"}),
    "transformer-actor-critic": (
        "CartPole-v1",
        {"world_model.dynamics.name": "transformer", "world_model.dynamics.num_heads": 4},
    ),
    "gru-ppo": ("drama/Recall-v0", {**PPO, "world_model.dynamics.name": "gru"}),
    "lookahead-overlap": (
        "drama/Catch-v0",
        {
            "training.overlap": True,
            "behaviour.lookahead": 2,
            "behaviour.actor_gradient": "all-actions",
        },
    ),
    "small-ring": ("drama/Catch-v0", {"replay.capacity": 24, "training.keep_checkpoints": 1}),
    "gru-actor-critic": ("CartPole-v1", {"world_model.dynamics.name": "gru"}),
}


def shares() -> list[tuple[str, int]]:
    """Kills of each case, without cases that have none."""
    each, rest = divmod(KILLS, len(CASES))
    counts = [each + (i < rest) for i in range(len(CASES))]
    return [(name, count) for name, count in zip(CASES, counts, strict=True) if count]


def moment(rng: random.Random, seconds: float) -> dict[str, Any]:
    """Sample when a run of about so many seconds is killed."""
    way = rng.random()
    if way < 0.4:
        return {"kill_after": rng.uniform(0.1, 1.0) * seconds}
    if way < 0.7:
        return {"kill_disk": (rng.randint(1, 20), True)}  # halfway through a write
    return {"kill_disk": (rng.randint(1, 60), False)}


def start_or_resume(forks: Forks, run: Path, case: dict[str, Any], kill: dict[str, Any]) -> Any:
    """Resume a run from its last checkpoint; start it again if it has none."""
    if not run.exists():
        return forks("train", run, **case, **kill)
    if (run / "checkpoints" / "last").exists():
        return forks("resume", run, until=STEPS, **kill)
    error = forks("resume", run, until=STEPS)["error"]
    assert "Error: " in error, error
    assert "\n" not in error, error
    if "repair it with: " in error:  # a complete checkpoint that `last` does not name yet
        subprocess.run(error.partition("repair it with: ")[2], shell=True, check=True)
        return forks("resume", run, until=STEPS, **kill)
    assert not any((run / "checkpoints").glob("[0-9]*")), error
    shutil.rmtree(run)
    return forks("train", run, **case, **kill)


def is_complete(run: Path) -> bool:
    """Whether the last checkpoint is that of the last step."""
    last = run / "checkpoints" / "last"
    return last.exists() and int(last.read_text()) == STEPS


@pytest.mark.parametrize(("name", "kills"), shares())
def test_resume_is_bit_exact_after_kills(
    name: str, kills: int, forks: Forks, tmp_path: Path, faults: Faults
) -> None:
    env, config = CASES[name]
    case = {"env": env, "config": config, "steps": STEPS}
    began = time.monotonic()
    assert forks("train", tmp_path / "whole", **case) == {"killed": False, "error": ""}
    seconds = time.monotonic() - began
    rng = random.Random(f"{name} {SEED}")
    for attempt in range(10 * kills):
        if faults.total >= kills:
            return
        run, done, made = tmp_path / f"run{attempt}", False, []
        try:
            while not is_complete(run) and len(made) < min(MOST_PER_RUN, kills - faults.total):
                kill = moment(rng, seconds)
                answer = start_or_resume(forks, run, case, kill)
                assert answer["error"] == "", answer["error"]
                done = not answer["killed"]
                made += [] if done else [kill]
            # After the last checkpoint nothing removes the temporary files of a kill.
            complete = is_complete(run)
            if not complete:
                answer = start_or_resume(forks, run, case, {})
                assert answer == {"killed": False, "error": ""}
            assert_same_run(run, tmp_path / "whole", files=done or not complete)
        except AssertionError as error:
            faults.check(False, f"{made}: {error}", max(1, len(made)))
        else:
            faults.check(True, "", len(made))
            shutil.rmtree(run)
    pytest.fail(f"only {faults.total} of {kills} kills hit a run that was still alive")
