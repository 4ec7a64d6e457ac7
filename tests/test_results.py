"""The results page says what its numbers say, and its numbers are what the runs left."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import comparison, curves, measure, results, suite_page, tables  # noqa: E402
from benchmarks.suites import text  # noqa: E402
from tests.made_up_suite import ENV, RISING, run, suite  # noqa: E402

DOCS = ROOT / "docs"
PLACE = DOCS / "assets" / "results"


def baseline(place: Path, greedy: float, sampled: float, agent: str = "ppo") -> None:
    episodes = {"step": list(range(10, 510, 10)), "return": [0.5] * 50, "length": [7] * 50}
    row = {"seed": 0, "wall_seconds": 60.0, "episodes": episodes}
    row |= {"greedy": {"mean": greedy}, "sampled": {"mean": sampled}}
    (place / f"drama-Catch-v0-{agent}-1000.json").write_text(
        json.dumps({"env": ENV, "agent": agent, "steps": 1000, "runs": [row]})
    )


def saved(place: Path, *runs: dict[str, Any]) -> None:
    (place / "suite-made-up.json").write_text(text(suite(*runs)))


def test_row_matches_hand_computed_values(tmp_path: Path) -> None:
    runs = [run("ours", 0, 1.0, RISING), run("ours", 1, 0.5, RISING), run("ours", 2, None, RISING)]
    saved(tmp_path, *runs)
    baseline(tmp_path, 0.25, 0.125, "ppo")
    baseline(tmp_path, -2.0, 0.375, "dqn")
    # Two seeds: a resampled mean is 1, 0.75 or 0.5, the outer ones a quarter of the time each.
    cells = ("1,000", "2", "**0.75**", "0.50 to 1.00", "2", "SB3 DQN 0.38", "-0.75")
    assert tables.score_cells(tmp_path, results.Row("made-up", "ours", ENV)) == cells


def test_one_seed_has_no_interval_and_an_unfinished_run_its_steps(tmp_path: Path) -> None:
    saved(tmp_path, {**run("ours", 0, 1.0, RISING), "steps": 450})
    cells = tables.score_cells(tmp_path, results.Row("made-up", "ours", ENV))
    assert cells == ("450 of 1,000", "2", "**1.00**", "", "1", "", "-0.75")


def test_sampled_actions_are_named(tmp_path: Path) -> None:
    one = run("ours", 0, 1.0, RISING)
    one["evaluation"]["sampled"] = {"mean": 0.25, "returns": [0.25]}
    saved(tmp_path, one)
    row = results.Row("made-up", "ours", ENV, "sampled")
    assert "| Ours, sampled actions | 1,000 | 2 | **0.25** |" in results.table(tmp_path, [row])


def test_page_and_readme_match_the_results(tmp_path: Path) -> None:
    page, readme = tmp_path / "results.md", tmp_path / "README.md"
    page.write_text((DOCS / "results.md").read_text())
    readme.write_text((ROOT / "README.md").read_text())
    for name in suite_page.SUITES:
        measure.replace_block(page, f"suite-{name}", suite_page.markdown(name, PLACE))
    for name in results.BENCHMARKS:
        measure.replace_block(page, name, results.markdown(name, PLACE))
        assert (PLACE / f"{name}.png").stat().st_size > 10_000
    measure.replace_block(readme, "results", results.table(PLACE, results.readme_rows(PLACE)))
    assert page.read_text() == (DOCS / "results.md").read_text()
    assert readme.read_text() == (ROOT / "README.md").read_text()


def test_every_row_of_the_readme_is_on_the_page() -> None:
    page, readme = ((ROOT / name).read_text() for name in ("docs/results.md", "README.md"))
    rows = re.findall(r"^\| (?:drama|MinAtar|ALE)/.*$", readme, re.M)
    assert len(rows) >= 6
    assert all(row in page for row in rows)


def test_figures_are_written(tmp_path: Path) -> None:
    saved(tmp_path, run("ours", 0, 1.0, RISING), run("other", 0, 0.5, {"step": [], "return": []}))
    baseline(tmp_path, 0.25, 0.125)
    rows = [results.Row("made-up", variant, ENV) for variant in ("ours", "other")]
    panels = results.curves_of(tmp_path, rows)
    assert list(panels[ENV]) == ["Ours", "Other", "SB3 PPO"]
    curves.draw(panels, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_published_scores_are_shown_if_known() -> None:
    found = comparison.published_of("ALE/Boxing-v5")
    assert ("Drama-XS", 78.0) in found
    assert len(found) == len(comparison.PUBLISHED)
    assert comparison.published_of(ENV) == comparison.published_of("MinAtar/Breakout-v1") == []


def test_better_mode_of_a_baseline_is_shown() -> None:
    def seeds(greedy: float, sampled: float) -> dict[str, Any]:
        return {"runs": [{"greedy": {"mean": greedy}, "sampled": {"mean": sampled}}]}

    assert comparison.at_its_best(seeds(2.0, 1.0)) == ("", [2.0])
    assert comparison.at_its_best(seeds(-24.0, 1.0)) == (", sampled actions", [1.0])


def test_random_play_matches_hand_computed_values() -> None:
    found = comparison.random_returns({ENV: 100})
    assert found["returns"][ENV] == pytest.approx(-0.75, abs=0.2)  # one ball in eight is caught
