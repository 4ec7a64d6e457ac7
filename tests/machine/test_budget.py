"""Update ratios for a given wall time."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tests.training.runs import tiny

from drama import presets
from drama.cli import main
from drama.config import Config
from drama.errors import ConfigError
from drama.machine import budget
from drama.machine.budget import read_hours, within_hours
from drama.machine.costs import Memory, PresetCost, UpdateCost


def cost(
    env: float = 0.01, acting: float = 0.01, model: float = 1.0, policy: float = 0.5
) -> PresetCost:
    """Costs in seconds."""
    return PresetCost(
        preset="laptop",
        precision="float32",
        backend="torch",
        threads=1,
        env_seconds=env,
        acting_seconds=acting,
        world_model=UpdateCost({"world model": model}, None, 1, 1),
        behaviour=UpdateCost({"imagination": 0.4 * policy, "behaviour": 0.6 * policy}, None, 1, 1),
        ratios=(0.2, 0.2),
        warmup_steps=1000,
        memory=Memory(0, 0, None, None, None, None, None),
    )


def config(steps: int = 11_000, **ratios: float) -> Config:
    laptop = presets.laptop()
    return replace(
        laptop, steps=steps, training=replace(laptop.training, warmup_steps=1000, **ratios)
    )


def test_the_ratios_fill_the_time() -> None:
    # 0.9 h are left; 11,000 steps and 10,000 actions take 210 s; an update of each kind 1.5 s.
    chosen, text = within_hours(config(), 1.0, cost())
    expected = (0.9 * 3600 - 210) / 10_000 / 1.5
    assert chosen.training.world_model_ratio == pytest.approx(expected, rel=5e-3)
    assert chosen.training.behaviour_ratio == chosen.training.world_model_ratio
    assert chosen == replace(
        config(),
        training=chosen.training,
        world_model=replace(
            config().world_model, optim=replace(config().world_model.optim, warmup=101)
        ),
        behaviour=replace(config().behaviour, optim=replace(config().behaviour.optim, warmup=101)),
    )
    assert "0.202 world-model and 0.202 policy updates per step; 2,020 and 2,020" in text
    assert "about 54 min" in text


def test_the_proportion_of_the_updates_stays() -> None:
    uneven = config(world_model_ratio=0.1, behaviour_ratio=0.3)
    chosen, _ = within_hours(uneven, 1.0, cost())
    training = chosen.training
    assert training.behaviour_ratio == pytest.approx(3 * training.world_model_ratio, rel=1e-2)
    seconds = 10_000 * (training.world_model_ratio + 0.5 * training.behaviour_ratio)
    assert seconds == pytest.approx(0.9 * 3600 - 210, rel=1e-2)


def test_never_more_updates_than_the_paper() -> None:
    chosen, text = within_hours(config(), 1000.0, cost())
    assert (chosen.training.world_model_ratio, chosen.training.behaviour_ratio) == (1.0, 1.0)
    assert "the paper's ratio" in text
    assert chosen.world_model.optim.warmup == 500


def test_time_that_does_not_suffice_for_the_steps() -> None:
    with pytest.raises(ConfigError, match=r"11,000 environment steps take 3.5 min .*raise --hours"):
        within_hours(config(), 0.06, cost())
    with pytest.raises(ConfigError, match="both are 0"):
        within_hours(config(world_model_ratio=0.0, behaviour_ratio=0.0), 1.0, cost())


@pytest.mark.parametrize(("text", "hours"), [("3", 3.0), ("0.5", 0.5), ("night", 10.0)])
def test_hours_are_numbers_or_names(text: str, hours: float) -> None:
    assert read_hours(text) == hours


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "long", ""])
def test_other_hours_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--hours must be .*afternoon \(3\), night \(10\), got"):
        read_hours(text)


def test_a_run_is_measured_and_gets_the_ratios(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "SECONDS", 1.0)
    monkeypatch.setattr(presets, "PRESETS", {**presets.PRESETS, "tiny": tiny})
    assert main(["train", "tiny", "--hours", "0.2", "--steps", "200", "--print-config"]) == 0
    shown = capsys.readouterr()
    training = json.loads(shown.out)["training"]
    assert "--hours 0.2" in shown.err
    assert f"{training['world_model_ratio']:g} world-model" in shown.err
    assert training["world_model_ratio"] != tiny().training.world_model_ratio


def test_resumed_runs_keep_their_ratios(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "runs/x", "--hours", "3"]) == 2
    assert "--hours chooses the ratios of a new run" in capsys.readouterr().err
