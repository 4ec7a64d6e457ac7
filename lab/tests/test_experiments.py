"""The suites of the log are valid and have the settings of their recorded runs."""

from __future__ import annotations

import json

import pytest
from benchmarks.suites import settings
from lab import LAB, LOG
from tests.suite.suites import assert_fits_its_games

from drama.suite import load_spec

SPECS = sorted((LAB / "experiments").glob("*.toml"))


def test_every_experiment_is_in_the_log():
    log = (LAB / LOG).read_text(encoding="utf-8")
    assert SPECS
    for path in SPECS:
        assert f"lab/experiments/{path.name}" in log


@pytest.mark.parametrize(
    "path", sorted((LAB / "assets").glob("suite-*.json")), ids=lambda p: p.stem
)
def test_settings_equal_those_of_the_recorded_runs(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    spec = load_spec(str(LAB.parent / found["command"].split()[-1]))
    assert found["variants"].keys() == found["settings"].keys()
    for variant in found["variants"]:
        config = spec.config(spec.variant(variant), spec.games[0], spec.seeds[0])
        assert settings(config) == found["settings"][variant]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_spec_is_valid_for_its_games(path):
    assert_fits_its_games(path)
