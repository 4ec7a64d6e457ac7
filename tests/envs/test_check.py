from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from drama.envs import check_env, make_env
from drama.errors import EnvError, EnvFaultError, UnknownEnvError, UnsupportedSpaceError


class Plain(gym.Env):
    """Options that cause each warning."""

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def __init__(self, *, bright=255, still=False, reward=None, length=None, same_start=False):
        self.bright, self.still, self.reward = bright, still, reward
        self.length, self.same_start = length, same_start

    def picture(self):
        return np.full((16, 16, 3), 1 if self.still else self.rng.integers(self.bright), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=0 if self.same_start else seed)
        self.rng = self.np_random
        self.time = 0
        return self.picture(), {}

    def step(self, action):
        self.time += 1
        reward = float(action) if self.reward is None else self.reward
        return self.picture(), reward, self.time == self.length, False, {}


def test_report_of_catch():
    report = check_env("drama/Catch-v0", steps=70, seed=1)
    assert report.env_id == "drama/Catch-v0"
    assert report.leaves[0].raw == report.leaves[0].adapted
    assert report.leaves[0].adapted.shape == (32, 32, 3)
    assert report.leaves[0].adapted.dtype == "uint8"
    assert (report.leaves[0].adapted.low, report.leaves[0].adapted.high) == (16, 250)
    assert report.action_names == ("LEFT", "NOOP", "RIGHT")
    assert report.num_actions == 3
    assert report.episode_lengths == (7,) * 10
    assert (report.terminated, report.truncated) == (10, 0)
    assert report.reward_min == -1
    assert report.reward_nonzero == pytest.approx(10 / 70)
    assert report.deterministic is True
    assert report.episodes_differ is True
    assert report.replay_bytes == 100_000 * 32 * 32 * 3
    assert report.steps_per_second > 1000
    assert report.warnings == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.steps = 1


def test_report_of_a_vector_and_a_time_limit():
    report = check_env("MountainCar-v0", steps=250, replay_capacity=1000)
    assert report.leaves[0].adapted.shape == (2,)
    assert report.replay_bytes == 1000 * 2 * 4
    assert report.episode_lengths == (200,)
    assert (report.terminated, report.truncated) == (0, 1)
    assert report.protocol["max_episode_steps"] == 200


def test_report_of_atari():
    report = check_env("ALE/Breakout-v5", steps=100, noop_max=5, life_loss=False)
    assert report.action_names == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert report.protocol["noop_max"] == 5
    assert report.deterministic is True


def test_rendered_report_has_every_part():
    text = check_env("drama/Recall8-v0", steps=40).render()
    for part in (
        "drama/Recall8-v0",
        "(32, 32, 3) uint8",
        "4 (RED, GREEN, BLUE, YELLOW)",
        "3 finished, 3 terminated, 0 truncated",
        "steps/s",
        "307 MB for 100,000 transitions",
        "no warnings",
    ):
        assert part in text
    warned = check_env(Plain(still=True), steps=30)
    assert all(f"warning: {line}" in warned.render() for line in warned.warnings)


@pytest.mark.parametrize(
    ("causes", "warning"),
    [
        ({"still": True}, "every observation was the same"),
        ({"bright": 10}, "almost black"),
        ({"reward": 0.0}, "no reward in 60 random steps"),
        ({"reward": 1.0}, "every step had the same reward"),
        ({"length": None}, "no episode ended"),
        ({"length": 1}, "every episode lasted one step"),
        ({"length": 10}, "terminated after exactly 10 steps"),
        ({"same_start": True}, "every episode begins the same"),
    ],
)
def test_warnings(causes, warning):
    quiet = {"length": 13}
    assert not any(warning in line for line in check_env(Plain(**quiet), steps=60).warnings)
    report = check_env(Plain(**{**quiet, **causes}), steps=60)
    assert any(warning in line for line in report.warnings)
    assert report.deterministic is None


def test_other_warnings(scripted):
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    far = np.array([0, 1e4], np.float32)
    report = check_env(scripted(first=far, observation_space=space), steps=3)
    assert any("beyond 100" in line for line in report.warnings)
    report = check_env("drama/Catch-v0", steps=10, replay_capacity=10_000_000)
    assert any("28.6 GiB" in line for line in report.warnings)


def test_a_nondeterministic_environment_is_reported():
    class Unseeded(Plain):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=None)

    gym.register("test/Unseeded-v0", lambda: Unseeded(length=5))
    try:
        report = check_env("test/Unseeded-v0", steps=20)
    finally:
        del gym.registry["test/Unseeded-v0"]
    assert report.deterministic is False
    assert any("same seed" in line for line in report.warnings)


def test_checked_objects_stay_usable():
    env = make_env("drama/Catch-v0", seed=0)
    adapter = env.adapt_observation
    assert check_env(env, steps=20).leaves[0].adapted.shape == (32, 32, 3)
    assert env.adapt_observation is adapter
    env.reset()
    env.step(0)


def test_errors(scripted):
    with pytest.raises(EnvError, match="steps and replay_capacity must be at least 1"):
        check_env("drama/Catch-v0", steps=0)
    with pytest.raises(EnvError, match="noop_max: only usable with an id"):
        check_env(scripted(), noop_max=1)
    with pytest.raises(UnknownEnvError):
        check_env("drama/Cach-v0")
    with pytest.raises(UnsupportedSpaceError):
        check_env(scripted(observation_space=spaces.Text(3)))
    for wrong in (None, object(), 5, gym.make_vec("CartPole-v1", vectorization_mode="sync")):
        with pytest.raises(EnvError, match=r"is not a gymnasium\.Env"):
            check_env(wrong)
    with pytest.raises(EnvFaultError, match="the reward is nan"):
        check_env(scripted([(np.zeros((4, 4, 3), np.uint8), np.nan, False, False, {})]))


def test_conversions_are_reported(scripted):
    space = spaces.Box(-1, 1, (2,), np.float32)
    env = scripted(first=np.zeros(2), observation_space=space)
    note = "Scripted: observations come as (2,) float64: converted to float32, as declared"
    assert note in check_env(env, steps=3).warnings


def test_the_report_states_the_map_of_observations(scripted):
    space = spaces.Box(-1, 1, (4, 8), np.float32)
    report = check_env(scripted(observation_space=space), steps=3)
    assert report.leaves[0].reading == "vector of 32 from (4, 8) float32, flattened"
    assert report.leaves[0].reading in report.render()
