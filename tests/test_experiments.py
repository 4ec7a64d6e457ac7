"""The specifications of the experiments are valid."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.suite.suites import assert_fits_its_games

from drama.envs import make_env
from drama.suite import load_spec

ROOT = Path(__file__).parent.parent
SPECS = sorted((ROOT / "experiments").glob("*.toml"))


def test_every_experiment_is_on_the_results_page():
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert SPECS
    for path in SPECS:
        assert f"drama suite run experiments/{path.name}\n" in page


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_is_valid_for_its_games(path):
    assert_fits_its_games(path)


@pytest.mark.parametrize("path", [p for p in SPECS if p.stem.startswith("memory")])
def test_windows_of_the_memory_game_hold_a_whole_episode(path):
    spec = load_spec(str(path))
    for game in spec.games:
        rows = make_env(game).unwrapped.gap + 4  # gap + 3 actions and the final observation
        for variant in spec.variants:
            config = variant.config
            assert config.world_model.batch_length >= 2 * rows  # so that one episode fits
            assert config.behaviour.context >= rows
            dynamics = config.world_model.dynamics
            assert dynamics.name != "transformer" or dynamics.context >= rows
