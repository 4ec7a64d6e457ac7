"""``run.json``: versions and machine of each part of a run."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import assert_same_run, tiny

import drama
from drama import Agent
from drama.config import Config
from drama.errors import ConfigError
from drama.ops.backend import Backend
from drama.training.record import facts, record_start

WALK = env_id(Walk)


def starts(run: Path) -> list[dict[str, Any]]:
    tree = json.loads((run / "run.json").read_text())
    assert list(tree) == ["starts"]
    return list(tree["starts"])


def notes_of(agent: Agent, steps: int, run_dir: Path | None = None) -> list[str]:
    notes: list[str] = []

    def listen(event: str, payload: object) -> None:
        if event == "note":
            notes.append(str(payload))

    agent.learn(steps, run_dir=run_dir, listeners=[listen])
    return notes


def insisting(config: Config) -> Config:
    """The same, with a backend that a CPU does not have."""
    dynamics = dataclasses.replace(config.world_model.dynamics, backend="kernels")
    model = dataclasses.replace(config.world_model, dynamics=dynamics)
    return dataclasses.replace(config, world_model=model)


def test_one_entry_for_each_start(tmp_path: Path) -> None:
    run = tmp_path / "run"
    agent = Agent(WALK, tiny({"training.threads": 1}))
    notes = notes_of(agent, 10, run)
    assert notes.count("backend torch: tensors are on the CPU") == 1
    (entry,) = starts(run)
    assert entry.pop("device_name")
    assert entry.pop("system")
    assert entry.pop("time_split")["until_step"] == 10
    then = datetime.datetime.fromisoformat(entry.pop("time"))
    now = datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(0) <= now - then < datetime.timedelta(minutes=5)
    assert entry == {
        "step": 0,
        "device": "cpu",
        "precision": "float32",
        "backend": "torch",
        "backend_reason": "tensors are on the CPU",
        "threads": 1,
        "drama": drama.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    agent.learn(5)  # the same process continues: no new entry
    assert len(starts(run)) == 1
    assert not any("not as before" in note for note in notes_of(Agent.load(run), 5))
    assert [entry["step"] for entry in starts(run)] == [0, 15]


def test_record_does_not_affect_the_run(tmp_path: Path) -> None:
    Agent(WALK, tiny()).learn(40, run_dir=tmp_path / "whole")
    Agent(WALK, tiny()).learn(20, run_dir=tmp_path / "parts")
    Agent.load(tmp_path / "parts").learn(20)
    assert len(starts(tmp_path / "parts")) == 2
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_resume_on_another_machine_is_reported(tmp_path: Path) -> None:
    run = tmp_path / "run"
    Agent(WALK, tiny()).learn(10, run_dir=run)
    tree = {"starts": [{**starts(run)[0], "device": "cuda", "torch": "2.8.0"}]}
    (run / "run.json").write_text(json.dumps(tree))
    (note,) = [n for n in notes_of(Agent.load(run), 5) if "not as before" in n]
    assert note == f"not as before: device cpu (was cuda), torch {torch.__version__} (was 2.8.0)"
    assert [entry["device"] for entry in starts(run)] == ["cuda", "cpu"]


@pytest.mark.parametrize("text", [None, "", "{", "[]", "3", '{"starts": 3}', '{"starts": [1]}'])
def test_damaged_record_does_not_stop_a_run(text: str | None, tmp_path: Path) -> None:
    run = tmp_path / "run"
    Agent(WALK, tiny()).learn(5, run_dir=run)
    if text is None:
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_text(text)
    Agent.load(run).learn(5)
    assert [entry["step"] for entry in starts(run)] == [5]


def test_entries_of_other_versions_are_kept(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"starts": [{"step": 0, "colour": "green"}]}))
    entry = facts(torch.device("cpu"), torch.bfloat16, Backend("torch", "requested"))
    changed = record_start(tmp_path, 7, entry)
    assert changed is not None
    assert "precision bfloat16 (was None)" in changed
    first, second = starts(tmp_path)
    assert first == {"step": 0, "colour": "green"}
    assert (second["step"], second["precision"], second["backend"]) == (7, "bfloat16", "torch")


def test_missing_kernels_stop_a_run_before_it_starts(tmp_path: Path) -> None:
    config = insisting(tiny({"env.id": WALK}))
    with pytest.raises(ConfigError, match="tensors are on the CPU"):
        Agent(config=config)
    run = tmp_path / "run"
    Agent(config=tiny({"env.id": WALK})).learn(5, run_dir=run)
    with pytest.raises(ConfigError, match="tensors are on the CPU"):
        Agent.load(run, config=config)
    # Evaluation on another device still works.
    agent = Agent.load(run, config=config, device="cpu")
    assert agent.backend == Backend("torch", "tensors are on the CPU")
    assert agent.evaluate(1, num_envs=1).episodes
