"""Observation scale: the log matches the measurements."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("minatar", reason="MinAtar is not installed")


from lab import LAB, LOG, observation_scale


def test_log_matches_the_recorded_numbers() -> None:
    page = (LAB / LOG).read_text(encoding="utf-8")
    path = LAB / "assets" / "observation_scale.json"
    assert observation_scale.markdown(json.loads(path.read_text(encoding="utf-8"))) in page


def test_an_untrained_model_is_no_better_than_the_mean(tmp_path: Path) -> None:
    shutil.copy(LAB / LOG, tmp_path / LOG)
    observation_scale.main(["--steps", "300", "--updates", "2", "--lab", str(tmp_path)])
    found = json.loads((tmp_path / "assets" / "observation_scale.json").read_text())
    assert found["games"].keys() == observation_scale.CASES.keys()
    for game, cases in found["games"].items():
        for name, errors in cases.items():
            assert len(errors) == len(observation_scale.PARTS[game])
            assert min(errors) > 0.9, (game, name)


def test_a_perfect_decoder_has_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = observation_scale.collected("CartPole-v1", {}, 0, 50)
    obs = observation_scale.observations(trainer, 20)
    monkeypatch.setattr(trainer.learner.world_model, "decode", lambda stoch: obs)
    assert observation_scale.errors(trainer, obs, obs) == [0.0] * 4
    mean = torch.expm1(torch.zeros(4)) + obs.mean(0)
    monkeypatch.setattr(trainer.learner.world_model, "decode", lambda stoch: mean.expand(20, 4))
    assert observation_scale.errors(trainer, obs, obs) == pytest.approx([1.0] * 4, abs=0.05)
