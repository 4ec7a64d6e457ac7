"""The log's suites can be run, and are what their recorded runs were made with."""

from __future__ import annotations

import json

import pytest
from benchmarks.suites import settings
from lab import LAB, LOG

from drama.dynamics import registered
from drama.envs import make_env
from drama.suite import load_spec
from drama.world_model.encoder import feature_side

SPECS = sorted((LAB / "experiments").glob("*.toml"))


def test_every_experiment_is_in_the_log():
    log = (LAB / LOG).read_text(encoding="utf-8")
    assert SPECS
    for path in SPECS:
        assert f"lab/experiments/{path.name}" in log


@pytest.mark.parametrize(
    "path", sorted((LAB / "assets").glob("suite-*.json")), ids=lambda p: p.stem
)
def test_settings_are_those_of_the_recorded_runs(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    spec = load_spec(str(LAB.parent / found["command"].split()[-1]))
    assert found["variants"].keys() == found["settings"].keys()
    for variant in found["variants"]:
        config = spec.config(spec.variant(variant), spec.games[0], spec.seeds[0])
        assert settings(config) == found["settings"][variant]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_a_spec_fits_its_games(path):
    spec = load_spec(str(path))
    assert spec.name == path.stem
    for game in spec.games:
        if game.startswith("MinAtar/"):
            pytest.importorskip("minatar", reason="the extra 'minatar' is not installed")
        for variant in spec.variants:
            config = spec.config(variant, game, spec.seeds[0])
            assert config.steps <= config.replay.capacity
            assert config.world_model.dynamics.name in registered()
            env = make_env(game, image_size=config.env.image_size)
            assert feature_side(env.observation_space.shape[0], config.world_model) >= 1
