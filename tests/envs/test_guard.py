from __future__ import annotations

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


def filled(space, value, dtype=None):
    return np.full(space.shape, value, dtype or space.dtype)


@pytest.mark.parametrize(
    ("space", "obs", "what"),
    [
        (GREY, filled(GREY, 0, np.int64), "dtype int64, its space says uint8"),
        (GREY, np.zeros((4, 5), np.uint8), r"shape \(4, 5\), its space says \(4, 4\)"),
        (GREY, [[0] * 4] * 4, "is a list, not a NumPy array"),
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
def test_sound_observations_pass(scripted, space, obs):
    obs = obs.astype(space.dtype)
    env = FaultGuard(scripted([(obs, 0, False, False, {})], observation_space=space))
    env.reset()
    assert env.step(0)[0] is obs


@pytest.mark.parametrize(
    ("reward", "what"),
    [
        (np.nan, "the reward is nan"),
        (np.float32(np.inf), "the reward is inf"),
        (None, "the reward is None, not a number"),
        (np.zeros(2), "not a number"),
        ("a", "the reward is 'a', not a number"),
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


def test_errors_of_the_environment_itself_pass_through(scripted):
    class Broken(OldStep):
        def step(self, action):
            raise ValueError("my own bug")

    env = adapt(Broken())
    env.reset()
    with pytest.raises(ValueError, match="my own bug"):
        env.step(0)
