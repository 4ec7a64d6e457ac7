"""Evaluation: whole episodes, shared evenly over environments, no change of the agent."""

# One file: the tests share the recorded environment and the player.

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.wrappers import TransformReward
from tests.training.faulty_envs import Crash, Walk, env_id
from tests.training.runs import differences, everything, global_random_state, tiny

import drama
from drama import Agent
from drama.actions import ActionSpace
from drama.config import BehaviourConfig, EvaluationConfig
from drama.envs import adapt
from drama.errors import ConfigError, EnvError
from drama.evaluation import ATARI100K, EpisodeResult, EvaluationResult, evaluate


class Timed(Walk):
    """Episodes of ``length`` steps, reward 1 each; records the calls."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.seeds: list[int | None] = []
        self.closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.seeds.append(seed)
        return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 1.0, terminated, truncated, info

    def close(self) -> None:
        self.closed = True


class Recorder:
    """Acts at random; records which rows were reset."""

    config = BehaviourConfig()
    actions = ActionSpace(2)

    def __init__(self) -> None:
        self.world_model = torch.nn.Identity()
        self.starts: list[list[bool]] = []
        self.acted: set[tuple[str, str]] = set()

    def init_state(self, batch_size: int) -> None:
        return None

    def act(
        self,
        obs: torch.Tensor,
        state: None,
        is_first: torch.Tensor,
        generator: torch.Generator,
        *,
        latents: str,
        actions: str,
    ) -> tuple[torch.Tensor, None]:
        assert obs.shape == (len(is_first), 3)
        self.starts.append(is_first.tolist())
        self.acted.add((latents, actions))
        return torch.randint(2, (len(is_first),), generator=generator), None


def play(
    lengths: list[int], episodes: int, *, greedy: bool = True, **options: Any
) -> tuple[Any, list[Timed], Recorder]:
    envs = [Timed(n) for n in lengths]
    player = Recorder()
    result = evaluate(
        player,  # type: ignore[arg-type]
        lambda i: adapt(envs[i]),
        EvaluationConfig(**{"episodes": episodes, "num_envs": len(lengths), "seed": 50, **options}),
        greedy=greedy,
        protocol={},
    )
    return result, envs, player


def test_every_environment_finishes_its_share_of_episodes() -> None:
    # The first 10 episodes to finish would nearly all have length 1.
    result, envs, player = play([1, 10, 100, 3], 10)
    assert [e.env for e in result.episodes] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3]
    assert [e.length for e in result.episodes] == [1] * 3 + [10] * 3 + [100] * 2 + [3] * 2
    assert [e.ret for e in result.episodes] == [e.length for e in result.episodes]
    assert result.mean == pytest.approx((3 + 30 + 200 + 6) / 10)
    assert [env.total for env in envs] == [3, 30, 200, 6]  # no step beyond its share
    assert len(player.starts) == 200


def test_rows_are_reset_exactly_after_episode_ends() -> None:
    _, _, player = play([2, 3], 4)
    first, second = zip(*player.starts, strict=True)
    assert first[:4] == (True, False, True, False)
    assert second == (True, False, False, True, False, False)


def test_seeds_count_up_and_are_used_once() -> None:
    _, envs, _ = play([2, 3], 5)
    assert [env.seeds for env in envs] == [[50, None, None], [51, None]]


def test_no_more_environments_than_episodes() -> None:
    result, envs, player = play([4, 4, 4, 4, 4], 2)
    assert [e.env for e in result.episodes] == [0, 1]
    assert [env.total for env in envs] == [4, 4, 0, 0, 0]
    assert result.protocol["num_envs"] == 2
    assert player.starts[0] == [True, True]


@pytest.mark.parametrize("options", [{"episodes": 0}, {"num_envs": 0}, {"episodes": -3}])
def test_zero_episodes_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.(episodes|num_envs) must"):
        play([1], **{"episodes": 1, **options})


def test_environments_are_closed_even_if_one_raises() -> None:
    _, envs, _ = play([1, 2], 2)
    assert all(env.closed for env in envs)
    broken = Crash()
    broken.length = 1000
    fine = Timed(1000)
    made: list[gym.Env[Any, Any]] = [fine, broken]
    with pytest.raises(ZeroDivisionError):
        evaluate(
            Recorder(),  # type: ignore[arg-type]
            lambda i: adapt(made[i]),
            EvaluationConfig(episodes=2, num_envs=2, seed=0),
            greedy=True,
            protocol={},
        )
    assert fine.closed


def test_earlier_environments_are_closed_if_a_later_one_cannot_be_made() -> None:
    first = Timed(1)

    def make(index: int) -> gym.Env[Any, Any]:
        if index == 0:
            return adapt(first)
        raise EnvError("no more")

    with pytest.raises(EnvError, match="no more"):
        evaluate(
            Recorder(),  # type: ignore[arg-type]
            make,
            EvaluationConfig(episodes=2, num_envs=2, seed=0),
            greedy=True,
            protocol={},
        )
    assert first.closed


@pytest.mark.parametrize("env", [env_id(Walk), "drama/Catch-v0"])
@pytest.mark.parametrize("greedy", [True, False])
def test_evaluation_does_not_change_training(env: str, greedy: bool, tmp_path: Path) -> None:
    agent = Agent(env, tiny()).learn(31)
    before = everything(agent, tmp_path / "before")
    around = global_random_state()
    agent.evaluate(5, greedy=greedy)
    after = everything(agent, tmp_path / "after")
    assert len(before) > 100
    assert not differences(before, after)
    assert global_random_state() == around
    # Training afterwards is bit-exact too.
    twin = Agent(env, tiny()).learn(31)
    for a in (agent, twin):
        a.learn(9)
    pair = [everything(a, tmp_path / name) for a, name in ((agent, "a"), (twin, "b"))]
    assert not differences(*pair)


def test_evaluating_from_a_callback_changes_nothing(tmp_path: Path) -> None:
    def callback(held: dict[str, Any], _: dict[str, Any]) -> None:
        if held["self"].num_timesteps in (10, 33):
            held["self"].evaluate(2, greedy=False)

    ends = []
    for name, call in (("with", callback), ("without", None)):
        agent = Agent(env_id(Walk), tiny()).learn(40, call)
        ends.append(everything(agent, tmp_path / name))
    assert not differences(*ends)


def test_sampled_latents_are_the_default_and_the_mode_is_an_option() -> None:
    """The authors sample the latents, as in imagination, and take the most probable action."""
    for greedy, actions in ((True, "argmax"), (False, "sampled")):
        result, _, player = play([2], 1, greedy=greedy)
        assert player.acted == {("sampled", actions)}
        assert (result.protocol["latents"], result.protocol["actions"]) == ("sampled", actions)
        result, _, player = play([2], 1, greedy=greedy, latents="mode")
        assert player.acted == {("mode", actions)}
        assert result.protocol["latents"] == "mode"
    with pytest.raises(ConfigError, match="latents must be one of sampled, mode, got 'best'"):
        play([2], 1, latents="best")


def test_run_records_the_latents_of_its_scores() -> None:
    agent = Agent("drama/Catch-v0", tiny({"evaluation.latents": "mode"}))
    assert agent.evaluate(1).protocol["latents"] == "mode"
    assert agent.evaluate(1, latents="sampled").protocol["latents"] == "sampled"
    assert Agent("drama/Catch-v0", tiny()).evaluate(1).protocol["latents"] == "sampled"


class Endless(Timed):
    """Never ends."""

    def __init__(self) -> None:
        super().__init__(10**9)


def test_endless_episode_is_truncated_and_reported() -> None:
    envs = [Endless(), Timed(7)]
    result = evaluate(
        Recorder(),  # type: ignore[arg-type]
        lambda i: adapt(envs[i]),
        EvaluationConfig(episodes=4, num_envs=2, seed=0, max_episode_steps=20),
        greedy=True,
        protocol={},
    )
    assert [e.length for e in result.episodes] == [20, 20, 7, 7]
    assert [e.ret for e in result.episodes] == [20, 20, 7, 7]
    assert result.protocol["truncated_by_limit"] == 2
    assert result.protocol["step_limit"] == 20
    assert [env.seeds for env in envs] == [[0, None], [1, None]]
    with pytest.raises(ConfigError, match="max_episode_steps must be positive, got 0"):
        play([2], 1, max_episode_steps=0)


def test_time_limit_of_the_environment_overrides_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("drama.evaluation.protocol.STEP_LIMIT", 30)
    result = evaluate(
        Recorder(),  # type: ignore[arg-type]
        lambda i: adapt(Endless(), max_episode_steps=40 if i else None),
        EvaluationConfig(episodes=1, num_envs=1, seed=0),
        greedy=True,
        protocol={},
    )
    assert [e.length for e in result.episodes] == [30]
    assert result.protocol["truncated_by_limit"] == 1
    result = evaluate(
        Recorder(),  # type: ignore[arg-type]
        lambda i: adapt(Endless(), max_episode_steps=40),
        EvaluationConfig(episodes=1, num_envs=1, seed=0),
        greedy=True,
        protocol={},
    )
    assert [e.length for e in result.episodes] == [40]
    assert (result.protocol["step_limit"], result.protocol["truncated_by_limit"]) == (40, 0)


def test_wrapped_game_has_no_known_optimum() -> None:
    plain = Agent(lambda: gym.make("drama/Catch-v0"), tiny()).evaluate(1)
    assert (plain.optimum, plain.protocol["wrappers"]) == (1.0, [])
    flipped = Agent(lambda: TransformReward(gym.make("drama/Catch-v0"), lambda r: -r), tiny())
    result = flipped.evaluate(1)
    assert (result.optimum, result.protocol["wrappers"]) == (None, ["TransformReward"])
    short = Agent("drama/Catch-v0", tiny({"env.max_episode_steps": 3})).evaluate(1)
    assert short.optimum is None


def test_greedy_is_deterministic_and_sampling_depends_on_the_seed() -> None:
    agent = Agent("drama/Catch-v0", tiny()).learn(34)
    for latents in ("sampled", "mode"):
        first, again = (agent.evaluate(6, latents=latents).to_dict() for _ in range(2))  # type: ignore[arg-type]
        assert first == again
    drawn = [agent.evaluate(40, greedy=False, seed=s).to_dict()["episodes"] for s in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_statistics_match_hand_computed_values() -> None:
    episodes = tuple(EpisodeResult(0, r, 1) for r in (1.0, 2.0, 6.0))
    result = EvaluationResult("greedy", episodes, {"env": {"id": "CartPole-v1"}})
    assert result.mean == 3.0
    assert result.std == pytest.approx(np.sqrt((4 + 1 + 9) / 2))
    assert result.normalised is None
    tree = result.to_dict()
    assert (tree["min"], tree["max"]) == (1.0, 6.0)
    single = EvaluationResult("greedy", episodes[:1], {"env": {"id": "CartPole-v1"}})
    assert single.std == 0.0


@pytest.mark.parametrize(("score", "normalised"), [(-21, 0.0), (15, 1.0), (-3, 0.5)])
def test_human_normalised_scores_of_pong(score: float, normalised: float) -> None:
    result = EvaluationResult(
        "greedy", (EpisodeResult(0, score, 1),), {"env": {"id": "ALE/Pong-v5", **ATARI100K}}
    )
    assert result.normalised == pytest.approx(normalised)


def test_result_records_the_protocol() -> None:
    agent = Agent("drama/Catch-v0", tiny(), seed=5).learn(26)
    told: list[EpisodeResult] = []
    tree = agent.evaluate(5, num_envs=2, seed=77, progress=told.append).to_dict()
    assert json.loads(json.dumps(tree, allow_nan=False)) == tree
    assert tree["mode"] == "greedy"
    assert tree["optimum"] == 1.0
    assert tree["normalised"] is None
    protocol = tree["protocol"]
    assert protocol["train_steps"] == 26
    assert protocol["train_seed"] == 5
    assert protocol["seed"] == 77
    assert (protocol["episodes"], protocol["num_envs"]) == (5, 2)
    assert protocol["policy_latent"] == "prior"
    assert (protocol["latents"], protocol["actions"]) == ("sampled", "argmax")
    assert (protocol["scored"], protocol["wrappers"]) == ("episodes", [])
    assert (protocol["step_limit"], protocol["truncated_by_limit"]) == (27_000, 0)
    assert protocol["mode"] == tree["mode"]
    assert protocol["drama"] == drama.__version__
    assert protocol["env"]["id"] == "drama/Catch-v0"
    assert [e["env"] for e in tree["episodes"]] == [0, 0, 0, 1, 1]
    assert tree["mean"] == pytest.approx(np.mean([e["return"] for e in tree["episodes"]]))
    assert sorted((e.env, e.ret) for e in told) == sorted(
        (e["env"], e["return"]) for e in tree["episodes"]
    )


def test_lost_life_does_not_end_a_scored_game() -> None:
    agent = Agent("ALE/Breakout-v5", tiny({"world_model.filters": (4, 4, 4)}))
    env = agent.get_env()
    env.reset(seed=0)
    lengths, start = [], 0
    for t in range(1, 120):
        _, _, terminated, truncated, info = env.step(1 if t % 4 == 0 else t % 2 * 2)
        if terminated or truncated:
            assert info["life_lost"]
            lengths.append(t - start)
            start = t
            env.reset()
    assert lengths, "no life was lost in training"
    result = agent.evaluate(1, greedy=False, num_envs=1)
    assert result.protocol["env"]["life_loss"] is False
    assert result.episodes[0].length > 2 * min(lengths)
    human, random = 30, 2  # as the paper rounds them
    assert result.normalised == pytest.approx((result.mean - random) / (human - random))
    assert result.normalised_reason is None
    assert env.get_wrapper_attr("protocol")["life_loss"] is True  # the training one still does


@pytest.mark.faults
def test_result_is_kept_if_closing_an_environment_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Stuck(Walk):
        def close(self) -> None:
            raise OSError("the window is gone")

    assert len(Agent(Stuck, tiny()).evaluate(2).episodes) == 2
    assert "Stuck could not be closed: the window is gone" in caplog.text
