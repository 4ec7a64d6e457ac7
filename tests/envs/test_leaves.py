"""Observations of several leaves: named, read one by one, checked and left out."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from tests.nested import Both, Cards, Mixed, env_id

from drama.envs import ObservationAdapter, adapt, check_env, describe, make_env
from drama.envs.adapt import AdaptedEnv, as_batch
from drama.errors import ConfigError, EnvError, EnvFaultError, UnsupportedSpaceError

NAMES = ["dials", "doors/0", "doors/1", "robot/camera", "robot/speed"]


def sample(space: spaces.Space[Any], seed: int = 0) -> Any:
    space.seed(seed)
    return space.sample()


def test_nested_observations_become_named_arrays() -> None:
    adapter = ObservationAdapter(Mixed.observation_space, 64)
    raw = sample(Mixed.observation_space)
    obs = adapter(raw)
    assert adapter.space.contains(obs)
    assert list(obs) == NAMES
    assert (obs["robot/camera"] == raw["robot"]["camera"]).all()  # small pictures stay small
    assert (obs["robot/speed"] == raw["robot"]["speed"].ravel().astype(np.float32)).all()
    assert obs["dials"].tolist() == raw["dials"].ravel().tolist()
    assert obs["doors/0"] == raw["doors"][0] - 1
    assert obs["doors/1"].tolist() == raw["doors"][1].tolist()
    assert adapter.skipped == ("mission",)
    assert "mission: text, not read" in adapter.reading
    assert "robot/camera: picture (12, 10, 3) uint8 -> 12x10x3" in adapter.reading


def test_adapted_arrays_are_the_agents_own() -> None:
    raw = sample(Mixed.observation_space)
    obs = ObservationAdapter(Mixed.observation_space)(raw)
    kept = obs["robot/camera"].copy()
    raw["robot"]["camera"][:] = 7
    assert (obs["robot/camera"] == kept).all()


def test_a_batch_is_its_observations_one_by_one_and_adapting_again_changes_nothing() -> None:
    adapter = ObservationAdapter(Mixed.observation_space)
    raws = [sample(Mixed.observation_space, seed) for seed in range(3)]
    batch = adapter.batch(
        {
            "robot": {k: np.stack([raw["robot"][k] for raw in raws]) for k in ("camera", "speed")},
            "doors": tuple(np.stack([raw["doors"][i] for raw in raws]) for i in range(2)),
            "dials": np.stack([raw["dials"] for raw in raws]),
        }
    )
    again = ObservationAdapter(adapter.space, channels_last=True)
    assert again.is_identity
    for k, raw in enumerate(raws):
        obs = adapter(raw)
        for name, leaf in obs.items():
            assert (batch[name][k] == leaf).all()
            assert (again(obs)[name] == leaf).all()


@pytest.mark.parametrize(
    ("space", "adapted", "reading"),
    [
        (spaces.Discrete(16), [16], "16 classes, one-hot, from Discrete(16)"),
        (spaces.Discrete(3, start=-1), [3], "3 classes, one-hot, from Discrete(3, start=-1)"),
        (
            spaces.MultiDiscrete([2, 5]),
            [2, 5],
            "2 variables, one-hot of 7 classes, from MultiDiscrete([2 5])",
        ),
        (
            spaces.MultiBinary((2, 2)),
            [2, 2, 2, 2],
            "4 variables, one-hot of 8 classes, from MultiBinary((2, 2))",
        ),
    ],
)
def test_a_categorical_observation_is_one_array(
    space: spaces.Space[Any], adapted: list[int], reading: str
) -> None:
    adapter = ObservationAdapter(space)
    assert adapter.space == spaces.MultiDiscrete(adapted, dtype=np.int32)
    assert adapter.reading == reading
    low = adapter(np.full(space.shape or (), getattr(space, "start", 0)))
    assert low.tolist() == [0] * len(adapted)
    with pytest.raises(EnvError, match="lies outside of"):
        adapter(np.full(space.shape or (), 99))


def test_pictures_of_a_dict_are_made_smaller_but_not_larger() -> None:
    big, small = (spaces.Box(0, 255, (side, side, 3), np.uint8) for side in (96, 7))
    adapter = ObservationAdapter(spaces.Dict({"big": big, "small": small}), 64)
    assert adapter.space["big"].shape == (64, 64, 3)
    assert adapter.space["small"].shape == (7, 7, 3)
    assert ObservationAdapter(small, 64).space.shape == (64, 64, 3)


def test_leaves_are_chosen_by_name() -> None:
    env = make_env(env_id(Mixed), 0, observe=("robot", "doors/0"))
    assert list(env.observation_space) == ["doors/0", "robot/camera", "robot/speed"]
    assert describe(env)["observation_shape"] == {
        "doors/0": [1],
        "robot/camera": [12, 10, 3],
        "robot/speed": [4],
    }
    again = gym.make(env.spec)
    assert again.observation_space == env.observation_space
    one = make_env(env_id(Mixed), observe=("robot/camera",))
    assert list(one.observation_space) == ["robot/camera"]  # a Dict stays one
    assert adapt(env) is env


def test_choices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"env\.observe: .* 'camera'; did you mean robot/camera"):
        make_env(env_id(Mixed), observe=("camera",))
    with pytest.raises(ConfigError, match="these observations are one array"):
        make_env("CartPole-v1", observe=("camera",))
    with pytest.raises(UnsupportedSpaceError, match=r"'mission' of the observation.* text"):
        make_env(env_id(Mixed), observe=("mission", "dials"))


def test_names_that_collide_are_refused() -> None:
    space = spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})})
    with pytest.raises(UnsupportedSpaceError, match="two of its parts are called 'a/b'; rename"):
        ObservationAdapter(space)


def test_missions_of_minigrid_are_text() -> None:
    pytest.importorskip("minigrid")
    env = make_env("minigrid:MiniGrid-Empty-8x8-v0", 0)
    assert env.adapt_observation.skipped == ("mission",)  # type: ignore[attr-defined]
    assert {name: part.shape for name, part in env.observation_space.items()} == {  # type: ignore[attr-defined]
        "direction": (1,),
        "image": (7, 7, 3),
    }
    assert env.observation_space.contains(env.reset()[0])


def test_text_alone_is_refused() -> None:
    with pytest.raises(UnsupportedSpaceError, match="text is not read"):
        ObservationAdapter(spaces.Dict({"a": spaces.Text(3), "b": spaces.Text(3)}))


def mixed(**changes: Any) -> Any:
    return {**sample(Mixed.observation_space), **changes}


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        (mixed(dials=np.full((2, 2), 4)), "'dials' reaches from 4 to 4, its space says 0 to 4"),
        (mixed(dials=np.zeros(4, np.int64)), r"'dials' has shape \(4,\), its space says \(2, 2\)"),
        (mixed(doors=(0, np.zeros(4))), "'doors/0' reaches from 0 to 0, its space says 1 to 3"),
        (mixed(doors=(1.5, np.zeros(4))), r"'doors/0' is 1\.5, its space says \(\) int64"),
        (mixed(doors=(1,)), "the observation, a dict, has no 'doors/1'"),
        (mixed(robot={"camera": None}), "'robot/camera' is None"),
        (
            mixed(
                robot={"camera": np.zeros((12, 10, 3), np.uint8), "speed": np.full((2, 2), np.nan)}
            ),
            "'robot/speed' contains NaN",
        ),
        (np.zeros(3), "the observation, a ndarray, has no 'dials'"),
    ],
)
def test_a_faulty_leaf_is_named(scripted: Any, obs: Any, message: str) -> None:
    env = adapt(scripted(first=obs, observation_space=Mixed.observation_space))
    with pytest.raises(EnvFaultError, match=message):
        env.reset()


def test_a_leaf_that_is_left_out_is_not_checked(scripted: Any) -> None:
    raw = scripted(first=mixed(dials=None), observation_space=Mixed.observation_space)
    obs, _ = adapt(raw, observe=("doors",)).reset()
    assert list(obs) == ["doors/0", "doors/1"]


def test_plain_integers_are_no_conversion_to_report(scripted: Any) -> None:
    env = adapt(scripted(first=3, observation_space=spaces.Discrete(5)))
    assert env.reset()[0].tolist() == [3]
    report = check_env("FrozenLake-v1", steps=30)
    assert not any("come as" in line for line in report.warnings)


def test_raw_and_adapted_observations_are_told_apart() -> None:
    env = make_env(env_id(Cards), 0)
    assert isinstance(env, AdaptedEnv)
    adapted = ObservationAdapter(env.observation_space, channels_last=True)
    obs, _ = env.reset()
    found, single, raw = as_batch(obs, adapted, env)
    assert (single, raw) == (True, False)
    assert {k: v.shape for k, v in found.items()} == {"0": (1, 2), "1": (1, 1)}
    found, single, raw = as_batch((np.array([12, 3]), 1), adapted, env)
    assert (single, raw) == (True, True)
    assert found["0"].tolist() == [[12, 3]]
    found, single, raw = as_batch((np.array([[12, 3], [0, 1]]), np.array([1, 0])), adapted, env)
    assert (single, raw) == (False, True)
    assert found["1"].tolist() == [[1], [0]]
    for wrong in ((np.zeros((2, 2)), np.zeros(3)), {"0": np.zeros(2)}, np.zeros(3), "card", None):
        with pytest.raises(EnvError):
            as_batch(wrong, adapted, env)


def test_the_report_names_each_leaf_and_its_memory() -> None:
    report = check_env(env_id(Mixed), steps=30, replay_capacity=1000)
    assert [leaf.name for leaf in report.leaves] == NAMES
    assert report.replay_bytes == sum(leaf.replay_bytes for leaf in report.leaves)
    assert report.leaves[3].replay_bytes == 360_000
    text = report.render()
    assert "picture (12, 10, 3) uint8 -> 12x10x3; (12, 10, 3) uint8, " in text
    assert "360 kB in the replay" in text
    assert "observation mission" in text
    assert "text, not read" in text
    assert report.deterministic


def test_findings_name_the_leaf(scripted: Any) -> None:
    space = spaces.Dict(
        {
            "codes": spaces.Box(0, 255, (7, 7, 3), np.uint8),
            "height": spaces.Box(-1e6, 1e6, (1,), np.float32),
        }
    )
    first = {"codes": np.ones((7, 7, 3), np.uint8), "height": np.array([5e3], np.float32)}
    env = scripted([(first, 0.0, False, False, {})] * 60, first=first, observation_space=space)
    warnings = check_env(env, steps=55).warnings
    assert any("pictures of 'codes' are almost black" in line for line in warnings)
    assert any("vectors of 'height' hold values beyond 100" in line for line in warnings)


def test_the_task_of_picture_and_vector_pays_half_for_either() -> None:
    env = Both()
    for seed in range(4):
        env.reset(seed=seed)
        rewards = [env.step(action)[1] for action in range(4)]
        assert sum(rewards) == 1
