from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from drama.envs import adapt, make_env
from drama.envs.survey import EnvSurvey
from drama.types import Transition

PICTURE = spaces.Box(0, 255, (16, 16, 3), np.uint8)


def surveyed(env, steps=200, *, skip=0, seed=0):
    """Step with random actions and survey all transitions but the first ``skip``."""
    env = adapt(env, seed=seed)
    survey, rng, rows = EnvSurvey(env), np.random.default_rng(seed), []
    obs, _ = env.reset()
    is_first = True
    for _ in range(steps):
        action = int(rng.integers(env.action_space.n))
        following, reward, terminated, truncated, _ = env.step(action)
        rows.append(Transition(obs, is_first, action, reward, terminated, truncated, False))
        obs, is_first = following, False
        if terminated or truncated:
            rows.append(Transition(obs, False, 0, 0.0, False, False, True))
            obs, _ = env.reset()
            is_first = True
    for row in rows[skip:]:
        survey.add(row)
    return survey


def findings(env, steps=200, **options):
    return surveyed(env, steps, **options).findings(seconds=0.0, replay_bytes=0)


class Walk(gym.Env):
    """A walk from a fixed or sampled start to the end of a line; one-hot observations."""

    action_space = spaces.Discrete(2)

    def __init__(self, space=PICTURE, *, value=255, fixed=False, reward=1.0, ends=True):
        self.observation_space = space
        self.value, self.fixed, self.reward, self.ends = value, fixed, reward, ends

    def show(self):
        obs = np.zeros(self.observation_space.shape, self.observation_space.dtype)
        obs.flat[self.place % obs.size] = self.value
        return obs

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 2 if self.fixed else int(self.np_random.integers(1, 4))
        return self.show(), {}

    def step(self, action):
        self.place += 2 * action - 1
        done = self.ends and self.place in (0, 6)
        return self.show(), self.reward if self.place > 5 else 0.0, done, False, {}


@pytest.mark.parametrize("value", [10, 31])
def test_codes_in_a_picture_are_reported(value):
    found = findings(Walk(value=value), steps=30)
    assert found == [
        f"the pictures are almost black (brightest value {value} of 255): they hold codes rather "
        "than colours, or the bounds of the observation space do not match"
    ]


@pytest.mark.parametrize(
    ("env", "found"),
    [
        (Walk(), None),
        (Walk(value=32), None),
        (Walk(spaces.Box(0, 10, (7, 7, 3), np.uint8), value=10), None),  # rescaled by its bounds
        (Walk(spaces.Box(-np.inf, np.inf, (9,)), value=3), None),
        (Walk(spaces.Box(-np.inf, np.inf, (9,)), value=101), "values beyond 100"),
        (Walk(spaces.Box(-1, 1, (64, 64, 3)), value=1), "read as vectors of 12,288 numbers"),
        (Walk(value=0), "every observation was the same"),
        (Walk(reward=0.0), "no reward in 200 random steps"),
        (Walk(ends=False), "no episode ended in 200 steps and no time limit is known"),
        (Walk(fixed=True), "every episode begins the same"),
    ],
)
def test_findings(env, found):
    lines = findings(env)
    assert any(found in line for line in lines) if found else lines == []


def test_few_steps_give_no_warning():
    assert findings(Walk(reward=0.0, ends=False), steps=49) == []
    assert len(findings(Walk(reward=0.0, ends=False), steps=50)) == 2


def test_a_survey_may_begin_within_an_episode():
    whole, part = surveyed(Walk()), surveyed(Walk(), skip=1)
    assert part.lengths == whole.lengths[1:]
    assert part.steps == whole.steps - 1
    assert EnvSurvey(adapt(Walk())).findings(seconds=0.0, replay_bytes=0) == []


def test_speed_and_memory_are_reported():
    survey = surveyed(Walk())
    found = survey.findings(seconds=4.0, replay_bytes=9 * 2**30)
    assert found == [
        "the environment is slow: 50 steps/s",
        "the replay buffer takes 9.0 GiB: lower image_size or the capacity",
    ]


@pytest.mark.parametrize(
    ("env_id", "expected"),
    [
        ("drama/Catch-v0", []),
        ("drama/Recall-v0", []),
        ("CartPole-v1", []),
        ("MountainCar-v0", ["every step had the same reward"]),
        ("ALE/Breakout-v5", []),
    ],
)
def test_known_environments_cause_no_false_warning(env_id, expected):
    found = findings(make_env(env_id), steps=1000)
    assert len(found) == len(expected)
    assert all(want in line for want, line in zip(expected, found, strict=True))
