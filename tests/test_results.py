"""The results page says what its numbers say, and its numbers are what the runs left."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is part of a checkout, not of the package

from benchmarks import measure, results, world_model  # noqa: E402

import drama  # noqa: E402
from drama import presets  # noqa: E402
from drama.renamed import update_names  # noqa: E402
from drama.suite import load_spec  # noqa: E402

DOCS = ROOT / "docs"
PAGE = DOCS / "results.md"
ENV = "drama/Catch-v0"


def run(variant: str, seed: int, mean: float | None, curve: dict[str, Any]) -> dict[str, Any]:
    return {
        "variant": variant,
        "env": ENV,
        "seed": seed,
        "status": "running" if mean is None else "finished",
        "steps": 1000,
        "steps_asked": 1000,
        "seconds": 120.0,
        "evaluation": {} if mean is None else {"greedy": {"mean": mean, "returns": [mean]}},
        "curve": curve,
        "machine": dict.fromkeys(results.MACHINE, "x"),
    }


def suite(*runs: dict[str, Any]) -> dict[str, Any]:
    return {
        "suite": "made-up",
        "title": "Made up",
        "command": "drama suite run experiments/made-up.toml",
        "variants": {"ours": "Ours", "other": "Other"},
        "games": [ENV],
        "runs": list(runs),
    }


RISING = {"step": [100, 200, 300, 400], "return": [-0.5, 0.0, 0.5, 1.0]}


def test_scores_by_hand(tmp_path: Path) -> None:
    table = results.score_table(
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


def test_drawn_actions_have_a_row_where_every_seed_was_played_so(tmp_path: Path) -> None:
    runs = [run("ours", seed, 1.0, RISING) for seed in (0, 1)]
    runs[0]["evaluation"]["sampled"] = {"mean": 0.25, "returns": [0.25]}
    assert "drawn" not in results.score_table(suite(*runs), tmp_path)
    runs[1]["evaluation"]["sampled"] = {"mean": 0.5, "returns": [0.5]}
    table = results.score_table(suite(*runs), tmp_path)
    assert "| Ours, drawn actions | **0.38** | 0.25 to 0.50 | 0.25, 0.50 | 1,000 | 2 |" in table


def baseline(place: Path, last: float) -> None:
    episodes = {"step": list(range(10, 510, 10)), "return": [last] * 50, "length": [7] * 50}
    row = {"seed": 0, "wall_seconds": 60.0, "episodes": episodes}
    row |= {"greedy": {"mean": 0.25}, "sampled": {"mean": 0.125}}
    (place / "drama-Catch-v0-ppo.json").write_text(
        json.dumps({"env": ENV, "agent": "ppo", "steps": 500, "runs": [row]})
    )


def test_steps_to_reach_a_baseline(tmp_path: Path) -> None:
    assert results.steps_to_reach(RISING, 0.2) == 300
    assert results.steps_to_reach(RISING, 1.1) is None
    baseline(tmp_path, 0.5)
    never = {"step": [100, 200], "return": [-0.5, 0.4]}
    table = results.reach_table(suite(run("ours", 0, 1.0, RISING)), tmp_path)
    # The baseline stands there with its first twenty episodes, after 200 steps.
    assert "| SB3 PPO | 0.50 | 200 | Ours | 300 | 1.50 |" in table
    both = suite(run("ours", 0, 1.0, RISING), run("ours", 1, 1.0, never))
    assert "| 300, not reached | 1.50 (1 of 2 seeds) |" in results.reach_table(both, tmp_path)
    none = suite(run("ours", 1, 1.0, never))
    assert "| not reached | none |" in results.reach_table(none, tmp_path)
    assert "| SB3 PPO | **0.25** |" in results.score_table(none, tmp_path)


def test_a_curve_is_thinned_to_running_means() -> None:
    steps, returns = np.arange(1.0, 1001), np.arange(1000.0)
    step, mean = results.thinned(steps, returns, 20)
    assert len(step) == results.POINTS
    assert (step[0], step[-1]) == (20, 1000)
    assert (mean[0], mean[-1]) == (9.5, 989.5)  # means of 0..19 and of 980..999
    assert results.thinned(steps[:5], returns[:5], 20) == ([], [])
    assert results.thinned(steps[:5], returns[:5], 5) == ([steps[4]], [returns[:5].mean()])


def test_a_game_of_few_episodes_has_a_shorter_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline(tmp_path, 0.5)
    monkeypatch.setitem(results.WIDTHS, ENV, 5)
    table = results.reach_table(suite(run("ours", 0, 1.0, RISING)), tmp_path)
    # Its first five episodes are over after 50 steps.
    assert "| SB3 PPO | 0.50 | 50 | Ours | 300 | 6.00 |" in table


def test_page_is_made_from_the_numbers(tmp_path: Path) -> None:
    place = tmp_path / "assets" / "results"
    place.mkdir(parents=True)
    (tmp_path / "results.md").write_text(
        "above\n<!-- begin suite-made-up -->\n<!-- end suite-made-up -->\n"
        "<!-- begin suite-absent -->\nkept\n<!-- end suite-absent -->\n"
    )
    baseline(place, 0.5)
    whole = suite(run("ours", 0, 1.0, RISING), run("other", 0, 0.5, RISING))
    (place / "suite-made-up.json").write_text(results.text(whole))
    results.render(tmp_path)
    page = (tmp_path / "results.md").read_text()
    assert "| Other | **0.50** |" in page
    assert "kept" in page
    assert (place / "suite-made-up.png").stat().st_size > 1000


def test_published_page_says_what_the_results_say(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_bytes(PAGE.read_bytes())
    place = DOCS / "assets" / "results"
    for name in results.blocks(PAGE):
        path = place / f"suite-{name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        block = results.markdown(found, place, f"assets/results/{path.stem}.png")
        measure.replace_block(page, f"suite-{name}", block)
        assert path.with_suffix(".png").is_file()
    for path in place.glob("dream-*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        block = world_model.markdown(found, f"assets/results/{path.stem}.png")
        measure.replace_block(page, path.stem, block)
    assert page.read_bytes() == PAGE.read_bytes()


def test_settings_by_hand() -> None:
    base = presets.xs()
    assert results.settings(dataclasses.replace(base, seed=3)) == {}
    behaviour = dataclasses.replace(base.behaviour, gamma=0.9)
    world_model = dataclasses.replace(base.world_model, filters=(8, 8))
    changed = dataclasses.replace(base, behaviour=behaviour, world_model=world_model)
    assert results.settings(changed) == {
        "behaviour.gamma": 0.9,
        "world_model.filters": [8, 8],
    }


@pytest.mark.parametrize("name", results.blocks(PAGE))
def test_experiments_are_what_their_published_runs_were_made_with(name: str) -> None:
    """Also after a preset has changed: then they say what it was."""
    found = json.loads((DOCS / "assets" / "results" / f"suite-{name}.json").read_text())
    spec = load_spec(str(ROOT / "experiments" / f"{name}.toml"))
    assert found["variants"].keys() == found["settings"].keys()
    for variant in found["variants"]:
        config = spec.config(spec.variant(variant), spec.games[0], spec.seeds[0])
        assert results.settings(config) == update_names(found["settings"][variant])


def means_of(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [
        (r["variant"], r["env"], r["seed"], r["evaluation"].get("greedy", {}).get("mean"))
        for r in result["runs"]
    ]


def test_runs_made_elsewhere_are_kept() -> None:
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
    found = results.joined(here, before)
    assert means_of(found) == [
        ("ours", ENV, 0, 0.5),  # what was made here counts before what the file says
        ("ours", ENV, 1, 0.7),
        ("ours", ENV, 2, 0.6),  # also where the suite here was asked for other seeds
        ("ours", "drama/Sparse-v0", 1, 0.9),
        ("other", ENV, 0, 0.1),
    ]
    assert found["games"] == [ENV, "drama/Sparse-v0"]
    # One that is under way on both sides stays as it is here.
    going = suite(run("ours", 1, None, RISING)) | settings
    assert means_of(results.joined(going, going)) == [("ours", ENV, 1, None)]


def test_of_two_runs_the_one_further_on_is_kept() -> None:
    settings = {"settings": {"ours": {}, "other": {}}}
    stopped = run("ours", 0, 0.2, RISING) | {"status": "interrupted", "steps": 500}
    later = stopped | {"steps": 600, "seconds": 1.0}
    finished = run("ours", 0, 0.5, RISING)
    for one, other in ((stopped, finished), (finished, stopped)):
        found = results.joined(suite(one) | settings, suite(other) | settings)
        assert means_of(found) == [("ours", ENV, 0, 0.5)]
    for one, other in ((stopped, later), (later, stopped)):
        found = results.joined(suite(one) | settings, suite(other) | settings)
        assert [r["steps"] for r in found["runs"]] == [600]


def test_runs_with_other_settings_are_not_joined() -> None:
    here = suite(run("ours", 0, 0.5, RISING)) | {"settings": {"ours": {"seed": 1}}}
    before = suite(run("ours", 1, 0.5, RISING)) | {"settings": {"ours": {}}}
    with pytest.raises(SystemExit, match="'ours' kept so far had other settings"):
        results.joined(here, before)
    # A variant that has none of its runs kept may have changed.
    before = suite(run("ours", 0, 0.7, RISING)) | {"settings": {"ours": {}}}
    assert means_of(results.joined(here, before)) == [("ours", ENV, 0, 0.5)]


@pytest.mark.parametrize("keep", [False, True])
def test_the_file_is_kept_where_that_is_asked(
    keep: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "assets" / "results" / "suite-made-up.json"
    path.parent.mkdir(parents=True)
    (tmp_path / "results.md").write_text("nothing of it\n")
    path.write_text(results.text(suite(run("ours", 0, 1.0, RISING)) | {"settings": {"ours": {}}}))
    begun = suite(run("ours", 0, None, RISING)) | {"settings": {"ours": {}}}
    monkeypatch.setattr(results, "condense", lambda directory: begun)
    results.main([*["--keep"] * keep, "suites/made-up", "--docs", str(tmp_path)])
    evaluation = json.loads(path.read_text())["runs"][0]["evaluation"]
    assert evaluation == ({"greedy": {"mean": 1.0, "returns": [1.0]}} if keep else {})


def test_half_finished_suites_have_a_page(tmp_path: Path) -> None:
    begun = suite(run("ours", 0, None, RISING))
    begun["runs"][0]["machine"] = dict.fromkeys(results.MACHINE)
    assert "no run has begun" in results.provenance(begun)
    one = suite(run("ours", 0, 1.0, RISING))
    assert "| Ours | **1.00** |  | 1.00 |" in results.score_table(one, tmp_path)
    # A baseline of an agent without a name here, and one too short for a running mean.
    baseline(tmp_path, 0.5)
    path = tmp_path / "drama-Catch-v0-ppo.json"
    found = json.loads(path.read_text()) | {"agent": "a2c"}
    path.write_text(json.dumps(found))
    results.draw(one, tmp_path, tmp_path / "a.png")
    found["runs"][0]["episodes"] = {"step": [7], "return": [1.0], "length": [7]}
    path.write_text(json.dumps(found))
    assert results.reach_table(one, tmp_path) == ""


# -- dreams ----------------------------------------------------------------------------------------


def windows(reward: list[float], end: list[bool]) -> world_model.Windows:
    """One window of frames that grow brighter by one a step."""
    length = len(reward)
    obs = torch.arange(length, dtype=torch.uint8)[None, :, None, None, None].expand(1, -1, 2, 2, 3)
    return world_model.Windows(
        obs, torch.zeros(1, length, dtype=torch.int64), torch.tensor([reward]), torch.tensor([end])
    )


def test_outcomes_by_hand() -> None:
    seen = windows([9.0, 0.0, 1.0, -2.0, 0.0], [False, False, False, False, True])
    reward = torch.tensor([[0.6, 0.4, -1.1, -0.1]])  # of the last four; the first was read
    end = torch.tensor([[False, True, False, False]])
    found = world_model.outcomes(reward, end, seen, context=1)
    # 1 was foretold as 0.4 (no), -2 as -1.1 (yes); of the zeros 0.6 is made up, -0.1 is not.
    assert (found["reward_found"], found["reward_made_up"]) == (0.5, 0.5)
    assert (found["end_found"], found["end_made_up"]) == (0.0, 0.3333)
    assert (found["rewards"], found["ends"]) == (2, 1)


def test_error_of_frames_by_hand() -> None:
    black = torch.zeros(2, 2, 2, 3, dtype=torch.uint8)
    grey = torch.full_like(black, 51)  # a fifth: 12 values of 1/25 each
    assert world_model.error(grey, black) == pytest.approx(12 / 25)


def test_a_game_without_dreams_has_an_empty_panel(tmp_path: Path) -> None:
    errors = {key: [1.0, 2.0] for key in ("dream", "last_frame", "reconstruction")}
    result = {
        "horizon": 2,
        "variants": {"ours": "Ours"},
        "games": ["none/Yet-v0", ENV],
        "runs": [{"variant": "ours", "env": ENV, "seed": 0, **errors}],
    }
    world_model.draw(result, tmp_path / "dream.png")
    assert (tmp_path / "dream.png").stat().st_size > 1000


def test_dreams_of_a_fresh_agent() -> None:
    agent = drama.Agent(ENV, presets.quick(), seed=0)
    seen = world_model.play(agent, length=5, windows=6, episodes=4)
    assert seen.obs.shape == (6, 5, 32, 32, 3)
    # Catch takes seven steps: windows of five begin at the first three.
    assert seen.terminated.sum() == seen.terminated[:, -1].sum() > 0
    found = world_model.compare(agent, seen, context=2)
    assert len(found["dream"]) == len(found["last_frame"]) == 3
    first = (seen.obs[:, 2].float() - seen.obs[:, 1].float()) / 255
    assert found["last_frame"][0] == pytest.approx(float(first.square().sum()) / 6, rel=1e-3)
    with pytest.raises(SystemExit, match="no episode"):
        world_model.play(agent, length=30, windows=6, episodes=2)


def test_steps_of_runs_that_are_not_over() -> None:
    whole = run("ours", 0, 1.0, {})
    half = {**run("ours", 1, 1.0, {}), "steps": 450}
    assert results.made([whole, whole]) == "1,000"
    assert results.made([half]) == "450 of 1,000"
    assert results.made([whole, half]) == "450 and 1,000 of 1,000"


def test_published_scores_stand_beside_games_that_have_them() -> None:
    rows = results.published_rows("ALE/Boxing-v5")
    assert ("Drama-XS, published", "78.00", "", "", "100,000", "") in rows
    assert len(rows) == len(results.PUBLISHED)
    assert results.published_rows(ENV) == results.published_rows("MinAtar/Breakout-v1") == []


def test_baselines_act_as_they_do_better() -> None:
    def seeds(greedy: float, drawn: float) -> dict[str, Any]:
        return {"runs": [{"greedy": {"mean": greedy}, "sampled": {"mean": drawn}}]}

    assert results.at_its_best(seeds(2.0, 1.0)) == ("", [2.0])
    assert results.at_its_best(seeds(-24.0, 1.0)) == (", drawn actions", [1.0])


@pytest.mark.parametrize(
    ("status", "steps", "told"), [("interrupted", 400, True), ("interrupted", 300, False)]
)
def test_a_stopped_run_is_told_as_far_as_its_checkpoint_was_evaluated(
    tmp_path: Path, status: str, steps: int, told: bool
) -> None:
    cell = SimpleNamespace(path=tmp_path, status=status, step=400)
    assert results.so_far(cell) == {}  # type: ignore[arg-type]
    found = {"greedy": {"mean": 2.0, "protocol": {"train_steps": steps}}}
    (tmp_path / "eval.json").write_text(json.dumps(found))
    assert results.so_far(cell) == (found if told else {})  # type: ignore[arg-type]


def test_an_evaluated_checkpoint_is_told_by_its_own_steps(
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
        starts=[],
        evaluation={},
        episodes=empty,
    )
    monkeypatch.setattr(results, "read_run", lambda _: logged)
    cell = SimpleNamespace(path=tmp_path, status="interrupted", step=400)
    found = results.one_run(cell)  # type: ignore[arg-type]
    assert (found["steps"], found["evaluation"]["greedy"]["mean"]) == (400, 2.0)
    logged.steps_asked = 400  # at its end it is for the suite to say whether that counts
    found = results.one_run(cell)  # type: ignore[arg-type]
    assert (found["steps"], found["evaluation"]) == (480, {})
