"""Recorded results of a suite, and merging of runs from several machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import suites  # noqa: E402
from tests.made_up_suite import ENV, RISING, run, suite  # noqa: E402

from drama import presets  # noqa: E402
from drama.report.runs import CpuTime  # noqa: E402
from drama.suite import BUILT_IN, load_spec  # noqa: E402
from drama.suite.layout import begin_suite  # noqa: E402

PUBLISHED = sorted((ROOT / "docs" / "assets" / "results").glob("suite-*.json"))


def test_curve_is_thinned_to_running_means() -> None:
    steps, returns = np.arange(1.0, 1001), np.arange(1000.0)
    step, mean = suites.thinned(steps, returns, 20)
    assert len(step) == suites.POINTS
    assert (step[0], step[-1]) == (20, 1000)
    assert (mean[0], mean[-1]) == (9.5, 989.5)  # means of 0..19 and of 980..999
    assert suites.thinned(steps[:5], returns[:5], 20) == ([], [])
    assert suites.thinned(steps[:5], returns[:5], 5) == ([steps[4]], [returns[:5].mean()])


def test_settings_match_expected_values() -> None:
    base = presets.xs()
    assert suites.settings(dataclasses.replace(base, seed=3)) == {}
    behaviour = dataclasses.replace(base.behaviour, gamma=0.9)
    world_model = dataclasses.replace(base.world_model, filters=(8, 8))
    changed = dataclasses.replace(base, behaviour=behaviour, world_model=world_model)
    assert suites.settings(changed) == {
        "behaviour.gamma": 0.9,
        "world_model.filters": [8, 8],
    }


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_experiments_have_the_settings_of_their_published_runs(path: Path) -> None:
    """Also after a preset has changed: then they contain the old values.

    The section of a built-in suite names the settings that have changed since instead.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["suite"] in BUILT_IN:
        return
    spec = load_spec(str(ROOT / found["command"].split()[-1]))
    assert found["variants"].keys() == found["settings"].keys()
    for variant in found["variants"]:
        config = spec.config(spec.variant(variant), spec.games[0], spec.seeds[0])
        assert suites.settings(config) == found["settings"][variant]


def means_of(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (r["variant"], r["env"], r["seed"], r["evaluation"].get("greedy", {}).get("mean"))
        for r in result["runs"]
    ]


def test_runs_from_other_machines_are_kept() -> None:
    settings = {"settings": {"ours": {"seed": 1}, "other": {}}}
    here = suite(run("ours", 0, 0.5, RISING), run("ours", 1, None, RISING)) | settings
    elsewhere = run("ours", 1, 0.9, RISING) | {"env": "drama/Sparse-v0"}
    before = suite(
        run("other", 0, 0.1, RISING),
        run("ours", 0, 1.0, RISING),
        run("ours", 1, 0.7, RISING),
        run("ours", 2, 0.6, RISING),
        run("ours", 3, None, RISING),
        elsewhere,
    )
    before |= settings | {"games": [ENV, "drama/Sparse-v0"]}
    found = suites.joined(here, before)
    assert means_of(found) == [
        ("ours", ENV, 0, 0.5),  # local runs take precedence over those of the file
        ("ours", ENV, 1, 0.7),
        ("ours", ENV, 2, 0.6),  # also if the local suite has other seeds
        ("ours", "drama/Sparse-v0", 1, 0.9),
        ("other", ENV, 0, 0.1),
    ]
    assert found["games"] == [ENV, "drama/Sparse-v0"]
    # If unfinished on both sides, the local one is kept.
    going = suite(run("ours", 1, None, RISING)) | settings
    assert means_of(suites.joined(going, going)) == [("ours", ENV, 1, None)]


def test_longer_of_two_runs_is_kept() -> None:
    settings = {"settings": {"ours": {}, "other": {}}}
    stopped = run("ours", 0, 0.2, RISING) | {"status": "interrupted", "steps": 500}
    later = stopped | {"steps": 600, "seconds": 1.0}
    finished = run("ours", 0, 0.5, RISING)
    for one, other in ((stopped, finished), (finished, stopped)):
        found = suites.joined(suite(one) | settings, suite(other) | settings)
        assert means_of(found) == [("ours", ENV, 0, 0.5)]
    for one, other in ((stopped, later), (later, stopped)):
        found = suites.joined(suite(one) | settings, suite(other) | settings)
        assert [r["steps"] for r in found["runs"]] == [600]


def test_runs_with_other_settings_are_not_merged() -> None:
    here = suite(run("ours", 0, 0.5, RISING)) | {"settings": {"ours": {"seed": 1}}}
    before = suite(run("ours", 1, 0.5, RISING)) | {"settings": {"ours": {}}}
    with pytest.raises(SystemExit, match="'ours' kept so far had other settings"):
        suites.joined(here, before)
    # A variant without kept runs may have changed.
    before = suite(run("ours", 0, 0.7, RISING)) | {"settings": {"ours": {}}}
    assert means_of(suites.joined(here, before)) == [("ours", ENV, 0, 0.5)]


def test_steps_of_unfinished_runs_are_shown() -> None:
    whole = run("ours", 0, 1.0, {})
    half = {**run("ours", 1, 1.0, {}), "steps": 450}
    assert suites.made([whole, whole]) == "1,000"
    assert suites.made([half]) == "450 of 1,000"
    assert suites.made([whole, half]) == "450 and 1,000 of 1,000"


@pytest.mark.parametrize(
    ("status", "steps", "told"), [("interrupted", 400, True), ("interrupted", 300, False)]
)
def test_stopped_run_is_reported_if_its_checkpoint_was_evaluated(
    tmp_path: Path, status: str, steps: int, told: bool
) -> None:
    cell = SimpleNamespace(path=tmp_path, status=status, step=400)
    assert suites.so_far(cell) == {}  # type: ignore[arg-type]
    found = {"greedy": {"mean": 2.0, "protocol": {"train_steps": steps}}}
    (tmp_path / "eval.json").write_text(json.dumps(found))
    assert suites.so_far(cell) == (found if told else {})  # type: ignore[arg-type]


def test_evaluated_checkpoint_is_reported_with_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "eval.json").write_text(
        json.dumps({"greedy": {"mean": 2.0, "episodes": [], "protocol": {"train_steps": 400}}})
    )
    empty = SimpleNamespace(steps=np.array([]), returns=np.array([]))
    logged = SimpleNamespace(
        variant="ours",
        env_id=ENV,
        seed=0,
        status="interrupted",
        steps=480,
        steps_asked=1000,
        seconds=1.0,
        cpu=None,
        starts=[],
        evaluation={},
        episodes=empty,
    )
    monkeypatch.setattr(suites, "read_run", lambda _: logged)
    cell = SimpleNamespace(path=tmp_path, status="interrupted", step=400)
    found = suites.one_run(cell)  # type: ignore[arg-type]
    assert (found["steps"], found["evaluation"]["greedy"]["mean"]) == (400, 2.0)
    logged.steps_asked = 400  # after its end the suite decides whether it counts
    found = suites.one_run(cell)  # type: ignore[arg-type]
    assert (found["steps"], found["evaluation"]) == (480, {})


def test_command_names_the_part_of_a_built_in_suite() -> None:
    whole = load_spec("small")
    assert suites.command(whole, "experiments") == "drama suite run small"
    part = whole.narrowed(games=["Catch", "CartPole"], seeds=[0, 2], steps=300)
    assert suites.command(part, "experiments") == (
        "drama suite run small --games drama/Catch-v0 CartPole-v1 --seeds 0 2 --steps 300"
    )
    toy = load_spec("toy").narrowed(variants=["uniform"])
    assert suites.command(toy, "experiments") == "drama suite run toy --variants uniform"
    other = dataclasses.replace(whole, name="mine")
    assert suites.command(other, "folder") == "drama suite run folder/mine.toml"
    with pytest.raises(SystemExit, match=r"not the built-in suite.*entropy=0\.5"):
        suites.command(whole.narrowed(overrides={"behaviour.entropy": 0.5}), "experiments")


def test_suite_with_steps_by_game_is_condensed(tmp_path: Path) -> None:
    spec = load_spec("small").narrowed(games=["Catch", "CartPole"], seeds=[0])
    begin_suite(tmp_path, spec)
    found = suites.condense(tmp_path)
    assert found["steps"] == {"drama/Catch-v0": 5000, "CartPole-v1": 5000}
    assert "steps" not in found["settings"]["quick"]
    assert found["settings"]["quick"]["behaviour.horizon"] == 10
    assert [run["steps_asked"] for run in found["runs"]] == [5000, 5000]
    assert suites.asked(found, "CartPole-v1") == 5000
    fixed = tmp_path / "fixed"
    begin_suite(fixed, spec.narrowed(steps=300))
    found = suites.condense(fixed)
    assert "steps" not in found
    assert found["settings"]["quick"]["steps"] == 300


def test_runs_of_another_length_are_not_merged() -> None:
    settings = {"settings": {"ours": {}}}
    here = suite(run("ours", 0, 0.5, RISING)) | settings | {"steps": {ENV: 1000}}
    elsewhere = run("ours", 0, 0.9, RISING) | {"env": "drama/Sparse-v0"}
    before = suite(elsewhere) | settings | {"games": ["drama/Sparse-v0"]}
    before |= {"steps": {"drama/Sparse-v0": 2000}}
    found = suites.joined(here, before)
    assert found["steps"] == {ENV: 1000, "drama/Sparse-v0": 2000}
    with pytest.raises(SystemExit, match=r"kept so far had 500 steps"):
        suites.joined(here, before | {"steps": {ENV: 500}})


def test_cpu_hours_of_a_curve_follow_the_logged_rows() -> None:
    cpu = CpuTime(np.array([100.0, 200.0]), np.array([36.0, 360.0]))
    found = suites.cpu_hours(SimpleNamespace(cpu=cpu), [50, 100, 150])  # type: ignore[arg-type]
    assert found == {"cpu_hours": [0.005, 0.01, 0.055]}
    assert suites.cpu_hours(SimpleNamespace(cpu=None), [50]) == {}  # type: ignore[arg-type]
