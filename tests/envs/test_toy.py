from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check

from drama.envs import Catch, Recall, Sparse, make_env
from drama.envs.toy import GREEN, RED
from drama.errors import EnvError

IDS = (
    "drama/Catch-v0",
    "drama/Recall-v0",
    "drama/Recall8-v0",
    "drama/Recall32-v0",
    "drama/Recall128-v0",
    "drama/Sparse-v0",
)


def play(env, policy, episodes):
    returns = []
    for _ in range(episodes):
        env.reset()
        total, over = 0.0, False
        while not over:
            _, reward, terminated, truncated, _ = env.step(policy(env))
            total += reward
            over = terminated or truncated
        returns.append(total)
    return np.array(returns)


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasiums_checker_passes(env_id):
    gymnasium_check(gym.make(env_id, render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("env_id", IDS)
def test_optimal_policy_reaches_the_stated_optimum(env_id):
    env = make_env(env_id, seed=1)
    returns = play(env, lambda env: env.unwrapped.optimal_action(), 100)
    assert (returns == env.unwrapped.optimum).all()


@pytest.mark.parametrize("env_id", ["drama/Catch-v0", "drama/Recall8-v0", "drama/Sparse-v0"])
def test_random_policy_has_the_stated_mean(env_id):
    env = make_env(env_id, seed=2)
    rng = np.random.default_rng(3)
    returns = play(env, lambda env: int(rng.integers(env.action_space.n)), 600)
    error = returns.std() / np.sqrt(len(returns))
    assert error < 0.05
    assert abs(returns.mean() - env.unwrapped.random_return) < 3 * error


def test_random_return_of_catch_is_exact():
    # The paddle's place is a distribution over 8 columns; the ball's column is independent of it.
    paddle = np.zeros(8)
    paddle[2:6] = 1 / 4
    for _ in range(7):
        moved = np.zeros(8)
        for column in range(8):
            for move in (-1, 0, 1):
                moved[min(max(column + move, 0), 7)] += paddle[column] / 3
        paddle = moved
    caught = (paddle / 8).sum()
    assert 2 * caught - 1 == pytest.approx(Catch.random_return)


def test_random_return_of_sparse_is_exact():
    """Success probability of 96 random actions, backwards over time, for every layout."""
    left = [row * 8 + column for row in range(8) for column in range(4)]
    right = [row * 8 + column for row in range(8) for column in range(5, 8)]

    def successors(has_key, door):
        table = np.empty((4, 64), int)
        for cell in range(64):
            row, column = divmod(cell, 8)
            for action, (down, across) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
                r, c = row + down, column + across
                free = 0 <= r < 8 and 0 <= c < 8 and (c != 4 or (has_key and r == door))
                table[action, cell] = r * 8 + c if free else cell
        return table

    total = 0.0
    for door in range(8):
        after = np.zeros((97, 64, len(right)))  # (steps left, cell, goal), holding the key
        after[:, right, range(len(right))] = 1
        moves = successors(True, door)
        for left_over in range(1, 97):
            after[left_over] = after[left_over - 1][moves].mean(0)
            after[left_over, right, range(len(right))] = 1
        with_key = after.mean(2)  # the goal is uniform over the right room
        moves = successors(False, door)
        for key in left:
            before = np.zeros((97, 64))
            before[:, key] = with_key[:, key]
            for left_over in range(1, 97):
                before[left_over] = before[left_over - 1][moves].mean(0)
                before[left_over, key] = with_key[left_over, key]
            total += np.mean([before[96, start] for start in left if start != key])
    assert total / (8 * len(left)) == pytest.approx(Sparse.random_return, abs=5e-5)


@pytest.mark.parametrize("wasted", [0, 2])
def test_every_ball_can_be_caught_even_after_wasted_actions(wasted):
    env = Catch()
    starts = set()
    for seed in range(400):
        env.reset(seed=seed)
        ball, paddle = env._column, env._paddle
        starts.add((ball, paddle))
        for step in range(7):
            action = 1 if step < wasted else env.optimal_action()
            _, reward, terminated, _, _ = env.step(action)
            assert terminated == (step == 6)
        assert reward == 1.0
    assert len(starts) == 8 * 4


def test_missed_ball_has_reward_minus_one():
    env = Catch()
    env.reset(seed=0)
    rewards = [env.step(0 if env._column > 3 else 2)[1] for _ in range(7)]
    assert rewards == [0, 0, 0, 0, 0, 0, -1]


@pytest.mark.parametrize("gap", [0, 1, 8, 128])
def test_recall_shows_the_cue_only_before_the_gap(gap):
    pictures = {}
    for seed in range(30):
        env = Recall(gap)
        obs, _ = env.reset(seed=seed)
        frames = [obs] + [env.step(0)[0] for _ in range(gap + 2)]
        pictures[env._cue] = frames
    assert len(pictures) == 4
    for time_ in range(gap + 3):
        seen = {frames[time_].tobytes() for frames in pictures.values()}
        assert len(seen) == (4 if time_ < 2 else 1)


def test_recall_rewards_the_answer_only():
    for offset in range(4):
        env = Recall(gap=5)
        env.reset(seed=offset)
        answer = (env._cue + offset) % 4
        results = [env.step(answer) for _ in range(8)]
        assert [r[1] for r in results] == [0.0] * 7 + [1.0 if offset == 0 else -1.0]
        assert [r[2] for r in results] == [False] * 7 + [True]


@pytest.mark.parametrize("offset", [0, 1])
def test_the_final_frame_of_recall_shows_the_colour_again(offset):
    for seed in range(8):
        env = Recall(gap=2)
        first, _ = env.reset(seed=seed)
        answer = (env._cue + offset) % 4
        final = [env.step(answer)[0] for _ in range(5)][-1]
        assert np.array_equal(final[8:24, 8:24], first[8:24, 8:24])  # the block of 4 x 4 cells
        assert tuple(first[16, 16]) == Recall._COLOURS[env._cue]
        assert tuple(final[-1, 0]) == (GREEN if offset == 0 else RED)


def test_recall_length_follows_the_id():
    for gap, env_id in (
        (16, "drama/Recall-v0"),
        (8, "drama/Recall8-v0"),
        (32, "drama/Recall32-v0"),
    ):
        env = make_env(env_id, seed=0)
        env.reset()
        lengths = 0
        over = False
        while not over:
            over = env.step(0)[2]
            lengths += 1
        assert lengths == gap + 3
    env = make_env("drama/Recall-v0", env_kwargs={"gap": 3})
    env.reset()
    assert [env.step(0)[2] for _ in range(6)] == [False] * 5 + [True]


def test_sparse_needs_the_key_and_truncates_at_its_limit():
    env = make_env("drama/Sparse-v0", seed=0)
    env.reset()
    game = env.unwrapped
    game._agent, game._key, game._door, game._goal = (2, 3), (7, 0), 2, (2, 5)
    for step in range(96):
        _, reward, terminated, truncated, info = env.step(1)  # against the locked door
        assert (reward, terminated) == (0.0, False)
        assert truncated == (step == 95)
    assert game._agent == (2, 3)
    assert info["episode"]["l"] == 96
    env.reset()
    game._agent, game._door, game._goal, game._has_key = (2, 3), 2, (2, 5), True
    assert env.step(1)[1:3] == (0.0, False)
    assert env.step(1)[1:3] == (1.0, True)


def test_the_longest_path_of_sparse():
    env = Sparse()
    env.reset(seed=0)
    longest = 0
    for start, key, door, goal in (
        ((0, 0), (7, 3), 0, (7, 7)),
        ((7, 3), (0, 0), 7, (0, 7)),
        ((0, 3), (7, 0), 0, (7, 7)),
    ):
        env._agent, env._key, env._door, env._goal = start, key, door, goal
        env._has_key = False
        steps, over = 0, False
        while not over:
            over = env.step(env.optimal_action())[2]
            steps += 1
        longest = max(longest, steps)
    assert longest == 31


def test_same_seed_repeats_the_episodes():
    def starts(seed):
        env = Catch()
        first = env.reset(seed=seed)[0]
        return [first.tobytes()] + [env.reset()[0].tobytes() for _ in range(9)]

    assert starts(5) == starts(5)
    assert starts(5) != starts(6)
    assert len(set(starts(5))) > 3


def test_rendering_and_bad_arguments():
    env = Recall(render_mode="rgb_array")
    obs, _ = env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (256, 256, 3)
    assert (picture[::8, ::8] == obs).all()
    with pytest.raises(EnvError, match="render_mode must be"):
        Catch(render_mode="human")
    for gap in (-1, 1.5, True):
        with pytest.raises(EnvError, match="gap must be"):
            Recall(gap=gap)
