"""Suite specifications: built in, as text, narrowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.suite.suites import tiny_spec, tiny_variant

from drama import evaluation, presets
from drama.cli.common import parse_fields
from drama.errors import ConfigError
from drama.settings import flat
from drama.suite import BUILT_IN, SuiteSpec, Variant, load_spec
from drama.suite.differences import differences
from drama.suite.override import override, parse_override
from drama.suite.process import options
from drama.suite.spec import slug

TEXT = """
name = "mine"
games = ["ALE/Pong-v5"]
seeds = [0, 1]

[[variants]]
name = "xs"
preset = "xs"
"""


def test_atari100k_is_the_published_table_with_five_seeds() -> None:
    spec = load_spec("atari100k")
    assert [evaluation.game_of(game) for game in spec.games] == list(evaluation.games())
    assert spec.size == 26 * 5
    config = spec.config(spec.variants[0], "ALE/Pong-v5", 3)
    expected = presets.xs()
    env = dataclasses.replace(expected.env, id="ALE/Pong-v5")
    assert config == dataclasses.replace(expected, seed=3, env=env)


def test_each_ablation_changes_one_thing() -> None:
    spec = load_spec("atari100k-ablations")
    assert spec.games == ("ALE/Boxing-v5", "ALE/Freeway-v5", "ALE/Kangaroo-v5", "ALE/Krull-v5")
    base = flat(dataclasses.asdict(spec.variant("xs").config))
    assert base == flat(dataclasses.asdict(presets.xs()))
    changed = {}
    for variant in spec.variants[1:]:
        tree = flat(dataclasses.asdict(variant.config))
        changed[variant.name] = {k: v for k, v in tree.items() if v != base[k]}
    assert changed == {
        "uniform": {"replay.sampler": "uniform"},
        "dfs-learnt": {"replay.sampler": "dfs-trained"},
        "mamba1": {"world_model.dynamics.name": "mamba1"},
        "transformer": {"world_model.dynamics.name": "transformer"},
        "gru": {"world_model.dynamics.name": "gru"},
        "s": {
            "preset": "s",
            "world_model.filters": (32, 64, 96, 128, 128),
            "world_model.dynamics.d_state": 32,
        },
        "ppo": {"behaviour.algorithm": "ppo"},
    }


def test_the_toy_suite_compares_two_samplers() -> None:
    spec = load_spec("toy")
    assert (len(spec.games), len(spec.seeds)) == (3, 3)
    one, other = (flat(dataclasses.asdict(v.config)) for v in spec.variants)
    assert {k for k in one if one[k] != other[k]} == {"replay.sampler"}


def test_the_small_suite_has_its_own_steps_for_each_game() -> None:
    spec = load_spec("small")
    assert (spec.seeds, [v.name for v in spec.variants]) == ((0, 1, 2), ["quick"])
    assert spec.variants[0].config == presets.quick()
    assert {game: spec.config(spec.variants[0], game, 0).steps for game in spec.games} == {
        "drama/Catch-v0": 5_000,
        "drama/Recall32-v0": 15_000,
        "drama/Sparse-v0": 120_000,
        "CartPole-v1": 5_000,
        "Acrobot-v1": 15_000,
        "MinAtar/Breakout-v1": 100_000,
        "MinAtar/SpaceInvaders-v1": 100_000,
        "MinAtar/Freeway-v1": 100_000,
        "MinAtar/Asterix-v1": 100_000,
    }


def test_the_atari_suite_of_a_laptop() -> None:
    spec = load_spec("atari-laptop")
    assert spec.games == ("ALE/Pong-v5", "ALE/Boxing-v5", "ALE/Krull-v5")
    assert (spec.seeds, spec.steps) == ((0, 1), 100_000)
    assert [v.config for v in spec.variants] == [presets.laptop()]


GAMES = ("drama/Catch-v0", "drama/Sparse-v0", "CartPole-v1")
LENGTHS = {"drama/Catch-v0": 5_000, "drama/Sparse-v0": 120_000, "CartPole-v1": 5_000}
ODD = tiny_spec(
    variants=(
        tiny_variant("a", {"world_model.filters": (8, 16), "training.tensorboard": True}),
        Variant('b.2_x"'[:5], 'Quotes " and \\ and é\x7f\n', "xs", {"world_model.optim.lr": 1e-5}),
    )
)


@pytest.mark.parametrize(
    "spec",
    [*(make() for make in BUILT_IN.values()), ODD, tiny_spec(GAMES, steps=LENGTHS)],
)
def test_spec_round_trips_through_text(spec: SuiteSpec) -> None:
    assert SuiteSpec.from_json(spec.to_json()) == spec
    assert SuiteSpec.from_toml(spec.to_toml()) == spec


def test_each_game_can_have_its_own_steps(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    games = TEXT.replace('["ALE/Pong-v5"]', '["ALE/Pong-v5", "drama/Catch-v0"]')
    path.write_text('steps = { "drama/Catch-v0" = 5000, "ALE/Pong-v5" = 100000 }\n' + games)
    spec = load_spec(str(path))
    assert spec.steps == {"ALE/Pong-v5": 100_000, "drama/Catch-v0": 5_000}
    assert [spec.steps_of(game) for game in spec.games] == [100_000, 5_000]
    assert [spec.config(spec.variants[0], g, 0).steps for g in spec.games] == [100_000, 5_000]
    # The games determine the order.
    assert list(spec.to_dict()["steps"]) == list(spec.games)
    path.write_text(spec.to_toml())
    assert load_spec(str(path)) == spec
    assert '[steps]\n"ALE/Pong-v5" = 100000\n' in spec.to_toml()
    assert tiny_spec(GAMES, steps=dict(reversed(LENGTHS.items()))) == tiny_spec(
        GAMES, steps=LENGTHS
    )
    assert tiny_spec(GAMES, steps={**LENGTHS, "CartPole-v1": 1}) != tiny_spec(GAMES, steps=LENGTHS)


def test_minimal_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT + "[variants.overrides]\nreplay.sampler = 'uniform'\n")
    spec = load_spec(str(path))
    assert spec.title == "mine"
    assert spec.steps is None
    (variant,) = spec.variants
    assert variant.label == "xs"
    assert variant.overrides == {"replay.sampler": "uniform"}
    (tmp_path / "mine.json").write_text(spec.to_json())
    assert load_spec(str(tmp_path / "mine.json")) == spec


MISTAKES: dict[str, tuple[str, list[str]]] = {
    "not TOML": ("name = ", ["TOML"]),
    "field": (TEXT.replace("seeds", "seed"), ["'seed'", "did you mean seeds"]),
    "variant field": (TEXT.replace("preset", "prest"), ["variants[0]", "did you mean preset"]),
    "lacks": (TEXT.replace('games = ["ALE/Pong-v5"]', ""), ["lacks the field 'games'"]),
    "no variants": (TEXT.partition("[[")[0], ["lacks the field 'variants'"]),
    "preset": (TEXT.replace('"xs"\n', '"laptp"\n'), ["variant laptp", "did you mean laptop"]),
    "type": (TEXT.replace("[0, 1]", "['0']"), ["suite.seeds", "an integer"]),
    "a yes for a seed": (TEXT.replace("[0, 1]", "[true]"), ["suite.seeds", "an integer"]),
    "list": (TEXT.replace("[0, 1]", "3"), ["suite.seeds", "a list"]),
    "no seeds": (TEXT.replace("[0, 1]", "[]"), ["at least one seed"]),
    "twice": (TEXT.replace("[0, 1]", "[1, 1]"), ["seed 1", "share"]),
    "game twice": (
        TEXT.replace('"ALE/Pong-v5"', '"ALE/Pong-v5", "ALE_Pong-v5"'),
        ["'ALE_Pong-v5'", "share", "'ALE/Pong-v5'"],
    ),
    "negative seed": (TEXT.replace("[0, 1]", "[0, -1]"), ["seeds", "-1"]),
    "steps": ("steps = 0\n" + TEXT, ["steps", "positive"]),
    "steps in words": ("steps = 'many'\n" + TEXT, ["suite.steps", "an integer"]),
    "steps of another game": (
        'steps = { "ALE/Pogn-v5" = 5 }\n' + TEXT,
        ["steps", "'ALE/Pogn-v5'", "did you mean ALE/Pong-v5"],
    ),
    "no steps of a game": ("steps = {}\n" + TEXT, ["steps has no number for ALE/Pong-v5"]),
    "zero steps of a game": (
        'steps = { "ALE/Pong-v5" = 0 }\n' + TEXT,
        ["steps of ALE/Pong-v5 must be positive, got 0"],
    ),
    "steps of a game in words": (
        'steps = { "ALE/Pong-v5" = "5" }\n' + TEXT,
        ["steps of ALE/Pong-v5 must be an integer, got '5'"],
    ),
    "name": (TEXT.replace('"mine"', '"my/suite"'), ["'my/suite'", "directory"]),
    "variant name": (TEXT.replace('name = "xs"', 'name = ".."'), ["'..'", "directory"]),
    "a long variant name": (
        TEXT.replace('name = "xs"', f'name = "{"x" * 101}"'),
        ["has 101 characters; the maximum is 100"],
    ),
    "a hidden variant": (TEXT.replace('name = "xs"', 'name = ".xs"'), ["'.xs'", "directory"]),
    "the suite's file": (TEXT.replace('name = "xs"', 'name = "suite.json"'), ["'suite.json'"]),
    "another case": (TEXT.replace('name = "xs"', 'name = "Report"'), ["'Report'", "report"]),
    "reserved": (TEXT.replace('name = "xs"', 'name = "report"'), ["report"]),
    "override": (
        TEXT + "[variants.overrides]\n'replay.smapler' = 'dfs'",
        ["variant xs", "'replay.smapler'", "did you mean replay.sampler"],
    ),
    "override's value": (
        TEXT + "[variants.overrides]\n'replay.sampler' = 'best'",
        ["variant xs", "unknown sampler 'best'", "uniform, dfs"],
    ),
    "the suite's own": (TEXT + "[variants.overrides]\nseed = 3", ["seed", "suite"]),
    "no evaluation": (
        TEXT + "[variants.overrides]\n'evaluation.episodes' = 0",
        ["evaluation.episodes", "at least 1"],
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_error_in_a_file_is_reported_in_one_line(case: str, tmp_path: Path) -> None:
    text, words = MISTAKES[case]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_spec(str(path))
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_missing_suite_or_file_is_reported() -> None:
    with pytest.raises(ConfigError, match="did you mean atari100k"):
        load_spec("atari10k")
    with pytest.raises(ConfigError, match=r"nowhere\.toml: No such file"):
        load_spec("nowhere.toml")


def test_slugs_of_names() -> None:
    assert slug("ALE/BankHeist-v5") == "ALE-BankHeist-v5"
    assert slug("some.module:ns/Game-v0") == "ns-Game-v0"


# -- narrowing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ALE/BankHeist-v5", "BankHeist", "bank_heist", "ALE-BankHeist-v5", "bankheist-v5"]
)
def test_games_are_found_by_all_their_names(name: str) -> None:
    spec = load_spec("atari100k").narrowed(games=[name, "Pong"])
    assert spec.games == ("ALE/BankHeist-v5", "ALE/Pong-v5")


def test_narrowed_suite_keeps_order_and_settings() -> None:
    full = load_spec("atari100k-ablations")
    spec = full.narrowed(
        seeds=[4, 0],
        steps=500,
        variants=["gru", "xs"],
        overrides={"training.log-every": 5, "world_model": {"filters": [8]}},
    )
    assert (spec.seeds, spec.steps, spec.games) == ((0, 4), 500, full.games)
    assert [v.name for v in spec.variants] == ["xs", "gru"]
    assert spec.variants[1].overrides == {
        "world_model.dynamics.name": "gru",
        "training.log_every": 5,
        "world_model.filters": (8,),
    }
    assert spec.config(spec.variants[1], full.games[0], 4).training.log_every == 5
    assert full.narrowed() == full


def test_narrowing_keeps_the_steps_of_the_games_left() -> None:
    full = tiny_spec(GAMES, steps=LENGTHS)
    assert full.narrowed(games=["Sparse", "CartPole"]).steps == {
        "drama/Sparse-v0": 120_000,
        "CartPole-v1": 5_000,
    }
    assert full.narrowed(seeds=[0]).steps == LENGTHS
    assert full.narrowed(steps=7).steps == 7
    assert full.narrowed(games=["Catch"], steps=7).steps == 7
    assert full.narrowed(games=["Catch"], steps={"drama/Catch-v0": 9}).steps_of(GAMES[0]) == 9
    with pytest.raises(ConfigError, match="no number for drama/Sparse-v0, CartPole-v1"):
        full.narrowed(steps={"drama/Catch-v0": 9})


def test_arguments_of_the_environment_in_toml(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    table = "[variants.overrides.env.kwargs]\ngravity = -2.0\nsize = {x = [1, 2]}\n"
    path.write_text(TEXT + table)
    spec = load_spec(str(path))
    kwargs = {"gravity": -2.0, "size": {"x": [1, 2]}}
    assert spec.config(spec.variants[0], "ALE/Pong-v5", 0).env.kwargs == kwargs
    path.write_text(spec.to_toml())
    assert load_spec(str(path)) == spec
    (changed,) = spec.narrowed(
        overrides=dict([parse_override('env.kwargs={"gravity": 1}')])
    ).variants
    assert changed.config.env.kwargs == {"gravity": 1}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"games": ["Pogn"]}, ["'Pogn'", "did you mean Pong"]),
        ({"seeds": [7]}, ["no seed 7", "0, 1, 2, 3, 4"]),
        ({"variants": ["x"]}, ["'x'", "did you mean xs"]),
        ({"games": []}, ["at least one game"]),
        ({"steps": -1}, ["steps", "positive"]),
        ({"overrides": {"replay.capacty": 5}}, ["did you mean replay.capacity"]),
    ],
)
def test_narrowing_to_unknown_parts_is_refused(how: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_spec("atari100k").narrowed(**how)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=3", ("a.b", 3)),
        ("a.b=1e-5", ("a.b", 1e-5)),
        ("a.b=false", ("a.b", False)),
        ("a.b=null", ("a.b", None)),
        ("a.b=[1, 2]", ("a.b", [1, 2])),
        ("a.b=uniform", ("a.b", "uniform")),
        ("a.b=x=y", ("a.b", "x=y")),
        ('a.b="3"', ("a.b", "3")),
    ],
)
def test_settings_on_the_command_line(text: str, expected: tuple[str, Any]) -> None:
    assert parse_override(text) == expected


def test_a_setting_needs_its_value() -> None:
    for text in ("a.b", "=3"):
        with pytest.raises(ConfigError, match=r"section\.field=value"):
            parse_override(text)


def test_a_setting_that_is_nested_too_deeply() -> None:
    for depth in (100, 900, 100_000):
        text = "replay.capacity=" + "[" * depth + "]" * depth
        with pytest.raises(ConfigError, match=r"replay\.capacity"):
            load_spec("toy").narrowed(overrides=dict([parse_override(text)]))


def test_overrides_reach_the_processes_unchanged() -> None:
    """`override` and the options of ``drama train`` give the same configuration."""
    settings: dict[str, Any] = {
        "device": "cpu",
        "env.image_size": None,
        "env.kwargs": {"gravity": -2.0, "wind": True, "map": {"sizes": [4, 8], "name": "a b"}},
        "env.wrappers": ("my.module:Flip", "my.module:Scale(factor=2.0, names=('a', 'b'))"),
        "env.max_episode_steps": 7,
        "env.life_loss": False,
        "env.sticky_actions": 0.25,
        "replay.sampler": "uniform",
        "replay.alpha": -1.5,
        "world_model.filters": (8, 16),
        "world_model.dynamics.d_state": 8,
        "world_model.optim.eps": 1e-20,
        "behaviour.lambda_": 0.5,
        "behaviour.ppo.clip": 0.1,
        "training.tensorboard": False,
        "evaluation.seed": 2**40,
    }
    start = presets.quick()
    expected = override(start, settings)
    assert expected != start
    assert parse_fields(start, options(settings), "test") == expected


# -- comparing ---------------------------------------------------------------------------------


def test_differences_are_named() -> None:
    full = load_spec("toy")
    assert differences(full, full) == []
    assert differences(full, full.narrowed(steps=7)) == [f"steps 7 (there: {full.steps})"]
    assert differences(full, full.narrowed(seeds=[1])) == ["seeds without: 0, 2"]
    assert differences(full.narrowed(games=["Catch"]), full.narrowed(games=["Sparse"])) == [
        "games more: drama/Sparse-v0, without: drama/Catch-v0"
    ]
    changed = full.narrowed(variants=["dfs"], overrides={"replay.tau": 3.0})
    assert differences(full, changed) == [
        "variants without: uniform",
        "dfs: replay.tau=3.0 (there: unset)",
    ]


def test_differences_in_steps_are_those_of_each_game() -> None:
    one = tiny_spec(GAMES, steps=LENGTHS)
    same = one.narrowed(games=["Catch", "CartPole"])
    assert differences(same, same.narrowed(steps=5_000)) == []
    assert differences(one, one.narrowed(steps=5_000)) == [
        "steps of drama/Sparse-v0 5000 (there: 120000)"
    ]
    assert differences(one, one.narrowed(steps=7)) == [
        "steps of drama/Catch-v0, CartPole-v1 7 (there: 5000)",
        "steps of drama/Sparse-v0 7 (there: 120000)",
    ]
    assert differences(same, same.narrowed(steps=7)) == ["steps 7 (there: 5000)"]
