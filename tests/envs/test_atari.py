# One file: a scripted game and real ones check the same wrappers.

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from drama.envs import LifeLossEpisodes, describe, make_env
from drama.errors import EnvError

# --- the life-loss wrapper against a game whose lives follow a script -------------------------


class Lives(gym.Env):
    """Lives after each step are scripted; the observation counts frames since the game began.

    A script entry is the number of lives, or a pair ``(lives, "over" | "cut")``.
    """

    observation_space = gym.spaces.Box(0, 255, (1,), np.uint8)
    action_space = gym.spaces.Discrete(3)

    def __init__(self, start, script):
        self.start, self.script = start, script
        self.game = 0
        self.time = 0
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.game += 1
        self.time = 0
        return np.array([0], np.uint8), {"lives": self.start, "game": self.game}

    def step(self, action):
        self.actions.append(action)
        entry = self.script[self.time] if self.time < len(self.script) else self.start
        lives, end = entry if isinstance(entry, tuple) else (entry, "")
        self.time += 1
        info = {"lives": lives, "game": self.game}
        return np.array([self.time], np.uint8), 1.0, end == "over", end == "cut", info


def learner(start, script, statistics=True):
    game = Lives(start, script)
    env = RecordEpisodeStatistics(game) if statistics else game
    return LifeLossEpisodes(env), game


def test_a_lost_life_ends_the_episode_but_not_the_game():
    env, game = learner(3, [3, 2, 2, 2, 2])
    env.reset()
    assert env.step(1)[2:4] == (False, False)
    obs, _, terminated, truncated, info = env.step(2)
    assert (terminated, truncated, info["life_lost"]) == (True, False, True)
    assert "episode" not in info
    obs, info = env.reset()
    assert game.game == 1
    assert game.actions == [1, 2, 0]  # the no-op
    assert obs.tolist() == [3]
    assert info["lives"] == 2
    _, _, terminated, _, info = env.step(1)
    assert (terminated, info["life_lost"]) == (False, False)


def test_a_death_right_after_a_bonus_life_counts():
    # 3 -> 4 is the bonus; the fall back to 3 is a death although 3 is where the counter began.
    env, _ = learner(3, [3, 4, 3, 3, 4, 4, 3])
    env.reset()
    assert [env.step(1)[2] for _ in range(3)] == [False, False, True]
    env.reset()  # takes the fourth entry
    assert [env.step(1)[2] for _ in range(3)] == [False, False, True]


def test_a_bonus_life_won_in_the_no_op_counts():
    env, _ = learner(3, [2, 3, 2])
    env.reset()
    assert env.step(1)[2]
    env.reset()  # 2 -> 3
    _, _, terminated, _, info = env.step(1)
    assert (terminated, info["life_lost"]) == (True, True)


def test_the_last_death_counts_once_and_the_game_restarts():
    env, game = learner(2, [1, 1, (0, "over")])
    env.reset()
    assert env.step(1)[2]
    env.reset()
    _, _, terminated, truncated, info = env.step(1)
    assert (terminated, truncated, info["life_lost"]) == (True, False, False)
    assert (info["episode"]["r"], info["episode"]["l"]) == (3.0, 3)  # the whole game, no-op too
    obs, info = env.reset()
    assert game.game == 2
    assert obs.tolist() == [0]
    assert "episode" not in info


def test_a_last_life_numbered_zero_is_played():
    env, game = learner(1, [0, 0, 0, (0, "over")])
    env.reset()
    assert env.step(1)[4]["life_lost"]
    env.reset()
    assert env.step(1)[2] is False
    assert env.step(1)[2:4] == (True, False)
    env.reset()
    assert game.game == 2


@pytest.mark.parametrize("end", ["over", "cut"])
def test_a_game_that_ends_in_the_no_op_is_reset_and_reported(end):
    env, game = learner(2, [1, (0, end)])
    env.reset()
    env.step(1)
    obs, info = env.reset()
    assert game.game == 2
    assert obs.tolist() == [0]
    assert info["lives"] == 2
    assert (info["episode"]["r"], info["episode"]["l"]) == (2.0, 2)
    assert env.step(1)[4]["life_lost"] is True  # the counter was reset as well: 2 -> 1


def test_a_life_lost_in_the_no_op_ends_nothing():
    env, game = learner(3, [2, 1, 1])
    env.reset()
    env.step(1)
    _, info = env.reset()
    assert info["lives"] == 1
    assert env.step(1)[2] is False
    assert game.game == 1


def test_a_death_at_the_time_limit_is_both():
    env, game = learner(3, [(2, "cut")])
    env.reset()
    _, _, terminated, truncated, info = env.step(1)
    assert (terminated, truncated, info["life_lost"]) == (True, True, False)
    env.reset()
    assert game.game == 2


def test_seeded_and_early_resets_are_real():
    env, game = learner(3, [2, 2, 2])
    env.reset()
    env.step(1)
    env.reset(seed=1)
    assert game.game == 2
    env.step(1)
    env.reset(options={"x": 1})
    assert game.game == 3
    env.step(1)
    env.reset()
    assert game.game == 3  # life lost: the game goes on
    env.step(1)
    env.reset()
    assert game.game == 4  # in the middle of an episode


# --- real games -------------------------------------------------------------------------------


def random_steps(env, count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield env.step(int(rng.integers(env.action_space.n)))


def test_default_protocol_is_that_of_the_paper():
    env = make_env("ALE/Pong-v5", seed=0)
    assert env.observation_space == gym.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(6)
    ale = env.unwrapped.ale
    assert ale.getFloat("repeat_action_probability") == 0.0
    assert ale.getInt("max_num_frames_per_episode") == 0  # the time limit is the only cap
    _, info = env.reset()
    assert 1 <= info["episode_frame_number"] <= 30
    frames = [step[4]["episode_frame_number"] for step in random_steps(env, 5)]
    assert np.diff(frames).tolist() == [4] * 4
    stamp = describe(env)
    assert {key: stamp[key] for key in ("id", "frame_skip", "noop_max", "sticky_actions")} == {
        "id": "ALE/Pong-v5",
        "frame_skip": 4,
        "noop_max": 30,
        "sticky_actions": 0.0,
    }
    assert stamp["life_loss"] is True
    assert stamp["max_episode_steps"] == 27_000
    assert stamp["num_actions"] == 6
    assert stamp["image_size"] == [64, 64]


def test_other_settings():
    env = make_env(
        "ALE/Pong-v5",
        image_size=84,
        frame_skip=2,
        noop_max=0,
        sticky_actions=0.25,
        full_action_space=True,
        life_loss=False,
        env_kwargs={"difficulty": 1},
    )
    assert env.observation_space.shape == (84, 84, 3)
    assert env.action_space.n == 18
    assert env.unwrapped.ale.getFloat("repeat_action_probability") == 0.25
    assert env.reset()[1]["episode_frame_number"] == 0
    assert env.step(0)[4]["episode_frame_number"] == 2
    stamp = describe(env)
    assert stamp["max_episode_steps"] == 54_000
    assert stamp["life_loss"] is False
    assert stamp["env_kwargs"] == {"difficulty": 1}


def test_breakout_life_loss():
    env = make_env("ALE/Breakout-v5", seed=0)
    env.reset()
    lives, total, steps, ends = 5, 0.0, 0, []
    rng = np.random.default_rng(0)
    while True:
        _, reward, terminated, truncated, info = env.step(int(rng.integers(4)))
        total += reward
        steps += 1
        assert terminated == (info["lives"] < lives)
        if not terminated:
            continue
        ends.append(info["life_lost"])
        if "episode" in info:
            break
        lives = info["lives"]
        before = info["episode_frame_number"]
        _, info = env.reset()
        assert info["lives"] == lives
        assert info["episode_frame_number"] == before + 4  # the game goes on, one no-op later
    assert ends == [True] * 4 + [False]
    assert not truncated
    assert info["lives"] == 0
    assert info["episode"]["r"] == total  # no-ops earn nothing in Breakout
    assert info["episode"]["l"] == steps + 4
    assert env.reset()[1]["lives"] == 5


def test_evaluation_plays_whole_games():
    env = make_env("ALE/Breakout-v5", seed=0, life_loss=False)
    env.reset()
    info = next(step[4] for step in random_steps(env, 1000) if step[2])
    assert info["lives"] == 0
    assert "episode" in info


def test_bank_heist_plays_its_last_life_at_zero():
    env = make_env("ALE/BankHeist-v5", seed=0)
    env.reset()
    deaths = []
    for _, _, terminated, _, info in random_steps(env, 1500):
        if terminated:
            deaths.append((info["lives"], info["life_lost"]))
            if "episode" in info:
                break
            env.reset()
    assert deaths == [(3, True), (2, True), (1, True), (0, True), (0, False)]


def test_freeway_terminates_by_its_clock():
    env = make_env("ALE/Freeway-v5", seed=0, noop_max=0)
    env.reset()
    over = False
    while not over:
        _, _, terminated, truncated, info = env.step(0)
        over = terminated or truncated
    assert (terminated, truncated) == (True, False)
    assert info["life_lost"] is False
    assert 2040 <= info["episode"]["l"] <= 2060


def test_the_time_limit_truncates_the_game():
    env = make_env("ALE/Pong-v5", seed=0, max_episode_steps=7)
    env.reset()
    ends = [step[2:4] for step in random_steps(env, 7)]
    assert ends == [(False, False)] * 6 + [(False, True)]
    assert env.reset()[1]["episode_frame_number"] <= 30


def test_the_picture_is_the_maximum_of_the_last_two_frames():
    cv2 = pytest.importorskip("cv2")
    env = make_env("ALE/Pong-v5", seed=0, noop_max=0)
    raw = gym.make(
        "ALE/Pong-v5", frameskip=1, repeat_action_probability=0.0, disable_env_checker=True
    )
    env.reset()
    raw.reset(seed=0)
    for _ in range(30):
        obs = env.step(3)[0]
        frames = [raw.step(3)[0] for _ in range(4)]
    pooled = np.maximum(frames[2], frames[3])
    assert (frames[2] != frames[3]).any()
    expected = cv2.resize(pooled, (64, 64), interpolation=cv2.INTER_AREA)
    assert (obs == expected).all()


def test_same_seed_repeats_the_run_and_episodes_differ():
    def run(seed):
        env = make_env("ALE/Pong-v5", seed=seed, max_episode_steps=20)
        starts, pictures = [], []
        for _ in range(5):
            obs, info = env.reset()
            starts.append(info["episode_frame_number"])
            pictures.append(obs)
            pictures += [step[0] for step in random_steps(env, 20)]
        return starts, np.stack(pictures)

    starts, pictures = run(3)
    again, same = run(3)
    assert starts == again
    assert (pictures == same).all()
    assert len(set(starts)) > 1
    assert run(4)[0] != starts


def test_every_atari_id_follows_the_protocol():
    env = make_env("PongNoFrameskip-v4", seed=0)
    assert env.observation_space.shape == (64, 64, 3)
    env.reset()
    first = env.step(0)[4]["episode_frame_number"]
    assert env.step(0)[4]["episode_frame_number"] == first + 4


def test_outer_time_limit_counts_steps_of_the_game():
    """A limit on the learner's episodes would never apply, since they are short."""
    game = Lives(3, [2] * 10)
    env = LifeLossEpisodes(TimeLimit(game, 3))
    env.reset()
    assert env.step(1)[2:4] == (True, False)
    env.reset()
    assert env.step(1)[2:4] == (False, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_kwargs": {"frameskip": 4}}, r"set frame_skip instead of env_kwargs\['frameskip'\]"),
        ({"env_kwargs": {"obs_type": "ram"}}, "'obs_type'. is fixed by the Atari protocol"),
        ({"env_kwargs": {"difficulty": 99}}, r"ALE/Pong-v5 could not be made with env_kwargs"),
        ({"env_kwargs": {"colour": 1}}, "could not be made with env_kwargs .*colour"),
        ({"frame_skip": 0}, "frame_skip must be at least 1, got 0"),
        ({"noop_max": -1}, "noop_max must be at least 0, got -1"),
        ({"sticky_actions": 1.0}, r"sticky_actions must be in \[0, 1\), got 1.0"),
        ({"sticky_actions": float("nan")}, r"sticky_actions must be in \[0, 1\), got nan"),
        ({"image_size": 0}, "image_size must be a positive integer or None, got 0"),
        ({"max_episode_steps": 0}, "max_episode_steps must be a positive integer or None, got 0"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(EnvError, match=message) as caught:
        make_env("ALE/Pong-v5", **arguments)
    assert "\n" not in str(caught.value)
