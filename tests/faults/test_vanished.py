"""Files of a run that are deleted during training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import differences, json_rows, snapshot, tiny

from drama import Agent

pytestmark = pytest.mark.faults


def learn(run: Path, at: int, delete: Any, steps: int = 60) -> list[str]:
    """Train for some steps, call ``delete`` after one of them; return the warnings."""
    said: list[str] = []

    def listen(event: str, payload: Any) -> None:
        if event == "warning":
            said.append(payload)
        if event == "step" and payload == at:
            delete()

    Agent(env_id(Walk), tiny({"steps": steps})).learn(steps, run_dir=run, listeners=[listen])
    return said


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("untouched") / "run"
    learn(run, 0, lambda: None)
    return dict(snapshot(run))


def test_deleted_replay_is_written_again(tmp_path: Path, untouched: dict[str, Any]) -> None:
    run = tmp_path / "run"
    said = learn(run, 50, lambda: shutil.rmtree(run / "replay"))
    assert len(said) == 1
    assert "replay were deleted: the whole replay is written again" in said[0]
    assert not differences(snapshot(run), untouched)
    assert Agent.load(run).learn(5).num_timesteps == 65


@pytest.mark.parametrize("name", ["metrics", "episodes"])
def test_deleted_log_is_started_again(name: str, tmp_path: Path, untouched: dict[str, Any]) -> None:
    run = tmp_path / "run"
    said = learn(run, 45, (run / f"{name}.jsonl").unlink)
    assert said == [f"{name}.jsonl was deleted: started again, earlier lines are lost"]
    assert json_rows(run / f"{name}.jsonl")
    assert differences(snapshot(run), untouched) == [name]
    assert Agent.load(run).learn(5).num_timesteps == 65


def test_deleted_run_directory_is_created_again(tmp_path: Path, untouched: dict[str, Any]) -> None:
    run = tmp_path / "run"
    said = learn(run, 45, lambda: shutil.rmtree(run))
    assert len(said) == 3  # both logs and the replay
    assert set(differences(snapshot(run), untouched)) <= {"metrics", "episodes"}
    assert (run / "config.json").is_file()
    assert Agent.load(run).learn(5).num_timesteps == 65


def test_log_shorter_than_its_checkpoint_is_reported(tmp_path: Path) -> None:
    run, said = tmp_path / "run", list[str]()
    learn(run, 0, lambda: None)
    (run / "metrics.jsonl").write_text("")
    agent = Agent.load(run)
    agent.learn(5, listeners=[lambda event, x: said.append(x) if event == "warning" else None])
    assert len(said) == 1
    assert "metrics.jsonl is shorter than when this checkpoint was written" in said[0]
