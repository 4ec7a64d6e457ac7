"""Scores are compared with reference scores only under the same protocol."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import pytest
from gymnasium.wrappers import (
    ClipReward,
    RecordEpisodeStatistics,
    TransformReward,
)
from stable_baselines3.common.atari_wrappers import AtariWrapper
from stable_baselines3.common.monitor import Monitor
from tests.training.runs import episodes, tiny

import drama
from drama import Agent
from drama.envs.atari import Atari
from drama.evaluation import (
    ATARI100K,
    EpisodeResult,
    EvaluationResult,
    completed,
    departures,
    normalised_score,
)

SMALL = {
    "world_model.filters": (4, 4, 4),
    "training.world_model_ratio": 0.0,
    "training.behaviour_ratio": 0.0,
    "training.checkpoint_every": 10_000,
}


def result(id: str = "ALE/Pong-v5", env: Any = (), **protocol: Any) -> EvaluationResult:
    stamp = {"id": id, **ATARI100K, **dict(env)}
    return EvaluationResult("greedy", (EpisodeResult(0, 0.0, 9),), {**protocol, "env": stamp})


@pytest.mark.parametrize(
    ("env", "protocol", "why"),
    [
        ({"frame_skip": 2}, {}, "frame skip 2 instead of 4"),
        ({"noop_max": 0}, {}, "noop max 0 instead of 30"),
        ({"sticky_actions": 0.25}, {}, "sticky actions 0.25 instead of 0.0"),
        ({"full_action_space": True}, {}, "full action space true instead of false"),
        ({"max_episode_steps": 250}, {}, "max episode steps 250 instead of 27000"),
        ({"env_kwargs": {"mode": 1}}, {}, 'env kwargs {"mode": 1} instead of {}'),
        ({"frame_skip": None}, {}, "its protocol is unknown: the environment was not made by id"),
        ({}, {"wrappers": ["Flip"]}, "the environment is wrapped in Flip"),
        ({}, {"scored": "lives"}, "lost lives were scored"),
        ({"life_loss": True}, {}, "lost lives were scored"),  # of before this was recorded
        ({}, {"truncated_by_limit": 1, "step_limit": 500}, "truncated after 500 steps"),
    ],
)
def test_normalised_score_requires_the_reference_protocol(
    env: dict[str, Any], protocol: dict[str, Any], why: str
) -> None:
    found = result(env=env, **protocol)
    assert found.normalised is None
    assert why in str(found.normalised_reason)
    tree = found.to_dict()
    assert tree["normalised"] is None
    assert why in tree["normalised_reason"]


@pytest.mark.parametrize(
    ("env", "protocol"),
    [
        ({}, {}),
        ({"image_size": [96, 96]}, {"latents": "mode"}),
        ({"life_loss": True}, {"scored": "games"}),
        ({"env_kwargs": {"render_mode": "rgb_array"}}, {}),
    ],
)
def test_settings_that_keep_the_score_comparable(
    env: dict[str, Any], protocol: dict[str, Any]
) -> None:
    found = result(env=env, **protocol)
    assert found.normalised == pytest.approx(normalised_score("Pong", 0.0))
    assert found.normalised_reason is None


def test_other_games_have_neither_a_score_nor_a_reason() -> None:
    found = result("CartPole-v1", scored="lives")
    assert (found.normalised, found.normalised_reason) == (None, None)


def test_missing_fields_have_the_values_of_their_time() -> None:
    old = {"policy_latent": "prior", "env": {"id": "drama/Catch-v0"}}
    assert completed("greedy", old)["latents"] == "mode"
    assert completed("sampled", old)["latents"] == "sampled"
    assert completed("greedy", {**old, "latents": "sampled"})["latents"] == "sampled"
    assert completed("greedy", {"env": {"max_episode_steps": 108_000}})["step_limit"] == 108_000


@pytest.mark.parametrize("env_id", ["drama/Catch-v0", "drama/Recall8-v0", "drama/Sparse-v0"])
def test_built_in_games_use_the_registered_protocol(env_id: str) -> None:
    for env in (drama.make_env(env_id), gym.make(env_id, render_mode="rgb_array")):
        stamp = drama.envs.describe(env)
        assert departures("greedy", {"env": stamp}) == ()
    other = drama.make_env(env_id, max_episode_steps=5)
    (why,) = departures("greedy", {"env": drama.envs.describe(other)})
    assert why.startswith("max episode steps 5 instead of ")


def breakout(**options: Any) -> gym.Env[Any, Any]:
    Atari().register_ids("ALE/Breakout-v5")
    return gym.make("BreakoutNoFrameskip-v4", **options)


def monitored() -> gym.Env[Any, Any]:
    """As Stable-Baselines3's ``make_atari_env`` makes it."""
    return AtariWrapper(Monitor(breakout()))


def recorded() -> gym.Env[Any, Any]:
    return AtariWrapper(RecordEpisodeStatistics(breakout()))


def unmonitored() -> gym.Env[Any, Any]:
    return AtariWrapper(breakout())


def outside() -> gym.Env[Any, Any]:
    return RecordEpisodeStatistics(AtariWrapper(breakout()))


def outside_of_sb3() -> gym.Env[Any, Any]:
    return Monitor(AtariWrapper(breakout()))


@pytest.mark.parametrize("make", [monitored, recorded])
def test_games_are_scored_where_a_monitor_inside_reports_them(make: Any) -> None:
    agent = Agent(make, tiny(SMALL), seed=1)
    found = agent.evaluate(2, greedy=False, num_envs=2)
    # Five lives, and the monitor counts frames: a life alone is far shorter than 500.
    assert found.protocol["scored"] == "games"
    assert all(episode.length > 500 for episode in found.episodes)
    assert found.normalised is None
    assert "not made by id" in str(found.normalised_reason)
    assert "AtariWrapper" in found.protocol["wrappers"]


@pytest.mark.parametrize("make", [unmonitored, outside, outside_of_sb3])
def test_episodes_that_end_at_lost_lives_are_labelled(make: Any) -> None:
    found = Agent(make, tiny(SMALL), seed=1).evaluate(2, greedy=False, num_envs=2)
    assert found.protocol["scored"] == "lives"
    assert all(episode.length < 200 for episode in found.episodes)
    assert found.normalised is None
    assert "lost lives were scored" in str(found.normalised_reason)


@pytest.mark.parametrize("inside", [False, True])
def test_gymnasiums_preprocessing_starts_a_new_game_after_each_life(inside: bool) -> None:
    def make() -> gym.Env[Any, Any]:
        env = breakout()
        if inside:  # it never sees the end of a game
            env = RecordEpisodeStatistics(env)
        return gym.wrappers.AtariPreprocessing(env, terminal_on_life_loss=True, screen_size=64)

    found = Agent(make, tiny(SMALL), seed=1).evaluate(2, greedy=False, num_envs=1)
    assert found.protocol["scored"] == "lives"
    assert found.normalised is None


def test_factory_with_life_loss_episodes_is_scored_by_games() -> None:
    agent = Agent(lambda: drama.make_env("ALE/Breakout-v5", 3), tiny(SMALL))
    found = agent.evaluate(1, greedy=False)
    assert found.protocol["env"]["life_loss"] is True
    assert found.protocol["scored"] == "games"
    assert found.episodes[0].length > 100
    assert found.normalised == pytest.approx(normalised_score("Breakout", found.mean))


@pytest.mark.parametrize("wrapper", [ClipReward, TransformReward])
def test_a_wrapped_game_has_no_normalised_score(wrapper: Any) -> None:
    def make() -> gym.Env[Any, Any]:
        env = drama.make_env("ALE/Breakout-v5", 3, life_loss=False)
        return ClipReward(env, -1, 1) if wrapper is ClipReward else wrapper(env, lambda r: -r)

    found = Agent(make, tiny(SMALL)).evaluate(1, greedy=False)
    assert found.mean >= 0  # the monitor's, of the game itself
    assert found.normalised is None
    assert wrapper.__name__ in str(found.normalised_reason)


@pytest.mark.parametrize(("make", "games"), [(monitored, True), (outside, False)])
def test_the_log_of_episodes_never_mixes_lives_and_games(
    make: Any, games: bool, tmp_path: Any
) -> None:
    agent = Agent(make, tiny({**SMALL, "training.warmup_steps": 400}), seed=1)
    agent.learn(400, run_dir=tmp_path / "run")
    lengths = [row["length"] for row in episodes(tmp_path / "run")]
    assert lengths
    # A game of five lives in frames, or one life in steps.
    assert all((length > 500) == games for length in lengths)
    assert len(lengths) > 3 or games
