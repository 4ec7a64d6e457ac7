from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

from drama import presets
from drama.agent import Agent
from drama.envs import adapt, check_env, default_image_size, describe, make_env
from drama.errors import EnvError, UnknownEnvError

CHANNELS = {"Asterix": 4, "Breakout": 4, "Freeway": 7, "Seaquest": 10, "SpaceInvaders": 6}
ACTIONS = {"Asterix": 5, "Breakout": 3, "Freeway": 3, "Seaquest": 6, "SpaceInvaders": 4}


@pytest.fixture
def minatar():
    return pytest.importorskip("minatar", reason="the extra 'minatar' is not installed")


@pytest.mark.parametrize("game", CHANNELS)
@pytest.mark.usefixtures("minatar")
def test_cells_are_pixels_and_object_types_are_channels(game):
    env = make_env(f"MinAtar/{game}-v1", seed=0)
    assert env.observation_space == gym.spaces.Box(0, 255, (10, 10, CHANNELS[game]), np.uint8)
    assert env.action_space == gym.spaces.Discrete(ACTIONS[game])
    assert make_env(f"MinAtar/{game}-v0").action_space == gym.spaces.Discrete(6)
    rng = np.random.default_rng(0)
    obs, _ = env.reset()
    for _ in range(50):
        state = env.unwrapped.game.state()  # bool, straight from the game
        assert np.array_equal(obs, np.where(state, 255, 0))
        obs, _, terminated, truncated, _ = env.step(int(rng.integers(ACTIONS[game])))
        if terminated or truncated:
            obs, _ = env.reset()


@pytest.mark.usefixtures("minatar")
def test_the_first_frame_of_breakout():
    obs, _ = make_env("MinAtar/Breakout-v1", seed=0).reset()
    paddle, ball, trail, bricks = np.moveaxis(obs, -1, 0)
    assert list(zip(*paddle.nonzero(), strict=True)) == [(9, 4)]
    ((row, column),) = zip(*ball.nonzero(), strict=True)
    assert row == 3
    assert column in (0, 9)
    assert np.array_equal(trail, ball)
    assert (bricks[1:4] == 255).all()
    assert bricks.sum() == 30 * 255


@pytest.mark.usefixtures("minatar")
def test_same_seed_repeats_the_run_and_episodes_differ():
    report = check_env("MinAtar/Breakout-v1", steps=200, seed=3)
    assert report.deterministic is True
    assert report.episodes_differ
    assert report.leaves[0].raw.dtype == "bool"
    assert report.warnings == ()


@pytest.mark.usefixtures("minatar")
def test_protocol_records_version_and_sticky_actions():
    stamp = describe(make_env("MinAtar/Breakout-v1"))
    assert stamp["sticky_actions"] == 0.1
    assert stamp["image_size"] == [10, 10]
    assert stamp["minatar"].startswith("1.")
    still = make_env("MinAtar/Breakout-v1", env_kwargs={"sticky_action_prob": 0.0})
    assert describe(still)["sticky_actions"] == 0.0
    assert describe(make_env("drama/Catch-v0"))["minatar"] is None


@pytest.mark.usefixtures("minatar")
def test_without_sticky_actions_every_action_is_executed():
    env = make_env("MinAtar/Breakout-v1", seed=0, env_kwargs={"sticky_action_prob": 0.0})
    obs, _ = env.reset()
    columns = [int(obs[9, :, 0].argmax())]
    for action in (1, 1, 0, 2):  # left, left, stay, right
        obs = env.step(action)[0]
        columns.append(int(obs[9, :, 0].argmax()))
    assert columns == [4, 3, 2, 2, 3]


@pytest.mark.usefixtures("minatar")
def test_objects_keep_their_native_size():
    from minatar.gym import BaseEnv

    game = BaseEnv("freeway", use_minimal_action_set=True)
    assert default_image_size(game) is None
    assert adapt(game).observation_space.shape == (10, 10, 7)
    assert make_env("MinAtar/Freeway-v1", image_size=20).observation_space.shape == (20, 20, 7)


@pytest.mark.parametrize("game", ["Breakout", "Seaquest"])
@pytest.mark.usefixtures("minatar")
def test_agent_trains_on_10_by_10_pixels(game, tmp_path):
    config = presets.preset("quick")
    small = {
        **{"filters": (8, 8), "stem_stride": 1, "batch_size": 2, "batch_length": 8},
        **{"latent_variables": 4, "latent_classes": 4, "head_units": 8, "vector_units": 8},
    }
    model = {**vars(config.world_model), **small}
    behaviour = {**vars(config.behaviour), "batch_size": 4, "horizon": 2}
    training = {**vars(config.training), "warmup_steps": 40, "tensorboard": False}
    config = type(config)(
        **{
            **vars(config),
            "world_model": type(config.world_model)(**model),
            "behaviour": type(config.behaviour)(**behaviour),
            "training": type(config.training)(**training),
        }
    )
    agent = Agent(f"MinAtar/{game}-v1", config, seed=0)
    before = agent.world_model.encoder.out.weight.detach().clone()
    agent.learn(60, run_dir=tmp_path / "run")
    assert not before.equal(agent.world_model.encoder.out.weight)
    obs, _ = agent.env.reset()
    action, _ = agent.predict(obs, deterministic=True)
    assert 0 <= int(action) < ACTIONS[game]


@pytest.mark.usefixtures("minatar")
def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(UnknownEnvError, match=r"the nearest id is 'MinAtar/Breakout-v1'"):
        make_env("MinAtar/Brekout-v1")


def test_a_missing_package_is_reported_in_one_line(monkeypatch):
    kept = {key: spec for key, spec in gym.registry.items() if not key.startswith("MinAtar/")}
    monkeypatch.setattr(gym.envs.registration, "registry", kept)
    monkeypatch.setattr(gym, "registry", kept)
    for name in ("minatar", "minatar.gym"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvError, match=r"pip install minatar \(GPL-3.0\)") as caught:
        make_env("MinAtar/Breakout-v1")
    assert "\n" not in str(caught.value)


def test_minatar_is_imported_on_demand_only():
    program = (
        "import sys, drama, drama.cli; drama.make_env('drama/Catch-v0'); "
        "sys.exit('minatar' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
