"""A killed and resumed run equals an uninterrupted one bit for bit.

The children are forks that send themselves SIGKILL, so no cleanup runs.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import Forks
from tests.training.faulty_envs import Endless, Walk, env_id
from tests.training.runs import STEPS, assert_same_run, differences, json_rows, snapshot

from drama.training.checkpoint import CheckpointDir

pytestmark = pytest.mark.faults

ODD = {"training.log_every": 15}
"""A checkpoint then falls between two rows of the log, with partial means."""
CATCH = {"env": "drama/Catch-v0", "config": ODD, "steps": STEPS}
ATARI = {
    **ODD,
    "world_model.filters": (4, 4, 4),
    "env.noop_max": 3,
    "replay.capacity": 400,
    "training.world_model_ratio": 0.25,
    "training.behaviour_ratio": 0.25,
}
SMALL_RING = {
    **ODD,
    "replay.capacity": 24,
    "training.warmup_steps": 16,
    "training.checkpoint_every": 16,
    "training.keep_checkpoints": 1,
    "training.world_model_ratio": 0.25,
    "training.behaviour_ratio": 0.25,
}


@pytest.fixture(scope="session")
def whole(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    path = tmp_path_factory.mktemp("whole") / "run"
    assert forks("train", path, **CATCH) == {
        "killed": False,
        "error": "",
    }
    return path


def test_snapshot_covers_the_run_and_differs_between_runs(
    whole: Path, forks: Forks, tmp_path: Path
) -> None:
    found = snapshot(whole)
    assert found["step"] == STEPS
    assert found["state"]["optimisers"]["world_model"]["updates"] == 18
    assert found["state"]["optimisers"]["behaviour"]["updates"] == 18
    assert [row["step"] for row in found["metrics"]] == [15, 30, 45, 60]
    assert len(found["episodes"]) == found["state"]["episodes"] > 3
    moments = [k for k in found if k.startswith("optimiser/") and found[k].abs().sum() > 0]
    assert len(moments) > 20
    assert found["replay/obs"].shape == (found["state"]["replay_total"], 32, 32, 3)
    assert found["loop/trained"].sum() == 18 * 4
    assert found["loop/dreamt"].sum() == 18 * 8
    # The comparison detects one more step, and another seed.
    forks("train", tmp_path / "other", **CATCH, seed=1)
    changed = differences(found, snapshot(tmp_path / "other"))
    assert {"metrics", "replay/obs", "state", "loop/generator.learning"} <= set(changed)


def _random_places(count: int) -> list[tuple[str, int, bool]]:
    draw = random.Random(7)
    calls = {
        "collect": (21, 60),
        "sample": (2, 36),
        "env": (21, 60),
        "world model": (1, 18),
        "optimiser": (1, 36),
        "behaviour": (1, 18),
        "flush": (2, 4),
        "log": (5, 11),
    }
    places = list(calls) * (count // len(calls) + 1)
    return [(p, draw.randint(*calls[p]), draw.random() < 0.5) for p in places[:count]]


@pytest.mark.parametrize(
    "kill", _random_places(8), ids=lambda k: f"{k[0]}-{k[1]}".replace(" ", "_")
)
def test_resume_is_bit_exact_after_a_kill_in_the_loop(
    kill: tuple[str, int, bool], whole: Path, forks: Forks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forks("train", run, **CATCH, kill=kill)["killed"]
    assert CheckpointDir(run).last().step in (20, 40)
    assert forks("resume", run, until=STEPS) == {"killed": False, "error": ""}
    assert_same_run(run, whole)


def test_resume_is_bit_exact_after_repeated_kills(
    whole: Path, forks: Forks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forks("train", run, **CATCH, kill=("env", 33, False))["killed"]
    # The first steps of a resumed process replay the actions of the game.
    for kill in (("env", 5, True), ("optimiser", 3, False), ("env", 20 + 25, True)):
        assert forks("resume", run, until=STEPS, kill=kill)["killed"]
    assert CheckpointDir(run).last().step == 40
    assert forks("resume", run, until=STEPS)["error"] == ""
    assert_same_run(run, whole)


@pytest.mark.parametrize(
    ("env", "config", "kill"),
    [
        # One episode from the warm-up to the end: the agent's state is carried over.
        (env_id(Endless), ODD, ("collect", 49, True)),
        ("CartPole-v1", {}, ("collect", 55, False)),
        ("drama/Recall-v0", {"behaviour.policy_latent": "posterior"}, ("optimiser", 25, True)),
        ("ALE/Pong-v5", ATARI, ("collect", 47, True)),
        (
            # Ten no-op starts a life lost early: life-loss ends come within these steps.
            "ALE/Breakout-v5",
            {**ATARI, "training.checkpoint_every": 50, "training.warmup_steps": 100},
            ("collect", 117, True),
        ),
        (
            "CartPole-v1",
            {"world_model.dynamics.name": "transformer", "world_model.dynamics.num_heads": 4},
            ("collect", 55, True),
        ),
        ("CartPole-v1", {"world_model.dynamics.name": "gru"}, ("optimiser", 21, True)),
        ("CartPole-v1", {"replay.sampler": "dfs-trained"}, ("optimiser", 21, True)),
        # In the warm-up, where the repeated action is carried over, and after it.
        (
            "CartPole-v1",
            {
                "training.random_action_repeat": 8,
                "training.warmup_steps": 40,
                "training.checkpoint_every": 7,
            },
            ("collect", 33, True),
        ),
        (
            "drama/Recall-v0",
            {"behaviour.policy_context": "current"},
            ("optimiser", 25, True),
        ),
        (
            "drama/Recall-v0",
            {"replay.random_shift": (1, 2), "world_model.motion_weight": 4.0},
            ("optimiser", 25, True),
        ),
        (
            "drama/Recall-v0",
            {"world_model.spatial_latents": 1, "world_model.filters": (4, 4, 4)},
            ("optimiser", 25, True),
        ),
        (
            "drama/Recall-v0",
            {"behaviour.actor_gradient": "all-actions", "behaviour.lookahead": 3},
            ("optimiser", 25, True),
        ),
        # Between two minibatches of one rollout.
        ("CartPole-v1", {"behaviour.algorithm": "ppo"}, ("optimiser", 17 * 10 + 7, True)),
    ],
    ids=[
        "endless",
        "cartpole",
        "recall",
        "pong",
        "breakout",
        "transformer",
        "gru",
        "dfs-trained",
        "held",
        "current",
        "moved",
        "spatial",
        "all-actions",
        "ppo",
    ],
)
def test_resume_is_bit_exact_for_other_environments_and_parts(
    env: str, config: dict[str, Any], kill: tuple[str, int, bool], forks: Forks, tmp_path: Path
) -> None:
    steps = 120 if "Breakout" in env else STEPS
    request = {"env": env, "config": config, "steps": steps}
    assert forks("train", tmp_path / "whole", **request)["error"] == ""
    assert forks("train", tmp_path / "run", **request, kill=kill)["killed"]
    assert forks("resume", tmp_path / "run", until=steps)["error"] == ""
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    if "Breakout" in env:
        end = snapshot(tmp_path / "run")
        assert end["replay/is_last"].sum() > end["state"]["episodes"], "no life was lost"


@pytest.fixture(scope="session")
def sweep(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A whole run with a small ring, and copies that were killed while saving step 48."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "cases").mkdir()
    answer = forks(
        "train",
        root / "whole",
        env=env_id(Walk),
        config=SMALL_RING,
        steps=64,
        sweep_save=48,
        cases=root / "cases",
    )
    assert answer == {"killed": False, "error": ""}
    return root / "whole", root / "cases"


def test_checkpoint_survives_a_kill_at_each_disk_operation(
    sweep: tuple[Path, Path], forks: Forks
) -> None:
    whole, cases = sweep
    found = sorted(cases.glob("before-*")) + sorted(cases.glob("torn-*"))
    assert len(list(cases.glob("before-*"))) > 20
    assert len(list(cases.glob("torn-*"))) > 5
    steps = []
    for case in found:
        steps.append(CheckpointDir(case).last().step)
        assert forks("resume", case, until=64) == {"killed": False, "error": ""}, case.name
        assert_same_run(case, whole)
    assert set(steps) == {32, 48}  # killed before and after the new checkpoint became the last
    total = snapshot(whole)["state"]["replay_total"]
    assert total > 2 * SMALL_RING["replay.capacity"]  # type: ignore[operator]


def test_resume_survives_a_kill_at_each_disk_operation(
    sweep: tuple[Path, Path], forks: Forks, tmp_path: Path
) -> None:
    whole, _ = sweep
    request = {"env": env_id(Walk), "config": SMALL_RING, "steps": 64}
    assert forks("train", tmp_path / "run", **request, kill=("env", 61, True))["killed"]
    # Files of an unfinished checkpoint, and of one beyond the last.
    last = tmp_path / "run" / "checkpoints" / "000000048"
    for name in (".000000064.tmp", "000000063"):
        (last.parent / name).mkdir()
        for file in last.iterdir():
            (last.parent / name / file.name).write_bytes(file.read_bytes())
    (tmp_path / "run" / "replay" / "000000000060-000000000099.safetensors").write_bytes(b"x")
    (tmp_path / "cases").mkdir()
    assert forks("sweep_load", tmp_path / "run", cases=tmp_path / "cases")["error"] == ""
    found = sorted((tmp_path / "cases").iterdir())
    assert len(found) > 10
    for case in found:
        assert forks("resume", case, until=64) == {"killed": False, "error": ""}, case.name
        assert_same_run(case, whole)


def test_resume_from_an_older_checkpoint_survives_a_kill(
    whole: Path, forks: Forks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forks("train", run, **CATCH)["error"] == ""
    older = run / "checkpoints" / "000000040"
    # Killed after the rewind and before the next checkpoint.
    answer = forks("resume", older, until=STEPS, kill=("collect", 5, True))
    assert answer["killed"]
    assert forks("resume", run, until=STEPS) == {"killed": False, "error": ""}
    assert_same_run(run, whole)


def test_resume_from_an_older_checkpoint_is_bit_exact(
    whole: Path, forks: Forks, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert forks("train", run, **CATCH)["error"] == ""
    assert forks("resume", run / "checkpoints" / "000000040", until=STEPS)["error"] == ""
    assert_same_run(run, whole)


def test_logs_of_the_lost_steps_are_truncated(forks: Forks, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill = ("collect", 39, True)
    assert forks("train", run, **CATCH, kill=kill)["killed"]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 39, "torn')
    assert forks("resume", run, until=STEPS)["error"] == ""
    assert [row["step"] for row in json_rows(run / "metrics.jsonl")] == [15, 30, 45, 60]
    steps = [row["step"] for row in json_rows(run / "episodes.jsonl")]
    assert steps == sorted(set(steps))


def test_run_killed_before_its_first_checkpoint_is_reported(forks: Forks, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill = ("collect", 15, True)
    assert forks("train", run, **CATCH, kill=kill)["killed"]
    answer = forks("resume", run, until=STEPS)
    assert answer["error"].startswith("CheckpointError: ")
    assert "no checkpoint" in answer["error"]


def test_resume_is_bit_exact_with_overlapped_updates(forks: Forks, tmp_path: Path) -> None:
    """Updates precede the environment's step; a kill between the two loses neither."""
    run = {**CATCH, "config": {**ODD, "training.overlap": True}}
    assert forks("train", tmp_path / "whole", **run) == {"killed": False, "error": ""}
    killed = forks("train", tmp_path / "cut", **run, kill=("env", 47, False))
    assert killed["killed"]
    assert forks("resume", tmp_path / "cut", until=STEPS) == {"killed": False, "error": ""}
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
