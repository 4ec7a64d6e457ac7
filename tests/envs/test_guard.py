from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from drama.envs import FaultGuard, adapt
from drama.errors import EnvFaultError

GREY = spaces.Box(0, 255, (4, 4), np.uint8)
UNIT = spaces.Box(0, 1, (4, 4), np.float32)
VECTOR = spaces.Box(-1, 1, (2,), np.float32)
FREE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
WIDE = spaces.Box(-np.inf, np.inf, (2,), np.float64)
FEW = spaces.Box(0, 5, (4, 4), np.uint8)
WHOLE = spaces.Box(0, 5, (2,), np.int64)


def filled(space, value, dtype=None):
    return np.full(space.shape, value, dtype or space.dtype)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("space", "obs", "what"),
    [
        (GREY, filled(GREY, 0, np.float32), r"is \(4, 4\) float32, its space says \(4, 4\) uint8"),
        (GREY, filled(GREY, 256, np.int64), r"is \(4, 4\) int64, its space says"),
        (GREY, filled(GREY, -1, np.int8), r"is \(4, 4\) int8, its space says"),
        (UNIT, filled(UNIT, 0, np.complex64), r"is \(4, 4\) complex64, its space says"),
        (WHOLE, np.zeros(2), r"is \(2,\) float64, its space says \(2,\) int64"),
        (FREE, np.array([2**24 + 1, 0]), r"is \(2,\) int64, its space says \(2,\) float32"),
        (FREE, np.array([0, 1e300]), "contains Inf"),
        (FREE, np.array(None), r"is \(\) object, its space says"),
        (FREE, {"a": 1}, r"is {'a': 1}, its space says"),
        (FREE, "12", "is '12', its space says"),
        (FREE, [[0.0], [0.0, 1.0]], "its space says"),
        (FREE, [0.0, "a"], "its space says"),
        (VECTOR, [0.0, 1.5], "reaches from 0 to 1.5"),
        (GREY, np.zeros((4, 5), np.uint8), r"shape \(4, 5\), its space says \(4, 4\)"),
        (GREY, [[0] * 4] * 3, r"shape \(3, 4\), its space says \(4, 4\)"),
        (GREY, [[0.5] * 4] * 4, "its space says"),
        (UNIT, filled(UNIT, np.nan), "contains NaN"),
        (UNIT, filled(UNIT, 1.5), "reaches from 1.5 to 1.5, its space says 0 to 1"),
        (UNIT, filled(UNIT, -0.1), "reaches from -0.1"),
        (VECTOR, np.array([0, -2], np.float32), "reaches from -2 to 0"),
        (FREE, np.array([0, np.inf], np.float32), "contains Inf"),
        (WIDE, np.array([0, 1e300]), "reaches from 0 to 1e"),
        (FEW, filled(FEW, 6), "reaches from 6 to 6, its space says 0 to 5"),
    ],
)
def test_bad_observations(scripted, space, obs, what):
    env = adapt(scripted([None, (obs, 0.0, False, False, {})], observation_space=space))
    env.reset()
    env.step(0)
    with pytest.raises(EnvFaultError, match=f"Scripted at step 2 of an episode.*{what}") as caught:
        env.step(0)
    assert "\n" not in str(caught.value)
    with pytest.raises(EnvFaultError, match=rf"Scripted at reset \(0 steps in all\): .*{what}"):
        adapt(scripted(first=obs, observation_space=space)).reset()


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (UNIT, filled(UNIT, 1 + 1e-6)),  # a rounding error at the bound
        (VECTOR, np.array([-1, 1], np.float32)),
        (FREE, np.array([-1e30, 1e30], np.float32)),
        (WIDE, np.array([-1e30, 1e30])),
        (FEW, filled(FEW, 5)),
        (spaces.Box(0, 1, (2,), bool), np.array([True, False])),
        (spaces.Box(np.array([0, -np.inf]), np.array([1, 9]), dtype=np.float64), np.array([1, -5])),
    ],
)
def test_valid_observations_pass(scripted, space, obs):
    obs = obs.astype(space.dtype)
    env = FaultGuard(scripted([(obs, 0, False, False, {})], observation_space=space))
    env.reset()
    assert env.step(0)[0] is obs


@pytest.mark.parametrize(
    ("space", "obs", "note"),
    [
        (VECTOR, np.array([0.1, 1]), r"observations come as \(2,\) float64: converted to float32"),
        (WIDE, np.array([0.5, 1], np.float32), r"come as \(2,\) float32: converted to float64"),
        (VECTOR, np.array([0, 1]), r"come as \(2,\) int64: converted to float32"),
        (VECTOR, [0.5, 1], "come as list: converted to float32"),
        (VECTOR, (np.float32(0.5), 1), "come as tuple: converted to float32"),
        (spaces.Box(-1, 1, (), np.float32), np.float32(0.5), "come as float32: converted"),
        (GREY, filled(GREY, 200, np.int64), r"come as \(4, 4\) int64: converted to uint8"),
        (GREY, [[0, 7, 0, 255]] * 4, "come as list: converted to uint8"),
    ],
)
def test_conversions_are_noted_once(scripted, space, obs, note):
    script = [(obs, 0.0, False, False, {})] * 3
    env = FaultGuard(scripted(script, first=obs, observation_space=space))
    seen = [env.reset()[0], *(env.step(0)[0] for _ in range(3))]
    assert all((one.dtype, one.shape) == (space.dtype, space.shape) for one in seen)
    assert np.array_equal(seen[-1], np.asarray(obs).astype(space.dtype))
    assert len(env.notes) == 1
    assert re.fullmatch(f"Scripted: .*{note}.*", env.notes[0])


@pytest.mark.faults
@pytest.mark.parametrize(
    ("reward", "what"),
    [
        (np.nan, "the reward is nan"),
        (np.float32(np.inf), "the reward is inf"),
        (None, "the reward is None, not a number"),
        (np.zeros(2), "not a number"),
        ("a", "the reward is 'a', not a number"),
        ("1.5", "the reward is '1.5', not a number"),
        (1j, "the reward is 1j, not a number"),
        (np.complex64(1), "not a number"),
        ({}, "not a number"),
        ([1.0, 2.0], "not a number"),
        (np.array([np.nan]), "the reward is nan"),
        (1e39, r"the reward is 1e\+39, beyond float32"),
    ],
)
def test_bad_rewards(scripted, reward, what):
    raw = scripted()
    raw.script = [None, None, (raw.sound(), reward, False, False, {})]
    env = adapt(raw)
    for _ in range(2):
        env.reset()
        env.step(0)
        env.step(0)
    with pytest.raises(EnvFaultError, match=rf"step 3 of an episode \(5 steps in all\): .*{what}"):
        env.step(0)


@pytest.mark.parametrize("reward", [1, True, np.int64(1), np.float32(1), np.array(1.0)])
def test_rewards_become_floats(scripted, reward):
    raw = scripted()
    raw.script = [(raw.sound(), reward, False, np.bool_(True), {})]
    env = adapt(raw)
    env.reset()
    _, value, terminated, truncated, _ = env.step(0)
    assert type(value) is float
    assert value == 1.0
    assert terminated is False
    assert truncated is True


@pytest.mark.parametrize("reward", [np.array([1.5]), np.array([[1.5]], np.float32), [1.5]])
def test_a_reward_in_an_array_is_noted_once(scripted, reward):
    raw = scripted()
    raw.script = [(raw.sound(), reward, False, False, {})] * 2
    env = FaultGuard(raw)
    env.reset()
    assert [env.step(0)[1] for _ in range(2)] == [1.5, 1.5]
    assert len(env.notes) == 1
    assert env.notes[0].endswith("taken as plain numbers")


@pytest.mark.parametrize("flag", [True, np.bool_(True), 1, 1.0, np.int64(1), np.array(True)])
def test_flags_become_bools(scripted, flag):
    raw = scripted()
    raw.script = [(raw.sound(), 0, flag, 0, {})]
    env = FaultGuard(raw)
    env.reset()
    *_, terminated, truncated, _ = env.step(0)
    assert terminated is True
    assert truncated is False
    assert env.notes == []


def test_a_flag_in_an_array_is_noted_once(scripted):
    raw = scripted()
    raw.script = [(raw.sound(), 0, np.array([True]), False, {})]
    env = FaultGuard(raw)
    env.reset()
    assert env.step(0)[2] is True
    assert env.notes == ["Scripted: terminated comes as (1,) bool: taken as True or False"]


@pytest.mark.faults
@pytest.mark.parametrize("flag", [None, "False", 2, np.nan, np.zeros(2, bool), [], {}])
@pytest.mark.parametrize("name", ["terminated", "truncated"])
def test_bad_flags(scripted, name, flag):
    raw = scripted()
    flags = (flag, False) if name == "terminated" else (False, flag)
    raw.script = [(raw.sound(), 0, *flags, {})]
    env = adapt(raw)
    env.reset()
    with pytest.raises(EnvFaultError, match=f"step 1 .*: {name} is .*, not True or False"):
        env.step(0)


@pytest.mark.faults
@pytest.mark.parametrize("info", [None, [], "a"])
def test_bad_infos(scripted, info):
    raw = scripted()
    raw.script = [(raw.sound(), 0, False, False, info)]
    env = adapt(raw)
    env.reset()
    with pytest.raises(EnvFaultError, match=r"step 1 .*: info is .*, not a dictionary"):
        env.step(0)
    raw.reset = lambda **_: (raw.sound(), info)
    with pytest.raises(EnvFaultError, match=r"at reset .*: info is .*, not a dictionary"):
        adapt(raw).reset()


class OldStep(gym.Env):
    observation_space = GREY
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros((4, 4), np.uint8), {}

    def step(self, action):
        return np.zeros((4, 4), np.uint8), 0.0, False, {}


class OldReset(OldStep):
    def reset(self, *, seed=None, options=None):
        return np.zeros((4, 4), np.uint8)


class OldSignature(OldStep):
    def reset(self):
        return np.zeros((4, 4), np.uint8)


def test_old_gym_environments():
    for env in (adapt(OldStep()), adapt(TimeLimit(OldStep(), 10))):
        env.reset()
        with pytest.raises(EnvFaultError, match=r"step\(\) did not return .* old Gym API"):
            env.step(0)
    with pytest.raises(EnvFaultError, match=r"reset\(\) did not return \(obs, info\)"):
        adapt(OldReset()).reset()
    with pytest.raises(EnvFaultError, match=r"reset\(\) refused seed= or options="):
        adapt(OldSignature()).reset()


def test_errors_of_the_environment_pass_through(scripted):
    class Broken(OldStep):
        def step(self, action):
            raise ValueError("my own bug")

    env = adapt(Broken())
    env.reset()
    with pytest.raises(ValueError, match="my own bug"):
        env.step(0)
