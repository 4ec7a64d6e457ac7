from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from hypothesis import given
from hypothesis import strategies as st

from drama.envs import ActionAdapter, AdaptedEnv, ObservationAdapter, adapt, make_env
from drama.envs.mapping import is_channel_first
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


def test_channel_first_and_grey_by_hand():
    picture = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    assert (ObservationAdapter(box((2, 3, 4)))(picture) == picture).all()  # 4: channels last
    planes = np.arange(3 * 5 * 6, dtype=np.uint8).reshape(3, 5, 6)
    adapted = ObservationAdapter(box((3, 5, 6)))(planes)
    assert adapted[4, 5].tolist() == [29, 59, 89]
    grey = np.array([[0, 7], [200, 255]], np.uint8)
    assert ObservationAdapter(box((2, 2)))(grey)[1, 0].tolist() == [200, 200, 200]


@pytest.mark.parametrize(
    ("space", "raw", "expected"),
    [
        (box((2, 2), np.float32, 0, 1), [[0, 0.5], [0.25, 1]], [[0, 128], [64, 255]]),
        (box((2, 2), np.float64, -1, 1), [[-1, 0], [0.5, 1]], [[0, 128], [191, 255]]),
        (box((2, 2), bool, 0, 1), [[False, True], [True, False]], [[0, 255], [255, 0]]),
        (box((2, 2), np.uint8, 0, 5), [[0, 1], [2, 5]], [[0, 51], [102, 255]]),
        (box((2, 2), np.int64, 0, 255), [[0, 1], [200, 255]], [[0, 1], [200, 255]]),
        (
            spaces.Box(np.array([[0, 0], [0, 3]]), np.array([[1, 2], [4, 3]]), dtype=np.float32),
            [[1, 1], [1, 3]],  # each pixel has its own bounds; one of them never changes
            [[255, 128], [64, 0]],
        ),
    ],
)
def test_rescaling_by_hand(space, raw, expected):
    obs = np.array(raw, dtype=space.dtype)
    assert ObservationAdapter(space)(obs)[..., 0].tolist() == expected


def test_wide_integers_keep_their_precision():
    space = box((2, 2), np.int32, 2**30, 2**30 + 255)
    obs = np.array([[0, 1], [100, 255]], np.int32) + 2**30
    assert ObservationAdapter(space)(obs)[..., 0].tolist() == [[0, 1], [100, 255]]


def test_resizing_up_keeps_hard_edges_and_down_takes_the_mean():
    checker = np.array([[0, 255], [255, 0]], np.uint8)
    up = ObservationAdapter(box((2, 2)), 6)(checker)
    assert (up[..., 0] == checker.repeat(3, 0).repeat(3, 1)).all()
    down = ObservationAdapter(box((4, 4)), 2)(np.kron(checker, np.ones((2, 2), np.uint8)))
    assert (down[..., 0] == checker).all()
    halves = np.array([[0, 100], [100, 200]], np.uint8)
    assert ObservationAdapter(box((2, 2)), 1)(halves).ravel().tolist() == [100, 100, 100]


def test_planes_do_not_mix_when_resized():
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
    st.tuples(st.integers(1, 9)),
)


@given(
    shape=shapes,
    dtype=st.sampled_from([np.uint8, np.int32, np.float32, np.float64, bool]),
    bounds=st.tuples(st.integers(0, 100), st.integers(1, 100)),
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
    if adapter.is_image:  # the bounds map to the bounds
        assert (out[0] == 0).all()
        assert (out[1] == 255).all()
    # Adapting what is adapted changes nothing.
    again = ObservationAdapter(adapter.space, size)
    assert again.is_identity
    assert (again.batch(out) == out).all()


@pytest.mark.parametrize(
    ("space", "why"),
    [
        (spaces.Discrete(5), "not a Box"),
        (spaces.Dict({"image": box((4, 4))}), "not a Box"),
        (spaces.MultiBinary(4), "not a Box"),
        (box((8, 8, 3), np.float32, -np.inf, np.inf), "without finite bounds"),
        (box((8, 8, 3), np.float32, 0, np.inf), "without finite bounds"),
        (box((8, 8, 3), np.float32, -3e38, 3e38), r"more than 2\*\*24 apart"),
        (box((2, 8, 8, 3)), "4 dimensions"),
        (box(()), "0 dimensions"),
        (box((0,), np.float32), "empty"),
    ],
)
def test_unsupported_observations(space, why):
    with pytest.raises(UnsupportedSpaceError, match=why) as caught:
        ObservationAdapter(space, 64)
    message = str(caught.value)
    assert "\n" not in message
    assert "supported: a Box image" in message
    assert type(space).__name__ in message


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
    for space in (box((2,), np.float32, -1, 1), spaces.MultiDiscrete([2, 2]), spaces.Discrete(1)):
        with pytest.raises(UnsupportedSpaceError, match=r"action space .* is not supported"):
            ActionAdapter(space)


def test_adapted_env_maps_both_ways(scripted):
    space = box((3, 6, 8), np.float32, 0, 1)
    obs = np.ones((3, 6, 8), np.float32)
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


def test_the_seed_is_used_once(scripted):
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


def test_what_is_no_gymnasium_env():
    with pytest.raises(EnvError, match=r"OldGym is not a gymnasium\.Env; .* old Gym API"):
        adapt(OldGym())
    with pytest.raises(EnvError, match="NoSpaces has no observation_space"):
        adapt(NoSpaces())


@pytest.mark.parametrize("limit", [0, -1, 2.0, True])
def test_bad_time_limit(scripted, limit):
    with pytest.raises(EnvError, match="max_episode_steps must be a positive integer"):
        adapt(scripted(), max_episode_steps=limit)
