# One file: the tests share the spaces and the readings that are adapted.

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import (
    DiscretizeAction,
    FrameStackObservation,
    RecordEpisodeStatistics,
    TimeLimit,
    TransformAction,
    TransformObservation,
)
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv

from drama.envs import ActionAdapter, AdaptedEnv, ObservationAdapter, adapt, make_env
from drama.envs.pictures import is_channel_first
from drama.errors import EnvError, UnsupportedSpaceError


def box(shape, dtype=np.uint8, low=0, high=255):
    return spaces.Box(low, high, shape, dtype)


@pytest.mark.parametrize(
    ("shape", "channel_first"),
    [
        ((84, 84, 3), False),
        ((3, 84, 84), True),
        ((1, 84, 84), True),
        ((4, 84, 84), True),
        ((84, 84, 4), False),
        ((84, 84, 1), False),
        ((210, 160, 3), False),
        ((3, 210, 160), True),
        ((10, 10, 4), False),  # MinAtar
        ((10, 10, 10), False),  # MinAtar's Seaquest
        ((7, 10, 10), True),
        ((3, 4, 4), True),
        ((3, 3, 3), False),
        ((2, 6, 3), False),
    ],
)
def test_channel_axis(shape, channel_first):
    assert is_channel_first(shape) == channel_first


@pytest.mark.parametrize(
    ("shape", "size", "adapted"),
    [
        ((8, 8), None, (8, 8, 3)),
        ((8, 6, 1), None, (8, 6, 3)),
        ((8, 6, 3), None, (8, 6, 3)),
        ((3, 8, 6), None, (8, 6, 3)),
        ((10, 10, 4), None, (10, 10, 4)),
        ((10, 10, 10), 20, (20, 20, 10)),
        ((7, 7, 2), 5, (5, 5, 2)),
        ((210, 160, 3), 64, (64, 64, 3)),
        ((1, 9, 9), 64, (64, 64, 3)),
    ],
)
def test_adapted_shapes(shape, size, adapted):
    adapter = ObservationAdapter(box(shape), size)
    assert adapter.space == box(adapted)
    obs = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    assert adapter.space.contains(adapter(obs))


def test_channel_first_and_grey_pictures():
    picture = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert (ObservationAdapter(box((2, 3, 4)))(picture) == picture).all()  # 4: channels last
    planes = np.arange(3 * 5 * 6, dtype=np.uint8).reshape(3, 5, 6)
    adapted = ObservationAdapter(box((3, 5, 6)))(planes)
    assert adapted[4, 5].tolist() == [29, 59, 89]
    grey = np.array([[0, 7], [200, 255]], np.uint8)
    assert ObservationAdapter(box((2, 2)))(grey)[1, 0].tolist() == [200, 200, 200]


@pytest.mark.parametrize(
    ("dtype", "low", "high", "raw", "expected"),
    [
        (np.float32, 0, 1, [[0, 0.5], [0.25, 1]], [[0, 128], [64, 255]]),
        (np.float64, 0, 255, [[0, 1], [99.6, 255]], [[0, 1], [100, 255]]),
        (bool, 0, 1, [[False, True], [True, False]], [[0, 255], [255, 0]]),
        (np.uint8, 0, 5, [[0, 1], [2, 5]], [[0, 51], [102, 255]]),
        (np.int64, 0, 255, [[0, 1], [200, 255]], [[0, 1], [200, 255]]),
        (np.int8, 0, 1, [[0, 1], [1, 0]], [[0, 255], [255, 0]]),
        # Each pixel has its own bounds; one of them never changes.
        (np.uint8, [[0, 0], [0, 3]], [[1, 2], [4, 3]], [[1, 1], [1, 3]], [[255, 128], [64, 0]]),
    ],
)
def test_rescaling(dtype, low, high, raw, expected):
    tiles = [np.tile(np.broadcast_to(np.array(x, dtype), (2, 2)), (4, 4)) for x in (low, high, raw)]
    adapted = ObservationAdapter(spaces.Box(tiles[0], tiles[1], dtype=dtype))(tiles[2])
    assert adapted[..., 0].tolist() == np.tile(expected, (4, 4)).tolist()


UNBOUNDED = (-np.inf, np.inf)
READINGS = [
    (box((210, 160, 3)), "picture (210, 160, 3) uint8 -> 64x64x3"),
    (box((84, 84)), "picture (84, 84) uint8 -> 64x64x3"),
    (box((4, 84, 84)), "picture (4, 84, 84) uint8 -> 64x64x4"),
    (box((10, 10, 4), bool, 0, 1), "picture (10, 10, 4) bool -> 64x64x4, rescaled from 0..1"),
    (box((7, 7, 3), high=10), "picture (7, 7, 3) uint8 -> 64x64x3, rescaled from 0..10"),
    (box((4, 84, 84, 3)), "picture (4, 84, 84, 3) uint8 -> 64x64x12"),
    (box((2, 3, 84, 84)), "picture (2, 3, 84, 84) uint8 -> 64x64x6"),
    (
        box((84, 84, 3), np.float32, 0, 1),
        "picture (84, 84, 3) float32 -> 64x64x3, rescaled from 0..1",
    ),
    (box((8, 9), np.float64), "picture (8, 9) float64 -> 64x64x3, rescaled from 0..255"),
    (box((84, 84, 3), np.int64), "picture (84, 84, 3) int64 -> 64x64x3, rescaled from 0..255"),
    (box((8,), np.float32, *UNBOUNDED), "vector of 8 from (8,) float32"),
    (box((128,)), "vector of 128 from (128,) uint8"),
    (box((4, 128)), "vector of 512 from (4, 128) uint8, flattened"),  # stacked RAM of Atari
    (box((4, 8), np.float32, -1.5, 1.5), "vector of 32 from (4, 8) float32, flattened"),
    (box((4, 8), np.float32, 0, 1), "vector of 32 from (4, 8) float32, flattened"),
    (box((4, 8), np.float32, *UNBOUNDED), "vector of 32 from (4, 8) float32, flattened"),
    (box((8, 8, 3), np.float32, -1, 1), "vector of 192 from (8, 8, 3) float32, flattened"),
    (box((8, 8, 3), np.float32, 0, np.inf), "vector of 192 from (8, 8, 3) float32, flattened"),
    (box((10, 10), np.int32, 0, 4), "vector of 100 from (10, 10) int32, flattened"),
    (box((2, 8, 8, 3), np.float32, 0, 1), "vector of 384 from (2, 8, 8, 3) float32, flattened"),
    (box((2, 3, 4, 3)), "vector of 72 from (2, 3, 4, 3) uint8, flattened"),
    (box(()), "vector of 1 from () uint8, flattened"),
]


@pytest.mark.parametrize(("space", "reading"), READINGS)
def test_readings(space, reading):
    adapter = ObservationAdapter(space, 64)
    assert adapter.reading == reading
    assert (adapter.observations.single.kind == "image") == reading.startswith("picture")
    space.seed(0)
    raw = space.sample()
    obs = adapter(raw)
    assert adapter.space.contains(obs)
    if adapter.observations.single.kind != "image":
        assert (obs == raw.ravel().astype(np.float32)).all()
        again = ObservationAdapter(adapter.space, 64)
        assert again.is_identity


def test_stacked_vectors_are_flattened():
    env = adapt(FrameStackObservation(gym.make("Acrobot-v1"), 4), image_size=64)
    assert env.observation_space == spaces.Box(-np.inf, np.inf, (24,), np.float32)
    env.reset(seed=0)
    obs = [env.step(2)[0] for _ in range(4)][-1]
    again = gym.make("Acrobot-v1")
    again.reset(seed=0)
    assert (obs == np.concatenate([again.step(2)[0] for _ in range(4)])).all()


@pytest.mark.parametrize("shape", [(3, 8, 10, 4), (3, 2, 8, 10)])
def test_stacked_pictures_become_channels(shape):
    frames = np.arange(np.prod(shape), dtype=np.int64).reshape(shape) % 251
    adapted = ObservationAdapter(box(shape))(frames.astype(np.uint8))
    frames = frames if shape[-1] == 4 else np.moveaxis(frames, 1, -1)
    assert (adapted == np.concatenate(list(frames), axis=-1)).all()


def test_resizing_up_keeps_hard_edges_and_down_takes_the_mean():
    checker = np.array([[0, 255], [255, 0]], np.uint8)
    up = ObservationAdapter(box((2, 2)), 6)(checker)
    assert (up[..., 0] == checker.repeat(3, 0).repeat(3, 1)).all()
    down = ObservationAdapter(box((4, 4)), 2)(np.kron(checker, np.ones((2, 2), np.uint8)))
    assert (down[..., 0] == checker).all()
    halves = np.array([[0, 100], [100, 200]], np.uint8)
    assert ObservationAdapter(box((2, 2)), 1)(halves).ravel().tolist() == [100, 100, 100]


def test_channels_do_not_mix_when_resized():
    planes = np.zeros((8, 8, 7), np.uint8)
    for plane in range(7):
        planes[:, :, plane] = plane * 30
    out = ObservationAdapter(box((8, 8, 7)), 4)(planes)
    assert (out == np.arange(7) * 30).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint8])
def test_vectors_become_float32(dtype):
    adapter = ObservationAdapter(box((3,), dtype, 0, 100))
    assert adapter.space == spaces.Box(-np.inf, np.inf, (3,), np.float32)
    out = adapter(np.array([1, 2, 3], dtype))
    assert out.dtype == np.float32
    assert out.tolist() == [1, 2, 3]
    assert adapter.is_identity == (dtype == np.float32)


shapes = st.one_of(
    st.tuples(st.integers(2, 9), st.integers(2, 9)),
    st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 6)),
    st.tuples(st.integers(1, 4), st.integers(5, 9), st.integers(5, 9)),
    st.tuples(st.integers(2, 3), st.integers(8, 12), st.integers(8, 12), st.integers(1, 3)),
    st.tuples(st.integers(1, 9)),
)


@given(
    shape=shapes,
    dtype=st.sampled_from([np.uint8, np.int32, np.float32, np.float64, bool]),
    bounds=st.one_of(
        st.just((0, 1)), st.just((0, 255)), st.tuples(st.integers(0, 100), st.integers(1, 100))
    ),
    size=st.one_of(st.none(), st.integers(1, 12)),
    seed=st.integers(0, 1000),
)
def test_laws_of_adaptation(shape, dtype, bounds, size, seed):
    low, high = (0, 1) if dtype is bool else (bounds[0], sum(bounds))
    space = box(shape, dtype, low, high)
    space.seed(seed)
    adapter = ObservationAdapter(space, size)
    raw = np.stack([space.sample() for _ in range(3)])
    raw[0], raw[1] = space.low, space.high
    out = adapter.batch(raw)
    # A batch is its observations one by one, and the result lies in the adapted space.
    assert all((out[k] == adapter(raw[k])).all() for k in range(3))
    assert all(adapter.space.contains(frame) for frame in out)
    if adapter.observations.single.kind == "image":  # the bounds map to the bounds
        assert (out[0] == 0).all()
        assert (out[1] == 255).all()
    # Adapting what is adapted changes nothing.
    again = ObservationAdapter(adapter.space, size)
    assert again.is_identity
    assert (again.batch(out) == out).all()


@pytest.mark.parametrize(
    ("space", "wrapper"),
    [
        (spaces.Text(9), "text is not read; gymnasium.wrappers.TransformObservation"),
        (
            spaces.Dict({"mission": spaces.Text(9)}),
            r"'mission' of the observation, Text.* text is not read.*env\.observe",
        ),
        (spaces.Sequence(spaces.Discrete(2)), "gymnasium.wrappers.TransformObservation can make"),
        (
            spaces.Dict({"speed": box((2,)), "all": spaces.Sequence(spaces.Discrete(2))}),
            r"'all' of the observation, Sequence.*TransformObservation.*leave it out: env\.observe",
        ),
        (spaces.Discrete(10**6), "more than 131,072 one-hot entries.*can make a Box of them"),
        (box((0,), np.float32), "it is empty"),
        (spaces.Tuple(()), "it is empty"),
        (range(3), r"it is no gymnasium\.spaces\.Space"),
    ],
)
def test_unsupported_observations_name_the_wrapper(space, wrapper):
    with pytest.raises(UnsupportedSpaceError, match=wrapper) as caught:
        ObservationAdapter(space, 64)
    message = str(caught.value)
    assert "\n" not in message
    assert "supported: Box" in message


def test_suggested_wrappers_work(scripted):
    env = scripted(observation_space=spaces.Text(3))
    env = TransformObservation(env, lambda obs: np.ones(3, np.float32), box((3,), np.float32))
    assert ObservationAdapter(env.observation_space).reading == "vector of 3 from (3,) float32"
    env = DiscretizeAction(gym.make("Pendulum-v1"), bins=3)
    assert ActionAdapter(env.action_space).space == spaces.Discrete(3)
    env = scripted(action_space=spaces.MultiDiscrete([2, 3]))
    env = TransformAction(env, lambda index: np.unravel_index(index, (2, 3)), spaces.Discrete(6))
    assert ActionAdapter(env.action_space).space == spaces.Discrete(6)


@pytest.mark.parametrize("size", [0, -1, 6.4, True, "64"])
def test_bad_image_size(size):
    with pytest.raises(EnvError, match="image_size must be a positive integer"):
        ObservationAdapter(box((8, 8)), size)


def test_wrong_observations_are_refused():
    adapter = ObservationAdapter(box((4, 4, 3)))
    with pytest.raises(EnvError, match=r"shape \(4, 4\) does not fit"):
        adapter(np.zeros((4, 4), np.uint8))
    with pytest.raises(EnvError, match="dtype float32 does not fit"):
        adapter(np.zeros((4, 4, 3), np.float32))
    # predict converts the same observations as the guard.
    whole = np.full((4, 4, 3), 200)
    assert (adapter(whole) == 200).all()
    with pytest.raises(EnvError, match="dtype int64 does not fit"):
        adapter(whole + 100)
    vector = ObservationAdapter(box((2,), np.float32, -1, 1))
    assert vector([0.5, 1]).tolist() == [0.5, 1]


def test_actions():
    adapter = ActionAdapter(spaces.Discrete(3, start=-1))
    assert adapter.space == spaces.Discrete(3)
    assert [adapter(a) for a in (0, np.int64(1), 2)] == [-1, 0, 1]
    assert type(adapter(np.int64(1))) is int
    for wrong in (-1, 3, 1.5, "a", None, [0, 1]):
        with pytest.raises(EnvError, match=r"is not one of 0\.\.2"):
            adapter(wrong)


@pytest.mark.parametrize(
    ("space", "why"),
    [
        (box((2,), np.float32, -1, 1), r"gymnasium\.wrappers\.DiscretizeAction\(env, bins=3\)"),
        (box((2,), np.float32, -np.inf, np.inf), r"gymnasium\.wrappers\.TransformAction"),
        (spaces.MultiDiscrete([2, 2]), r"gymnasium\.wrappers\.TransformAction"),
        (spaces.Discrete(1), "one action leaves nothing to choose"),
        (range(3), r"it is no gymnasium\.spaces\.Space"),
    ],
)
def test_unsupported_actions_name_the_wrapper(space, why):
    with pytest.raises(UnsupportedSpaceError, match=f"action space .* is not supported: .*{why}"):
        ActionAdapter(space)


def test_adapted_env_maps_both_ways(scripted):
    space = box((3, 8, 9), np.float32, 0, 1)
    obs = np.ones((3, 8, 9), np.float32)
    raw = scripted(
        [(obs, np.float32(0.5), np.bool_(True), False, {"x": 1})],
        observation_space=space,
        action_space=spaces.Discrete(2, start=5),
    )
    env = adapt(raw, image_size=4)
    assert isinstance(env, AdaptedEnv)
    assert env.reset()[0].sum() == 0
    picture, reward, terminated, truncated, info = env.step(np.int64(1))
    assert raw.actions == [6]
    assert picture.shape == (4, 4, 3)
    assert (picture == 255).all()
    assert (type(reward), reward) == (float, 0.5)
    assert terminated is True
    assert truncated is False
    assert info["x"] == 1
    assert (info["episode"]["r"], info["episode"]["l"]) == (0.5, 1)


def test_adapting_twice_is_adapting_once(scripted):
    env = adapt(scripted(observation_space=box((8, 8))), image_size=16)
    assert adapt(env, image_size=16) is env
    assert adapt(env) is env
    made = make_env("drama/Catch-v0", seed=0)
    assert adapt(made) is made
    limited = adapt(env, max_episode_steps=3)
    assert limited is not env
    assert limited.observation_space == env.observation_space
    limited.reset()
    ends = [limited.step(0)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]


def test_time_limit_and_statistics_are_not_doubled(scripted):
    env = adapt(RecordEpisodeStatistics(TimeLimit(scripted(), 2)))
    env.reset()
    env.step(0)
    *_, truncated, info = env.step(0)
    assert truncated is True
    assert info["episode"]["l"] == 2


def test_seed_is_used_once(scripted):
    raw = scripted()
    env = adapt(raw, seed=7)
    for _ in range(3):
        env.reset()
    env.reset(seed=3)
    env.reset()
    assert raw.resets == [7, None, None, 3, None]
    raw = scripted()
    adapt(raw, seed=7).reset(seed=4)  # Gymnasium's contract: a seed given to reset is obeyed
    assert raw.resets == [4]


class OldGym:
    observation_space = box((4, 4))
    action_space = spaces.Discrete(2)

    def reset(self):
        return np.zeros((4, 4), np.uint8)


class NoSpaces(gym.Env):
    pass


def test_objects_other_than_gymnasium_envs_are_refused():
    with pytest.raises(EnvError, match=r"OldGym is not a gymnasium\.Env; .* old Gym API"):
        adapt(OldGym())
    stacked = DummyVecEnv([lambda: gym.make("CartPole-v1")])
    with pytest.raises(EnvError, match=r"DummyVecEnv is not .* several environments side by side"):
        adapt(stacked)
    with pytest.raises(
        EnvError, match=r"function is not a gymnasium\.Env; if it makes one, call it"
    ):
        adapt(lambda: gym.make("CartPole-v1"))
    with pytest.raises(EnvError, match="NoSpaces has no observation_space"):
        adapt(NoSpaces())


@pytest.mark.parametrize("limit", [0, -1, 2.0, True])
def test_bad_time_limit(scripted, limit):
    with pytest.raises(EnvError, match="max_episode_steps must be a positive integer"):
        adapt(scripted(), max_episode_steps=limit)
