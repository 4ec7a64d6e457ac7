"""Logging to Weights & Biases, with a stand-in for its client."""

from __future__ import annotations

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.callbacks import BaseCallback
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import tiny

from drama import Agent
from drama.files import write_json
from drama.suite.status import worth_keeping
from drama.training.wandb import LONGEST_TAG, RECORD, run_id

WALK = env_id(Walk)
CONFIG = tiny({"training.wandb": True, "env.id": WALK})


class Client:
    """The module that `import wandb` returns in these tests."""

    def __init__(self) -> None:
        self.began: list[dict[str, Any]] = []
        self.rows: list[tuple[dict[str, Any], int]] = []
        self.finished = 0

    def init(self, **options: Any) -> Client:
        self.began.append(options)
        return self

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((row, step))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    module: Any = types.ModuleType("wandb")
    module.init = made.init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return made


def test_runs_have_distinct_ids(client: Client, tmp_path: Path) -> None:
    suite = tmp_path / "toy"
    for variant in ("base", "wide"):
        (suite / variant / "Walk-v0").mkdir(parents=True)
        write_json(suite / "suite.json", {})
        Agent(WALK, CONFIG).learn(5, run_dir=suite / variant / "Walk-v0" / "seed-0")
    Agent(WALK, CONFIG).learn(5, run_dir=tmp_path / "seed-0")
    in_suite, other, alone = client.began
    assert len({options["id"] for options in client.began}) == 3
    assert (in_suite["name"], in_suite["group"]) == ("base/Walk-v0/seed-0", "toy")
    assert (other["name"], other["group"]) == ("wide/Walk-v0/seed-0", "toy")
    assert (alone["name"], alone["group"]) == ("seed-0", None)
    assert in_suite["tags"] == ["base", "Walk-v0", "quick"]
    assert alone["tags"] == [WALK, "quick"]
    assert all(len(tag) <= LONGEST_TAG for tag in alone["tags"])
    assert in_suite["config"]["env"]["id"] == WALK
    assert {options["resume"] for options in client.began} == {"allow"}
    assert client.finished == 3


def test_resumed_run_keeps_its_id(client: Client, tmp_path: Path) -> None:
    Agent(WALK, CONFIG).learn(30, run_dir=tmp_path / "run")
    agent = Agent.load(tmp_path / "run").learn(10)
    agent.learn(10)
    ids = [options["id"] for options in client.began]
    assert ids == [ids[0]] * 3
    steps = [step for row, step in client.rows if "updates" in row]
    assert steps == [10, 20, 30, 40, 50]


def test_moved_run_keeps_its_id_and_a_copy_gets_a_new_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    first = run_id(run)
    assert run_id(run) == first
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    second = run_id(copy)
    assert second != first
    assert run_id(copy) == second
    assert run_id(run) == first
    moved = run.rename(tmp_path / "moved")
    assert run_id(moved) == first
    other = tmp_path / "run"  # another run where the first one was
    other.mkdir()
    assert run_id(other) != first
    assert run_id(moved) == first


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"id": null, "directory": 5}'])
def test_a_damaged_record_is_replaced(text: str, tmp_path: Path) -> None:
    (tmp_path / RECORD).parent.mkdir()
    (tmp_path / RECORD).write_text(text)
    first = run_id(tmp_path)
    assert len(first) == 16
    assert json.loads((tmp_path / RECORD).read_text())["id"] == first


def test_suite_restarts_a_run_that_has_only_an_id(tmp_path: Path) -> None:
    run_id(tmp_path)
    assert worth_keeping(tmp_path) is None


def test_values_recorded_by_callbacks_are_logged(client: Client, tmp_path: Path) -> None:
    class Recording(BaseCallback):
        def _on_step(self) -> bool:
            self.logger.record("mine/steps", self.num_timesteps)
            self.logger.record("mine/text", "words")
            return True

    Agent(WALK, CONFIG).learn(15, Recording(), run_dir=tmp_path / "run")
    assert [pair for pair in client.rows if "mine/steps" in pair[0]] == [
        ({"mine/steps": 9.0}, 10),
        ({"mine/steps": 15.0}, 15),
    ]
