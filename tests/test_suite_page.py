"""Sections of the results page for built-in suites."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import curves, measure, results, suite_page, tables  # noqa: E402
from benchmarks.suites import shared_settings, text  # noqa: E402
from tests.made_up_suite import RISING, run  # noqa: E402

from drama.suite import load_spec  # noqa: E402

CATCH, BREAKOUT, ASTERIX = "drama/Catch-v0", "MinAtar/Breakout-v1", "MinAtar/Asterix-v1"


def suite(*runs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return condensed results of `small` with the settings that it has now."""
    spec = load_spec("small")
    config = spec.config(spec.variants[0], spec.games[0], 0)
    return {
        "suite": "small",
        "title": "Small games",
        "command": "drama suite run small",
        "variants": {"quick": "Drama quick"},
        "games": list(spec.games),
        "steps": {CATCH: 1000, BREAKOUT: 1000},
        "settings": {"quick": shared_settings(config, spec)},
        "runs": list(runs),
        **more,
    }


def one(env: str, seed: int, mean: float | None, hours: float | None = 0.5) -> dict[str, Any]:
    curve = {**RISING, **({} if hours is None else {"cpu_hours": [0.1, 0.2, 0.3, 0.4]})}
    cpu = None if hours is None else 3600 * hours
    return run("quick", seed, mean, curve) | {"env": env, "cpu_seconds": cpu}


def baseline(place: Path, env: str, agent: str, *means: float, steps: int = 1000) -> None:
    episodes = {"step": list(range(10, 1010, 10)), "return": [0.5] * 100, "length": [10] * 100}
    rows = [
        {"seed": seed, "wall_seconds": 60.0, "cpu_seconds": 36.0, "environment_steps": 1000}
        | {"greedy": {"mean": mean}, "sampled": {"mean": mean - 1}, "episodes": episodes}
        for seed, mean in enumerate(means)
    ]
    path = place / f"{env.replace('/', '-')}-{agent}-{steps}.json"
    path.write_text(json.dumps({"env": env, "agent": agent, "steps": steps, "runs": rows}))


def save(place: Path, result: dict[str, Any]) -> None:
    (place / "suite-small.json").write_text(text(result))
    (place / "random.json").write_text(json.dumps({"returns": {BREAKOUT: 0.5}}))


def test_section_appears_with_the_first_evaluated_run(tmp_path: Path) -> None:
    assert suite_page.markdown("small", tmp_path) == ""
    save(tmp_path, suite(one(CATCH, 0, None)))
    assert suite_page.markdown("small", tmp_path) == ""
    assert results.readme_rows(tmp_path) == list(results.README)
    save(tmp_path, suite(one(CATCH, 0, 0.5), one(CATCH, 1, None)))
    section = suite_page.markdown("small", tmp_path)
    assert section.startswith("## Small games\n")
    assert "1 of 2 runs are evaluated." in section
    assert f"| {BREAKOUT}" not in section  # games without results have no rows
    assert "Measured before" not in section
    rows = results.readme_rows(tmp_path)
    assert rows[0] == results.Row("small", "quick", CATCH)
    assert CATCH not in {row.env for row in rows[1:]}
    # Every row of the README is on the page, too.
    assert tables.table(tmp_path, rows[:1]) in section


def test_rows_match_hand_computed_values(tmp_path: Path) -> None:
    baseline(tmp_path, BREAKOUT, "dqn-short", 4.0, 6.0)
    baseline(tmp_path, BREAKOUT, "ppo", 2.0, steps=500)  # of another length
    save(tmp_path, suite(*(one(BREAKOUT, seed, mean) for seed, mean in enumerate((5.0, 8.0)))))
    table = suite_page.markdown("small", tmp_path)
    # (6.5 - 0.5) / 0.5 h and (5 - 0.5) / 0.01 h.
    assert (
        f"| {BREAKOUT} | Drama quick | 1,000 | **6.50** | 5.00 to 8.00 | 2 | 0.50 | 12 |" in table
    )
    assert f"| {BREAKOUT} | SB3 DQN | 1,000 | 5.00 | 4.00 to 6.00 | 2 | 0.01 | 450 |" in table
    assert f"| {BREAKOUT} | random policy |  | 0.50 |" in table
    assert "SB3 PPO" not in table
    # The short table has the better baseline only.
    short = f"| {BREAKOUT} | Drama quick | 1,000 | 2 | **6.50** | 5.00 to 8.00 | 2 | SB3 DQN 5.00 |"
    assert short in table


def test_runs_without_cpu_time_have_no_rate(tmp_path: Path) -> None:
    save(tmp_path, suite(one(BREAKOUT, 0, 5.0, hours=None)))
    table = suite_page.markdown("small", tmp_path)
    assert f"| {BREAKOUT} | Drama quick | 1,000 | **5.00** |  | 1 |  |  |" in table


def test_iqm_is_that_of_scores_divided_by_dqn(tmp_path: Path) -> None:
    for env in (BREAKOUT, ASTERIX):
        baseline(tmp_path, env, "dqn-short", 1.0, 3.0)
        baseline(tmp_path, env, "ppo", 1.0, 1.0)
    runs = [
        one(env, seed, mean)
        for env, means in ((BREAKOUT, (2.0, 4.0)), (ASTERIX, (6.0, 100.0)))
        for seed, mean in enumerate(means)
    ]
    save(tmp_path, suite(*runs, one(CATCH, 0, 1.0)))
    section = suite_page.markdown("small", tmp_path)
    # DQN's mean is 2: 1, 2, 3 and 50, whose middle half is 2 and 3.
    unit = "MinAtar: return divided by SB3 DQN's mean return"
    assert f"| {unit} | 2 | Drama quick | **2.50** |" in section
    assert f"| {unit} | 2 | SB3 PPO | **0.50** | 0.50 to 0.50 |" in section
    assert f"| {unit} | 2 | SB3 DQN |" not in section
    assert "1 the best return" not in section  # one game is no aggregate


def test_aggregates_compare_agents_on_the_same_games(tmp_path: Path) -> None:
    for env in (BREAKOUT, ASTERIX):
        baseline(tmp_path, env, "dqn-short", 2.0)
    baseline(tmp_path, BREAKOUT, "ppo", 1.0)
    save(tmp_path, suite(one(BREAKOUT, 0, 2.0), one(ASTERIX, 0, 2.0)))
    section = suite_page.markdown("small", tmp_path)
    assert "| 2 | Drama quick | **1.00** |" in section
    assert "| 2 | SB3 PPO |" not in section


def test_changed_settings_of_the_preset_are_named(tmp_path: Path) -> None:
    result = suite(one(CATCH, 0, 0.5))
    result["settings"]["quick"]["behaviour.entropy"] = 0.5
    save(tmp_path, result)
    section = suite_page.markdown("small", tmp_path)
    assert (
        "Measured before the last change: `quick` has changed since in behaviour.entropy."
        in section
    )


def test_figures_have_one_panel_per_game_by_steps_and_by_cpu_hours(tmp_path: Path) -> None:
    baseline(tmp_path, CATCH, "dqn-short", 0.5)
    result = suite(one(CATCH, 0, 0.5), one(BREAKOUT, 0, 1.0, hours=None), games=[CATCH, BREAKOUT])
    save(tmp_path, result)
    panels = curves.panels_of(result, tmp_path)
    assert list(panels[CATCH]) == ["Drama quick", "SB3 DQN"]
    (curve,) = panels[CATCH]["SB3 DQN"]
    assert curve["cpu_hours"][-1] == pytest.approx(36 / 3600)
    suite_page.draw_all("small", tmp_path)
    for name in suite_page.pictures("small").values():
        assert (tmp_path / name).stat().st_size > 10_000
        assert f"(assets/results/{name})" in suite_page.markdown("small", tmp_path)
    assert list(suite_page.drawable(result, tmp_path, "step")) == [CATCH, BREAKOUT]
    assert list(suite_page.drawable(result, tmp_path, "cpu_hours")) == [CATCH]
    save(tmp_path, suite(one(BREAKOUT, 0, 1.0, hours=None)))
    assert "small-hours.png" not in suite_page.markdown("small", tmp_path)


def test_page_has_a_block_for_each_suite(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs" / "results.md").read_text())
    for name in suite_page.SUITES:
        measure.replace_block(page, f"suite-{name}", "## A section")
    assert page.read_text().count("## A section") == 2
