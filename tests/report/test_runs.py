"""Reading runs: damaged files are reported and not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.report.made_up import CATCH, PONG, cell

from drama.report.runs import read_run, reference_of, running_mean
from drama.suite import Variant


def test_finished_run_is_read_completely(tmp_path: Path) -> None:
    found = read_run(cell(tmp_path, score=0.25, returns=(1.0, 2.0)))
    assert found.status == "finished"
    assert found.evaluation["greedy"]["mean"] == 0.25
    assert found.episodes.steps.tolist() == [10.0, 20.0]
    assert found.episodes.returns.tolist() == [1.0, 2.0]
    assert found.seconds == 90.0
    assert found.steps_asked == 5000
    assert found.starts[0]["device_name"] == "A processor"
    assert (found.notes, found.reason) == ((), "")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({}, ""),
        ({"training.warmup_steps": 5000}, "no update: the warm-up of random actions"),
        (
            {"training.world_model_ratio": 0.0, "training.behaviour_ratio": 0.0},
            "no update: training.world_model_ratio and training.behaviour_ratio are 0",
        ),
        (
            {"training.behaviour_ratio": 0.0},
            "no update of the policy: training.behaviour_ratio is 0",
        ),
    ],
)
def test_a_finished_run_without_updates_is_named(
    overrides: dict[str, object], said: str, tmp_path: Path
) -> None:
    variant = Variant("base", "Base", "quick", overrides)
    found = read_run(cell(tmp_path, variant))
    assert found.untrained.startswith(said)
    assert bool(found.untrained) == bool(said)


@pytest.mark.parametrize("status", ["missing", "foreign"])
def test_unrelated_directories_are_not_read(status: str, tmp_path: Path) -> None:
    found = read_run(cell(tmp_path, status=status, reason="why"))
    assert (found.status, found.reason) == (status, "why")
    assert len(found.episodes.steps) == 0
    assert not found.evaluation


def test_unfinished_run_has_curves_but_no_score(tmp_path: Path) -> None:
    made = cell(tmp_path, status="interrupted", reason="at step 60 of 5,000")
    (made.path / "eval.json").write_text(json.dumps({"greedy": {"mean": 9.0}}))
    found = read_run(made)
    assert found.status == "interrupted"
    assert found.steps == 60
    assert not found.evaluation
    assert len(found.episodes.steps) == 6


def _cut(path: Path) -> None:
    text = path.read_bytes()
    path.write_bytes(text[: len(text) - 15])


def _binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def _backwards(path: Path) -> None:
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], rows[0], *rows[3:]]) + "\n")


def _nan(path: Path) -> None:
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], '{"step": 40, "return": NaN}']) + "\n")


def _deep(path: Path) -> None:
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], "[" * 100_000, *rows[3:]]) + "\n")


def _huge_step(path: Path) -> None:
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], f'{{"step": {10**400}, "return": 1.0}}']) + "\n")


def _huge_return(path: Path) -> None:
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:3], '{"step": 40, "return": 1.7e308}']) + "\n")


@pytest.mark.faults
@pytest.mark.parametrize(
    ("spoil", "left", "said"),
    [
        (_cut, 5, "line 6 and later lines could not be read"),
        (_binary, 0, "line 1 and later lines could not be read"),
        (_backwards, 3, "line 4 and later lines are invalid"),
        (_nan, 3, "line 4 and later lines are invalid"),
        (_deep, 3, "line 4 and later lines could not be read"),
        (_huge_step, 3, "line 4 and later lines are invalid"),
        (_huge_return, 3, "line 4 and later lines are invalid"),
    ],
)
def test_damaged_log_is_read_up_to_the_damage(
    spoil: Callable[[Path], None], left: int, said: str, tmp_path: Path
) -> None:
    made = cell(tmp_path)
    spoil(made.path / "episodes.jsonl")
    found = read_run(made)
    assert found.status == "finished"
    assert len(found.episodes.steps) == left
    assert found.notes == (f"episodes.jsonl: {said}",)


@pytest.mark.faults
@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"greedy": {"mean": 1.0}}',
        '{"greedy": {"mean": NaN, "protocol": {"env": {}}}}',
        '{"greedy": {"mean": 1.0, "protocol": {"env": "Pong"}}}',
        '{"greedy": {"mean": "3", "protocol": {"env": {}}}}',
        '{"greedy": {"mean": true, "protocol": {"env": {}}}}',
        '{"greedy": {"mean": 1.7e308, "protocol": {"env": {}}}}',
        f'{{"greedy": {{"mean": {10**400}, "protocol": {{"env": {{}}}}}}}}',
        f'{{"greedy": {{"mean": {"1" * 5000}, "protocol": {{"env": {{}}}}}}}}',
        "[" * 100_000,
    ],
)
def test_damaged_evaluation_gives_no_score(text: str, tmp_path: Path) -> None:
    made = cell(tmp_path)
    (made.path / "eval.json").write_text(text)
    found = read_run(made)
    assert found.status == "failed"
    assert "eval.json is damaged" in found.reason
    assert not found.evaluation


@pytest.mark.faults
@pytest.mark.parametrize(
    "text", ["", "{}", '{"starts": 3}', '{"starts": [1]}', "\0", "[" * 100_000]
)
def test_run_without_its_record_is_read(text: str, tmp_path: Path) -> None:
    made = cell(tmp_path)
    (made.path / "run.json").write_text(text)
    found = read_run(made)
    assert found.status == "finished"
    assert found.starts == ()
    assert found.notes == ("run.json cannot be read: machine and versions are unknown",)


def test_running_mean_matches_hand_computed_values() -> None:
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert running_mean(values, 2).tolist() == [1.5, 2.5, 6.5]
    assert running_mean(values, 4).tolist() == [4.0]
    assert running_mean(values, 5).tolist() == []


def test_references() -> None:
    pong, catch = reference_of(PONG), reference_of(CATCH)
    assert pong is not None
    assert (pong.name, pong.floor, pong.top) == ("human", -21.0, 15.0)
    assert catch is not None
    assert (catch.name, catch.floor, catch.top) == ("optimum", -0.75, 1.0)
    assert catch.normalise(0.125) == pytest.approx(0.5)
    assert reference_of("drama/Recall32-v0") is not None
    for unknown in ("CartPole-v1", "drama/Nothing-v0", "MinAtar/Breakout-v1"):
        assert reference_of(unknown) is None
