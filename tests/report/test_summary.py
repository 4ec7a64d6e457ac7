"""Averages use one protocol and the same games; everything left out is named."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from tests.report.made_up import (
    ALIEN,
    BASE,
    BOXING,
    CATCH,
    PONG,
    SPARSE,
    UNIFORM,
    XS,
    cell,
    runs,
)

from drama.evaluation import aggregate, published_runs
from drama.report.curves import ablations
from drama.report.protocol import protocol_notes
from drama.report.runs import read_run
from drama.report.summarise import published_label, summarise
from drama.report.summary import Summary
from drama.report.tables import aggregate_table, improvement_table, runs_csv, score_table
from drama.suite import Variant

STEPS = {"steps": 100_000}
CARTPOLE = "CartPole-v1"


def summary(root: Path, *given: dict[str, Any], mode: Any = "greedy") -> Summary:
    return summarise(root, "Made up", runs(root, *given), mode=mode)


def test_scores_are_grouped_by_variant_and_game(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"seed": 1, "score": 0.5},
        {"seed": 0, "score": -0.75},
        {"game": SPARSE, "score": 1.0},
        {"variant": UNIFORM, "score": 0.0},
    )
    base, uniform = found.variants
    assert (base.name, uniform.name) == ("Base", "Uniform")
    assert base.scores(CATCH) == [-0.75, 0.5]  # by seed
    assert base.scores(SPARSE) == [1.0]
    assert uniform.scores(SPARSE) == []
    assert base.normalised(found.env_ids)[CATCH] == pytest.approx([0.0, 1.25 / 1.75])
    assert found.finished == 4
    assert not found.atari
    assert not found.published


def test_unfinished_runs_are_not_averaged(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"seed": 0, "score": 1.0},
        {"seed": 1, "status": "interrupted"},
        {"seed": 2, "status": "missing"},
        {"seed": 3, "status": "failed", "reason": "out of memory"},
        {"seed": 4, "status": "foreign", "reason": "another run"},
    )
    assert found.variants[0].scores(CATCH) == [1.0]
    assert found.finished == 1
    assert len(found.runs) == 5


def test_suite_without_finished_runs_has_a_summary(tmp_path: Path) -> None:
    found = summary(tmp_path, {"status": "missing"}, {"seed": 1, "status": "interrupted"})
    assert found.blocks == ()
    assert found.pairs == ()
    assert found.variants[0].runs == {}
    assert protocol_notes(found) == []


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"protocol": {"train_steps": 4000}}, "train_steps 4000 (the others 5000)"),
        ({"protocol": {"episodes": 5}}, "episodes 5 (the others 20)"),
        (
            {"protocol": {"policy_latent": "posterior"}},
            "policy_latent posterior (the others prior)",
        ),
        (
            {"protocol": {"policy_context": "current"}},  # the others predate this field
            "policy_context current (the others previous)",
        ),
        ({"protocol": {"lookahead": 16}}, "lookahead 16 (the others 0)"),
        ({"protocol": {"latents": "mode"}}, "latents mode (the others sampled)"),
        ({"protocol": {"scored": "lives"}}, "scored lives (the others episodes)"),
        ({"protocol": {"wrappers": ["Flip"]}}, 'wrappers ["Flip"] (the others [])'),
        ({"protocol": {"step_limit": 500}}, "step_limit 500 (the others 27000)"),
        ({"env": {"sticky_actions": 0.25}}, "sticky_actions 0.25 (the others null)"),
        ({"env": {"max_episode_steps": 9}}, "max_episode_steps 9 (the others null)"),
        ({"env": {"env_kwargs": {"mode": 1}}}, 'env_kwargs {"mode": 1} (the others null)'),
    ],
)
def test_a_run_under_another_protocol_is_left_out_and_named(
    odd: dict[str, Any], said: str, tmp_path: Path
) -> None:
    found = summary(
        tmp_path,
        {"seed": 0, "score": 100.0, **odd},
        {"seed": 1, "score": 1.0},
        {"seed": 2, "score": 2.0},
    )
    assert found.variants[0].scores(CATCH) == [1.0, 2.0]
    (left,) = found.variants[0].left_out
    assert left.run.seed == 0
    assert left.reason.startswith(f"evaluated under another protocol: {said}")


def test_each_game_may_have_its_own_steps(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"seed": 0, "score": 0.5, "steps": 5_000},
        {"seed": 1, "score": 0.75, "steps": 5_000},
        {"game": SPARSE, "seed": 0, "score": 0.25, "steps": 120_000},
        {"game": SPARSE, "seed": 1, "score": 1.0, "steps": 120_000},
        {"game": CARTPOLE, "seed": 0, "score": 500.0, "steps": 5_000},
        {"variant": UNIFORM, "seed": 0, "score": 1.0, "steps": 5_000},
        {"variant": UNIFORM, "game": SPARSE, "seed": 0, "score": 1.0, "steps": 120_000},
    )
    base, uniform = found.variants
    assert base.left_out == uniform.left_out == ()
    assert base.scores(CATCH) == [0.5, 0.75]
    assert base.scores(SPARSE) == [0.25, 1.0]
    assert base.steps == {CATCH: 5_000, SPARSE: 120_000, CARTPOLE: 5_000}
    (block,) = found.blocks
    assert block.env_ids == (CATCH, SPARSE)
    values = [value for runs_ in base.normalised(block.env_ids).values() for value in runs_]
    assert block.variant("Base").numbers.mean.value == pytest.approx(sum(values) / len(values))
    assert found.differences["Uniform"] == ("replay.sampler uniform (not dfs)",)
    said = "5,000 (drama/Catch-v0, CartPole-v1), 120,000 (drama/Sparse-v0) environment steps"
    assert f"20 episodes after {said}, latents sampled" in protocol_notes(found)[0]
    assert not any("another protocol" in note for note in protocol_notes(found))
    assert f"Base was trained for {said}." in score_table(found).notes


def test_runs_of_a_game_must_have_the_same_steps(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        *({"seed": s, "score": 1.0, "steps": 5_000} for s in (0, 1, 2)),
        *({"game": SPARSE, "seed": s, "score": 1.0, "steps": 120_000} for s in (0, 1)),
        {"game": SPARSE, "seed": 2, "score": 0.0, "steps": 5_000},
    )
    assert found.variants[0].scores(SPARSE) == [1.0, 1.0]
    (left,) = found.variants[0].left_out
    assert (left.run.env_id, left.run.seed) == (SPARSE, 2)
    assert left.reason.endswith(": train_steps 5000 (the others 120000)")


def test_games_that_stopped_early_are_named_on_atari(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"variant": XS, "game": PONG, "score": 15.0, "steps": 20_000},
        {"variant": XS, "game": BOXING, "score": 12.0, "steps": 100_000},
        {"variant": XS, "game": ALIEN, "score": 500.0, "steps": 20_000},
    )
    table = score_table(found)
    assert table.header[-1] == "Drama XS (20,000 to 100,000 steps)"
    why = "20,000 environment steps instead of 100,000 in Pong, Alien"
    assert any(note.endswith(f"of the paper's scores: {why}.") for note in protocol_notes(found))
    assert [note for note in table.notes if "stopped at" in note] == [
        "Drama XS stopped at 20,000 environment steps in Pong, Alien; the published scores are "
        "after 100,000."
    ]
    # Human-normalised aggregates cover all games, whatever their steps.
    (block,) = found.blocks
    assert block.env_ids == (PONG, BOXING, ALIEN)
    assert set(block.variant("Drama XS").numbers.runs.values()) == {1}
    mixed = summary(
        tmp_path / "mixed",
        {"variant": XS, "game": PONG, "score": 15.0, "steps": 100_000},
        {"variant": XS, "score": 1.0, "steps": 5_000},
    )
    assert score_table(mixed).header[-1] == "Drama XS"
    assert not any("stopped at" in note for note in score_table(mixed).notes)


def test_the_protocol_of_the_longer_training_is_used(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"seed": 0, "score": 1.0, "protocol": {"train_steps": 10}},
        {"seed": 1, "score": 2.0, "protocol": {"train_steps": 20}},
    )
    assert found.variants[0].scores(CATCH) == [2.0]


def test_protocols_must_agree_over_the_games_of_a_variant(tmp_path: Path) -> None:
    # Two games of the same suite, one with sticky actions: no average may mix them.
    found = summary(
        tmp_path,
        {"variant": XS, "game": PONG, "seed": 0, "score": 1.0, **STEPS},
        {"variant": XS, "game": PONG, "seed": 1, "score": 1.0, **STEPS},
        {"variant": XS, "game": BOXING, "score": 1.0, "env": {"sticky_actions": 0.25}, **STEPS},
    )
    assert list(found.variants[0].runs) == [PONG]
    assert [left.run.env_id for left in found.variants[0].left_out] == [BOXING]


def test_the_requested_evaluation_is_used(tmp_path: Path) -> None:
    found = summary(tmp_path, {"score": 1.0}, mode="sampled")
    assert found.variants[0].runs == {}
    (left,) = found.variants[0].left_out
    assert left.reason.startswith("no sampled evaluation: drama eval ")


def test_aggregates_compare_over_the_same_games_only(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"variant": XS, "game": PONG, "score": -3.0, **STEPS},
        {"variant": XS, "game": BOXING, "score": 12.0, **STEPS},
        {"variant": XS, "game": ALIEN, "status": "missing", **STEPS},
        {"variant": UNIFORM, "game": PONG, "score": 15.0, **STEPS},
        {"variant": UNIFORM, "game": BOXING, "status": "interrupted", **STEPS},
    )
    both, pong = found.blocks
    assert both.env_ids == (PONG, BOXING)
    assert both.variant("Drama XS").numbers.mean.value == pytest.approx((0.5 + 1.0) / 2)
    assert both.variant("Uniform") is None
    assert pong.env_ids == (PONG,)
    assert pong.variant("Drama XS").numbers.mean.value == pytest.approx(0.5)
    assert pong.variant("Uniform").numbers.mean.value == pytest.approx(1.0)
    # Published methods too are aggregated over those games, not over all 26.
    runs_ = published_runs("DIAMOND")
    expected = aggregate({g: runs_[g] for g in ("Pong", "Boxing")}, resamples=1)
    row = both.published("DIAMOND")
    assert row.kind == "runs"
    assert row.numbers.mean.value == pytest.approx(expected.mean.value)
    assert row.numbers.games == (BOXING, PONG)


def test_variants_are_compared_with_the_first_one(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"seed": 0, "score": 1.0},
        {"seed": 1, "score": 0.0},
        {"variant": UNIFORM, "score": 0.5},
        {"variant": Variant("late", "Late", "quick"), "game": SPARSE, "score": 0.5},
    )
    (pair,) = found.pairs  # Base has no run of Sparse to compare with
    assert (pair.method, pair.other) == ("Base", "Uniform")
    assert pair.improvement.probability.value == 0.5
    assert pair.improvement.games == (CATCH,)


def test_published_runs_are_compared_on_atari_only(tmp_path: Path) -> None:
    atari = summary(tmp_path / "a", {"variant": XS, "game": PONG, "score": 21.0, **STEPS})
    against = {pair.other: pair.improvement.probability.value for pair in atari.pairs}
    # None of DIAMOND's five runs of Pong reaches 21.
    assert against["DIAMOND"] == 1.0
    assert "SPR" not in against  # only means were published
    mixed = summary(
        tmp_path / "b", {"variant": XS, "game": PONG, "score": 21.0}, {"variant": XS, "score": 1.0}
    )
    assert not mixed.published
    assert mixed.pairs == ()
    assert [block.reference for block in mixed.blocks] == ["human", "optimum"]


def test_variant_may_have_the_name_of_a_published_method(tmp_path: Path) -> None:
    assert published_label("PPO", ["PPO"]) == "PPO (published)"
    assert published_label("Drama-XS", ["Drama XS"]) == "Drama-XS (published)"
    assert published_label("SPR", ["PPO"]) == "SPR"
    ppo = Variant("ppo", "PPO", "xs", {"behaviour.algorithm": "ppo"})
    found = summary(tmp_path, {"variant": ppo, "game": PONG, "score": 15.0, **STEPS})
    (block,) = found.blocks
    assert block.variant("PPO").numbers.mean.value == 1.0
    assert block.published("PPO (published)").numbers.mean.value == pytest.approx(1 / 36)


def test_deviations_from_the_published_protocol_are_reported(tmp_path: Path) -> None:
    def notes_of(name: str, **options: Any) -> str:
        given = {"variant": XS, "game": PONG, "score": 1.0, **STEPS, **options}
        return " ".join(protocol_notes(summary(tmp_path / name, given)))

    assert "differs from" not in notes_of("plain")
    assert "under the protocol of the published scores" in notes_of("plain-2")
    assert "20,000 environment steps instead of 100,000" in notes_of("steps", steps=20_000)
    assert "sticky actions 0.25 instead of 0.0" in notes_of("sticky", env={"sticky_actions": 0.25})
    assert "frame skip 2 instead of 4" in notes_of("skip", env={"frame_skip": 2})
    assert "image size [84, 84] instead of [64, 64]" in notes_of(
        "size", env={"image_size": [84, 84]}
    )
    assert "max episode steps 40 instead of 27000" in notes_of("cut", env={"max_episode_steps": 40})
    assert 'env kwargs {"mode": 1} instead of {}' in notes_of(
        "mode", env={"env_kwargs": {"mode": 1}}
    )
    asked = notes_of("asked", protocol={"lookahead": 16})
    assert "evaluated with lookahead 16 instead of the run's 0" in asked
    assert "latents mode instead of sampled" in notes_of("mode-2", protocol={"latents": "mode"})
    assert "one-step lookahead with 16 samples per action" in asked
    always = Variant("a", "A", "xs", {"behaviour.lookahead": 16})
    asked = notes_of("always", variant=always, protocol={"lookahead": 16})
    assert "behaviour.lookahead 16 (not 0)" in asked
    assert "evaluated with lookahead" not in asked
    whole = Variant("w", "W", "xs", {"env.life_loss": False})
    assert "env.life_loss false (not true)" in notes_of("lives", variant=whole)
    laptop = Variant("laptop", "Laptop", "laptop")
    assert "preset laptop instead of the paper's configuration" in notes_of("p", variant=laptop)
    changed = Variant("c", "C", "quick", {"behaviour.gamma": 0.9})
    assert "preset quick* instead of the paper's" in notes_of("changed", variant=changed)
    uniform = Variant("u", "U", "xs", {"replay.sampler": "uniform"})
    assert "replay.sampler uniform (not dfs)" in notes_of("uniform", variant=uniform)


def without_latents(root: Path, *seeds: int) -> None:
    """Convert evaluations to those of a version that did not record the latents."""
    for seed in seeds:
        (path,) = root.glob(f"**/seed-{seed}/eval.json")
        tree = json.loads(path.read_text())
        del tree["greedy"]["protocol"]["latents"]
        path.write_text(json.dumps(tree))


def test_older_greedy_evaluations_use_the_mode_of_the_latents(
    tmp_path: Path,
) -> None:
    cells = [cell(tmp_path, seed=seed, score=float(seed)) for seed in range(3)]

    def read() -> Summary:
        return summarise(tmp_path, "Made up", [read_run(c, c.variant.label) for c in cells])

    without_latents(tmp_path, 0)
    assert read().variants[0].scores(CATCH) == [1.0, 2.0]
    (left,) = read().variants[0].left_out
    assert left.reason == "evaluated under another protocol: latents mode (the others sampled)"
    without_latents(tmp_path, 1, 2)
    assert read().variants[0].scores(CATCH) == [0.0, 1.0, 2.0]
    assert "latents mode, actions argmax" in protocol_notes(read())[0]


def test_every_comparison_mentions_the_authors_start_protocol(tmp_path: Path) -> None:
    found = summary(tmp_path / "a", {"variant": XS, "game": PONG, "score": 1.0, **STEPS})
    (block,) = found.blocks
    for notes in (
        protocol_notes(found),
        score_table(found).notes,
        aggregate_table(block, 1).notes,
        improvement_table(found).notes,
    ):
        assert sum("games start alike" in note for note in notes) == 1
    catch = summary(tmp_path / "b", {"score": 1.0})
    assert not any("start the same" in note for note in protocol_notes(catch))


def test_score_of_another_protocol_is_not_normalised(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"variant": XS, "game": PONG, "score": 1.0, "env": {"sticky_actions": 0.25}, **STEPS},
        {"variant": UNIFORM, "game": PONG, "score": 15.0, **STEPS},
    )
    sticky, plain = found.variants
    assert sticky.scores(PONG) == [1.0]
    assert sticky.normalised([PONG]) == {}
    assert plain.normalised([PONG]) == {PONG: [1.0]}
    (block,) = found.blocks
    assert block.variant("Drama XS") is None
    assert block.variant("Uniform") is not None
    assert [pair.other for pair in found.pairs] == ["Uniform"]  # no published method
    why = "Drama XS has no normalised score of Pong: sticky actions 0.25 instead of 0.0."
    for notes in (protocol_notes(found), score_table(found).notes):
        assert why in notes
    rows = {row["variant"]: row for row in csv.DictReader(io.StringIO(runs_csv(found)))}
    assert rows["Drama XS"]["normalised"] == ""
    assert rows["Uniform"]["normalised"] == "1.0"


def test_score_of_a_changed_built_in_game_is_not_normalised(tmp_path: Path) -> None:
    found = summary(tmp_path, {"score": 0.5, "env": {"max_episode_steps": 3}})
    assert found.blocks == ()
    why = "Base has no normalised score of drama/Catch-v0: max episode steps 3 instead of null."
    assert why in protocol_notes(found)


def test_variants_with_another_protocol_are_reported(tmp_path: Path) -> None:
    found = summary(
        tmp_path,
        {"score": 1.0},
        {"variant": UNIFORM, "score": 1.0, "protocol": {"latents": "mode", "episodes": 5}},
    )
    why = (
        "Uniform was evaluated under another protocol than Base: episodes 5 instead of 20; latents "
        "mode instead of sampled."
    )
    assert why in protocol_notes(found)
    assert why in score_table(found).notes
    assert why in improvement_table(found).notes


def test_variants_are_grouped_by_their_changed_settings(tmp_path: Path) -> None:
    changes = {
        "uniform": {"replay.sampler": "uniform"},
        "gru": {"world_model.dynamics.name": "gru"},
        "mamba1": {"world_model.dynamics.name": "mamba1"},
        "ppo": {"behaviour.algorithm": "ppo"},
    }
    variants = [Variant(name, name, "quick", change) for name, change in changes.items()]
    variants.append(Variant("laptop", "laptop", "laptop", {"training.warmup_steps": 1000}))
    variants.append(Variant("precise", "precise", "quick", {"training.precision": "float32"}))
    speed = {"training.cuda_graphs": False, "training.compile": True}
    variants.append(Variant("compiled", "compiled", "quick", speed))
    given = [{"variant": v, "status": "missing"} for v in (BASE, *variants)]
    found = summary(tmp_path, *given)
    assert found.differences["compiled"] == ()
    assert found.differences["gru"] == ("world_model.dynamics.name gru (not mamba2)",)
    assert found.differences["precise"] == ()  # changes the speed, not the training
    assert ablations(found) == {
        "Replay sampling": ["Base", "uniform"],
        "Sequence model": ["Base", "gru", "mamba1"],
        "Behaviour": ["Base", "ppo"],
        "Model size": ["Base", "laptop"],
        "Other variants": ["Base", "precise", "compiled"],
    }
