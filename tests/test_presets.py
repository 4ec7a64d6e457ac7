"""Every preset is a complete configuration; a wrong name suggests a near one."""

from __future__ import annotations

import json

import pytest
import torch

from drama import presets
from drama.actions import ActionSpace
from drama.behaviour import ActorCritic
from drama.config import Config
from drama.errors import ConfigError
from drama.world_model import WorldModel
from drama.world_model.encoder import feature_maps


@pytest.mark.parametrize("name", presets.PRESETS)
def test_preset_has_its_name_and_round_trips_through_json(name: str) -> None:
    config = presets.preset(name)
    assert config.preset == name
    assert config == presets.PRESETS[name]()
    assert Config.from_json(config.to_json()) == config


@pytest.mark.parametrize("name", presets.PRESETS)
def test_a_preset_can_be_built(name: str) -> None:
    config = presets.preset(name)
    side = 32 if name == "quick" else 64
    with torch.device("meta"):
        world = WorldModel(config.world_model, (side, side, 3), ActionSpace(4))
        width = world.stoch_size + config.world_model.dynamics.width
        policy = ActorCritic(config.behaviour, width, ActionSpace(4))
        prior = world.prior(torch.empty(1, config.world_model.dynamics.width))
    assert prior.numel() == world.stoch_size
    assert policy.actor.out.out_features == 4


def test_own_presets_use_successful_changes_and_paper_presets_do_not() -> None:
    """docs/results.md has their effects."""
    motion = {name: p().world_model.motion_weight for name, p in presets.PRESETS.items()}
    assert motion == {"quick": 1, "laptop": 10, "xs": 1, "s": 1}
    memory = {name: p().behaviour.policy_context for name, p in presets.PRESETS.items()}
    assert memory == {"quick": "current", **dict.fromkeys(("laptop", "xs", "s"), "previous")}


def test_xs_is_the_default() -> None:
    assert presets.xs() == Config()


def test_s_doubles_the_filters_and_the_state() -> None:
    xs, s = presets.xs().world_model, presets.s().world_model
    assert s.filters == tuple(2 * n for n in xs.filters)
    assert (xs.dynamics.d_state, s.dynamics.d_state) == (16, 32)
    assert presets.s().behaviour == presets.xs().behaviour


def test_paper_presets_use_the_paper_training_loop() -> None:
    config = presets.xs()
    assert (config.training.world_model_ratio, config.training.behaviour_ratio) == (1.0, 1.0)
    assert (config.world_model.batch_size, config.world_model.batch_length) == (16, 128)
    assert config.replay.capacity == 100_000
    windows = config.world_model.batch_size * config.training.world_model_ratio
    assert config.replay.temperatures(windows) == (10.0, 10.0)
    assert (config.replay.alpha, config.replay.beta) == (1.0, 1.0)
    sizes = config.world_model.dynamics
    assert (sizes.name, sizes.width, sizes.layers) == ("mamba2", 512, 2)
    assert (sizes.expand, sizes.d_conv, sizes.headdim) == (2, 4, 128)
    assert config.behaviour.policy_latent == "prior"


@pytest.mark.parametrize(
    ("wrong", "near"), [("quik", "quick"), ("XS", "xs"), ("xss", "xs"), ("zzzz", None)]
)
def test_unknown_preset_suggests_the_nearest(wrong: str, near: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        presets.preset(wrong)
    message = str(caught.value)
    assert repr(wrong) in message
    assert "\n" not in message
    assert all(name in message for name in presets.PRESETS)
    assert ("did you mean" in message) == (near is not None)
    assert near is None or f"did you mean {near}?" in message


@pytest.mark.parametrize("wrong", ["", "????", "a" * 500])
def test_unknown_name_without_a_near_one_is_one_clear_error(wrong: str) -> None:
    with pytest.raises(ConfigError, match="unknown preset"):
        presets.preset(wrong)


# -- the label ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", presets.PRESETS)
def test_an_unchanged_preset_has_its_own_name(name: str) -> None:
    config = presets.preset(name)
    assert presets.label(config) == name
    named = {
        "steps": 7,
        "seed": 3,
        "device": "cpu",
        "env.id": "CartPole-v1",
        "env.image_size": 32,
        "training.threads": 2,
        "evaluation.episodes": 3,
        "replay.device": "cpu",
    }
    assert presets.label(config.override(named)) == name


def test_label_agrees_with_the_sizes() -> None:
    assert presets.label(Config(preset="quick")) == "quick*"
    assert presets.label(Config(preset="xs")) == "xs"
    assert presets.label(presets.quick().override(preset="xs")) == "xs*"
    assert presets.label(presets.quick().override({"world_model.batch_size": 8})) == "quick*"
    assert presets.label(presets.xs().override({"env.life_loss": False})) == "xs*"
    assert (
        presets.label(Config(preset="mine")) == "mine"
    )  # no preset that it could be confused with
    changed = presets.changed_settings(
        json.loads(presets.quick().override({"behaviour.gamma": 0.9}).to_json()), "quick"
    )
    assert changed == ("behaviour.gamma 0.9 (not 0.985)",)


@pytest.mark.parametrize(
    ("shape", "device", "name"),
    [
        ((4,), "cpu", "quick"),
        ((4,), "cuda", "quick"),
        ((16, 16, 4), "cuda", "quick"),
        ((32, 32, 3), "cpu", "quick"),
        ((64, 64, 3), "cpu", "laptop"),
        ((64, 64, 3), "mps", "laptop"),
        ((64, 64, 3), "cuda", "xs"),
        ((96, 96, 3), "cuda", "xs"),
    ],
)
def test_default_preset_fits_observation_and_device(
    shape: tuple[int, ...], device: str, name: str
) -> None:
    config, why = presets.fitting(shape, device)
    assert config == presets.preset(name)
    assert why


@pytest.mark.parametrize(("side", "last"), [(8, 4), (40, 5), (20, 5), (10, 5), (7, 4), (3, 3)])
def test_quick_reads_small_images_of_any_size(side: int, last: int) -> None:
    config, _ = presets.fitting((side, side, 4), "cpu")
    assert config == presets.quick()
    assert feature_maps(side, side, config.world_model)[-1][:2] == (last, last)
    WorldModel(config.world_model, (side, side, 4), ActionSpace(3))
