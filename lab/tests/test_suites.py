"""The suite tables of the log match the runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

from benchmarks import measure, results
from benchmarks import suites as condensed
from lab import LAB, LOG, rollout_error, suites
from tests.made_up_suite import ENV, RISING, run, suite


def test_scores_match_hand_computed_values(tmp_path: Path) -> None:
    table = suites.score_table(
        suite(
            run("ours", 0, 1.0, RISING), run("ours", 1, 0.5, RISING), run("ours", 2, None, RISING)
        ),
        tmp_path,
    )
    # Two seeds: a resampled mean is 1, 0.75 or 0.5, the outer ones a quarter of the time each.
    assert "| Ours | **0.75** | 0.50 to 1.00 | 1.00, 0.50 | 1,000 | 2 |" in table
    assert "| Ours |  |  | 1 not finished |  |  |" in table
    assert "Other" not in table
    assert "| random policy | -0.75 |" in table


def test_sampled_actions_have_a_row_if_every_seed_has_them(tmp_path: Path) -> None:
    runs = [run("ours", seed, 1.0, RISING) for seed in (0, 1)]
    runs[0]["evaluation"]["sampled"] = {"mean": 0.25, "returns": [0.25]}
    assert "sampled" not in suites.score_table(suite(*runs), tmp_path)
    runs[1]["evaluation"]["sampled"] = {"mean": 0.5, "returns": [0.5]}
    table = suites.score_table(suite(*runs), tmp_path)
    assert "| Ours, sampled actions | **0.38** | 0.25 to 0.50 | 0.25, 0.50 | 1,000 | 2 |" in table


def baseline(place: Path, last: float) -> None:
    episodes = {"step": list(range(10, 510, 10)), "return": [last] * 50, "length": [7] * 50}
    row = {"seed": 0, "wall_seconds": 60.0, "episodes": episodes}
    row |= {"greedy": {"mean": 0.25}, "sampled": {"mean": 0.125}}
    (place / "drama-Catch-v0-ppo-1000.json").write_text(
        json.dumps({"env": ENV, "agent": "ppo", "steps": 1000, "runs": [row]})
    )


def test_steps_to_reach_a_baseline_are_counted(tmp_path: Path) -> None:
    assert suites.steps_to_reach(RISING, 0.2) == 300
    assert suites.steps_to_reach(RISING, 1.1) is None
    baseline(tmp_path, 0.5)
    never = {"step": [100, 200], "return": [-0.5, 0.4]}
    table = suites.reach_table(suite(run("ours", 0, 1.0, RISING)), tmp_path)
    # The baseline reaches it with its first twenty episodes, after 200 steps.
    assert "| SB3 PPO | 0.50 | 200 | Ours | 300 | 1.50 |" in table
    both = suite(run("ours", 0, 1.0, RISING), run("ours", 1, 1.0, never))
    assert "| 300, not reached | 1.50 (1 of 2 seeds) |" in suites.reach_table(both, tmp_path)
    none = suite(run("ours", 1, 1.0, never))
    assert "| not reached | none |" in suites.reach_table(none, tmp_path)
    assert "| SB3 PPO | **0.25** |" in suites.score_table(none, tmp_path)


def test_a_game_of_few_episodes_has_a_shorter_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline(tmp_path, 0.5)
    monkeypatch.setitem(condensed.WIDTHS, ENV, 5)
    table = suites.reach_table(suite(run("ours", 0, 1.0, RISING)), tmp_path)
    # Its first five episodes are over after 50 steps.
    assert "| SB3 PPO | 0.50 | 50 | Ours | 300 | 6.00 |" in table


def test_block_of_the_log_is_written_from_the_results(tmp_path: Path) -> None:
    place = tmp_path / "assets"
    place.mkdir(parents=True)
    (tmp_path / LOG).write_text(
        "above\n<!-- begin suite-made-up -->\n<!-- end suite-made-up -->\n"
        "<!-- begin suite-absent -->\nkept\n<!-- end suite-absent -->\n"
    )
    whole = suite(run("ours", 0, 1.0, RISING), run("other", 0, 0.5, RISING))
    (place / "suite-made-up.json").write_text(condensed.text(whole))
    suites.render(tmp_path)
    page = (tmp_path / LOG).read_text()
    assert "| Other | **0.50** |" in page
    assert "kept" in page
    assert (place / "suite-made-up.png").stat().st_size > 1000


def test_log_matches_the_recorded_results(tmp_path: Path) -> None:
    page, place = tmp_path / LOG, LAB / "assets"
    page.write_bytes((LAB / LOG).read_bytes())
    for name in suites.blocks(LAB / LOG):
        path = suites.find(name, place)
        assert path is not None
        found = json.loads(path.read_text(encoding="utf-8"))
        block = suites.markdown(found, results.RESULTS, f"assets/suite-{name}.png")
        measure.replace_block(page, f"suite-{name}", block)
        assert (place / f"suite-{name}.png").is_file()
    for path in place.glob("rollout_error-*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        block = rollout_error.markdown(found, f"assets/{path.stem}.png")
        measure.replace_block(page, path.stem, block)
    assert page.read_text() == (LAB / LOG).read_text()


def test_every_figure_of_the_log_exists() -> None:
    """Including figures without a script."""
    names = re.findall(r"\]\(([^)]+\.png)\)", (LAB / LOG).read_text(encoding="utf-8"))
    assert names
    assert not [name for name in names if not (LAB / name).is_file()]


@pytest.mark.parametrize("keep", [False, True])
def test_keep_leaves_the_results_file_unchanged(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "assets" / "suite-made-up.json"
    path.parent.mkdir(parents=True)
    (tmp_path / LOG).write_text("nothing of it\n")
    path.write_text(condensed.text(suite(run("ours", 0, 1.0, RISING)) | {"settings": {"ours": {}}}))
    begun = suite(run("ours", 0, None, RISING)) | {"settings": {"ours": {}}}
    monkeypatch.setattr(condensed, "condense", lambda *_: begun)
    suites.main([*["--keep"] * keep, "suites/made-up", "--lab", str(tmp_path)])
    evaluation = json.loads(path.read_text())["runs"][0]["evaluation"]
    assert evaluation == ({"greedy": {"mean": 1.0, "returns": [1.0]}} if keep else {})


def test_unfinished_suites_can_be_reported(tmp_path: Path) -> None:
    begun = suite(run("ours", 0, None, RISING))
    begun["runs"][0]["machine"] = dict.fromkeys(condensed.MACHINE)
    assert "no run has begun" in suites.provenance(begun)
    one = suite(run("ours", 0, 1.0, RISING))
    assert "| Ours | **1.00** |  | 1.00 |" in suites.score_table(one, tmp_path)
    # A baseline of an unnamed agent, and one too short for a running mean.
    baseline(tmp_path, 0.5)
    path = tmp_path / "drama-Catch-v0-ppo-1000.json"
    found = json.loads(path.read_text()) | {"agent": "a2c"}
    path.write_text(json.dumps(found))
    results.draw(suites.panels_of(one, tmp_path), tmp_path / "a.png")
    found["runs"][0]["episodes"] = {"step": [7], "return": [1.0], "length": [7]}
    path.write_text(json.dumps(found))
    assert suites.reach_table(one, tmp_path) == ""
