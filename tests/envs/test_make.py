from __future__ import annotations

import json
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from drama.envs import adapt, describe, lookup, make_env
from drama.errors import DramaError, EnvError, UnknownEnvError, UnsupportedSpaceError


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("ALE/Pnog-v5", "ALE/Pong-v5"),
        ("ale/breakout-v5", "ALE/Breakout-v5"),
        ("Breakout", "ALE/Breakout-v5"),
        ("drama/Cach-v0", "drama/Catch-v0"),
        ("recall", "drama/Recall-v0"),
        ("drama/Sparse-v3", "drama/Sparse-v0"),
        ("CartPole-v7", "CartPole-v1"),
        ("lunarlander", "LunarLander-v3"),
        ("FrozenLake-v0", "FrozenLake-v1"),
        ("PongDeterministic-v4", "ALE/Pong-v5"),
        ("Pong-ramNoFrameskip-v4", "ALE/Pong-v5"),
        ("ALE/SpaceInvaders-v4", "ALE/SpaceInvaders-v5"),
        ("drama.envs.toy:drama/Cach-v0", "drama.envs.toy:drama/Catch-v0"),
    ],
)
def test_an_unknown_id_suggests_the_nearest(wrong, nearest):
    with pytest.raises(UnknownEnvError) as caught:
        make_env(wrong)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no environment is registered as {wrong!r}; the nearest id is ")
    assert message.endswith(repr(nearest))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("not an id!", "nor anything like it; the id of a package's environment is"),
        ("MyGame-v0", "nor anything like it"),
        ("SuperMarioBros-v0", "nor anything like it"),
        ("os:Foo-v0", "the module 'os' registered no environment"),
        ("drama.envs.toy:Walker-v0", "nor anything like it by the module 'drama.envs.toy'"),
    ],
)
def test_no_id_is_suggested_if_none_is_similar(wrong, said):
    with pytest.raises(UnknownEnvError) as caught:
        make_env(wrong)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"no environment is registered as {wrong!r}")
    assert said in message
    assert "nearest" not in message


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("MiniGrid-Empty-5x5-v0", "minigrid"),
        ("BabyAI-GoToObj-v0", "minigrid"),
        ("MiniWorld-Hallway-v0", "miniworld"),
    ],
)
def test_the_package_of_an_id_is_named(monkeypatch, name, package, installed):
    kept = {
        key: spec
        for key, spec in gym.registry.items()
        if not key.startswith(("MiniGrid-", "BabyAI-", "MiniWorld-"))
    }
    monkeypatch.setattr(gym.envs.registration, "registry", kept)
    monkeypatch.setattr(gym, "registry", kept)
    monkeypatch.setattr(lookup.importlib.util, "find_spec", lambda _: installed or None)
    with pytest.raises(UnknownEnvError) as caught:
        make_env(name)
    install = "" if installed else f"pip install {package}, then "
    assert str(caught.value) == (
        f"no environment is registered as {name!r}; {install}name its package: '{package}:{name}'"
    )


@pytest.mark.parametrize("wrong", ["", None, 5])
def test_ids_are_strings(wrong):
    with pytest.raises(UnknownEnvError, match="an environment id is a string"):
        make_env(wrong)


@pytest.mark.parametrize(
    ("env_id", "arguments", "message"),
    [
        (
            "CartPole-v1",
            {"env_kwargs": {"colour": 1}},
            "could not be made with env_kwargs .*colour",
        ),
        ("drama/Recall-v0", {"env_kwargs": {"gap": -1}}, "gap must be an integer of at least 0"),
        ("drama/Recall-v0", {"env_kwargs": [1]}, "env_kwargs must map argument names"),
        ("drama/Catch-v0", {"seed": -1}, "seed must be an integer of at least 0"),
        ("drama/Catch-v0", {"seed": 0.5}, "seed must be an integer of at least 0"),
        ("drama/Catch-v0", {"max_episode_steps": 0}, "max_episode_steps must be a positive"),
        ("drama/Catch-v0", {"image_size": -3}, "image_size must be a positive integer"),
        ("nosuchmodule:Foo-v0", {}, "there is no module 'nosuchmodule' to import"),
        ("drama.envs.toy:make_none", {}, "module 'drama.envs.toy' has no function or class"),
    ],
)
def test_wrong_arguments(env_id, arguments, message):
    with pytest.raises(EnvError, match=message) as caught:
        make_env(env_id, **arguments)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, DramaError)


class NeedsBox2D(gym.Env):
    def __init__(self):
        raise gym.error.DependencyNotInstalled("Box2D is missing, run `pip install x`")


class NeedsModule(gym.Env):
    def __init__(self):
        import nosuchmodule.inner  # noqa: F401


class Wordy(gym.Env):
    observation_space = spaces.Text(4)
    action_space = spaces.Discrete(2)


class Picture(gym.Env):
    observation_space = spaces.Box(0, 255, (30, 40), np.uint8)
    action_space = spaces.Discrete(2, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = []
        return np.full((30, 40), self.np_random.integers(256), np.uint8), {}

    def step(self, action):
        self.seen.append(action)
        return np.zeros((30, 40), np.uint8), 1, False, False, {}


@pytest.fixture
def registered():
    ids = {}
    for kind in (NeedsBox2D, NeedsModule, Wordy, Picture):
        ids[kind.__name__] = f"test/{kind.__name__}-v0"
        gym.register(ids[kind.__name__], kind, max_episode_steps=5)
    yield ids
    for env_id in ids.values():
        del gym.registry[env_id]


def test_missing_dependencies(registered):
    with pytest.raises(EnvError, match="not installed: Box2D is missing, run `pip install x`"):
        make_env(registered["NeedsBox2D"])
    with pytest.raises(EnvError, match="needs the module 'nosuchmodule': install the package"):
        make_env(registered["NeedsModule"])


def test_missing_ale_py(monkeypatch):
    kept = {key: spec for key, spec in gym.registry.items() if not key.startswith("ALE/")}
    monkeypatch.setattr(gym.envs.registration, "registry", kept)
    monkeypatch.setattr(gym, "registry", kept)
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(UnknownEnvError, match="needs the Atari games: pip install ale-py"):
        make_env("ALE/Pong-v5")


def test_unsupported_space(registered):
    with pytest.raises(UnsupportedSpaceError, match=r"observation space Text\(.*text is not read"):
        make_env(registered["Wordy"])


def test_image_env_of_another_package(registered):
    env = make_env(registered["Picture"], seed=1)
    assert env.observation_space == spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == spaces.Discrete(2)
    starts = [int(env.reset()[0][0, 0, 0]) for _ in range(5)]
    assert len(set(starts)) > 1
    again = make_env(registered["Picture"], seed=1)
    assert [int(again.reset()[0][0, 0, 0]) for _ in range(5)] == starts
    ends = [env.step(0)[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(False, True)]  # the limit registered with the id
    assert env.unwrapped.seen == [1] * 5
    assert make_env(registered["Picture"], image_size=16).observation_space.shape == (16, 16, 3)
    longer = make_env(registered["Picture"], max_episode_steps=7)
    longer.reset()
    assert [longer.step(0)[3] for _ in range(7)] == [False] * 6 + [True]
    assert gym.spec(registered["Picture"]).max_episode_steps == 5  # the registry is untouched


def test_native_size_of_built_in_games_and_vectors():
    assert make_env("drama/Catch-v0").observation_space.shape == (32, 32, 3)
    assert make_env("drama/Catch-v0", image_size=64).observation_space.shape == (64, 64, 3)
    env = make_env("CartPole-v1", image_size=64)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (4,), np.float32)


def test_module_prefix():
    env = make_env("drama.envs.toy:drama/Catch-v0", seed=0)
    assert env.observation_space.shape == (32, 32, 3)
    assert env.reset()[0].shape == (32, 32, 3)


def test_described_protocol_is_json(scripted):
    env = make_env("drama/Recall-v0", env_kwargs={"gap": 5}, max_episode_steps=50)
    stamp = describe(env)
    assert json.loads(json.dumps(stamp)) == stamp
    assert stamp["id"] == "drama/Recall-v0"
    assert stamp["env_kwargs"] == {"gap": 5}
    assert stamp["max_episode_steps"] == 50
    assert stamp["frame_skip"] is None
    assert stamp["observation_shape"] == [32, 32, 3]
    assert stamp["num_actions"] == 4
    assert stamp["gymnasium"] == gym.__version__
    assert stamp["ale_py"] is None
    vector = describe(make_env("CartPole-v1"))
    assert vector["image_size"] is None
    assert vector["max_episode_steps"] == 500
    own = describe(adapt(scripted(), image_size=8))
    assert own["id"] == "Scripted"
    assert own["image_size"] == [8, 8]
    assert own["max_episode_steps"] is None


def test_adapting_again_keeps_the_protocol():
    env = adapt(make_env("ALE/Pong-v5"), image_size=32)
    assert describe(env)["frame_skip"] == 4
    assert describe(env)["image_size"] == [32, 32]
