"""The training environment under unusual use: reused arrays, outside steps, interrupts."""

# One file: the tests share one environment and its variants.

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import RecordEpisodeStatistics
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import assert_same_run, episodes, snapshot, tiny

from drama import Agent
from drama.envs import adapt
from drama.envs.atari import LifeLossEpisodes
from drama.training.stream import EnvStream

NO_UPDATES = {"training.world_model_ratio": 0.0, "training.behaviour_ratio": 0.0}


class Clockwork(gym.Env[Any, Any]):
    """Observes time and episode, rewards the time; episodes of five steps."""

    observation_space: spaces.Box = spaces.Box(-1e3, 1e3, (2,), np.float32)
    action_space = spaces.Discrete(2)
    length = 5

    def __init__(self) -> None:
        self.time, self.episode = 0, -1
        self.memory = np.zeros(self.observation_space.shape, self.observation_space.dtype)

    def show(self) -> Any:
        return np.array([self.time, self.episode], np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**kwargs)
        self.time, self.episode = 0, self.episode + 1
        return self.show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.time += 1
        return self.show(), float(self.time), self.time == self.length, False, {}


class OneArray(Clockwork):
    """Returns the same array each time."""

    def show(self) -> Any:
        self.memory[:] = self.time, self.episode
        return self.memory


class OnePicture(Clockwork):
    """Returns the same image each time, at the size that the agent reads."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)

    def show(self) -> Any:
        self.memory[:] = self.time
        self.memory[0, 0, 1] = self.episode
        return self.memory


class Backwards(Clockwork):
    """Returns a view with a negative stride."""

    def show(self) -> Any:
        self.memory[:] = self.episode, self.time
        return self.memory[::-1]


def rows(agent: Agent) -> list[tuple[float, float, bool, float, bool, bool]]:
    """Time, episode, first, reward, truncated, last of every replay row."""
    assert agent._run.trainer is not None
    replay = agent._run.trainer.replay
    r = {name: values[: len(replay)] for name, values in replay.columns.items()}
    seen = r["obs"].reshape(len(replay), -1)[:, :2].tolist()
    return [
        (*seen[i], bool(r["is_first"][i]), float(r["reward"][i]), bool(r["truncated"][i]), last)
        for i, last in enumerate(r["is_last"].tolist())
    ]


def episode(number: int, steps: int, *, cut: bool = False) -> list[Any]:
    """Rows of an episode of `Clockwork`: ``steps`` steps, then its end."""
    found: list[Any] = [
        (t, number, t == 0, t + 1.0, cut and t == steps - 1, False) for t in range(steps)
    ]
    return [*found, (steps, number, False, 0.0, False, True)]


@pytest.mark.parametrize("kind", [Clockwork, OneArray, Backwards])
def test_stored_observations_do_not_change_with_the_environment(
    kind: type[Clockwork],
) -> None:
    agent = Agent(kind(), tiny({"training.warmup_steps": 9})).learn(20)  # 11 by the policy
    shown = [row for number in range(4) for row in episode(number, 5)]
    assert rows(agent) == shown


def test_stored_images_do_not_change_with_the_environment() -> None:
    agent = Agent(OnePicture(), tiny(NO_UPDATES)).learn(10)
    assert [row[0] for row in rows(agent)] == [0, 1, 2, 3, 4, 5] * 2


class Notes:
    """Records notes and warnings."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: str, payload: Any) -> None:
        if event == "note":
            self.texts.append(payload)

    def about(self, words: str) -> int:
        return sum(words in text for text in self.texts)


class Outside:
    """Steps and resets of the training environment between two calls of ``learn``."""

    @staticmethod
    def reset(env: gym.Env[Any, Any]) -> None:
        env.reset()

    @staticmethod
    def play(env: gym.Env[Any, Any]) -> None:
        env.reset()
        for _ in range(3):
            env.step(0)


@pytest.mark.parametrize("use", [Outside.reset, Outside.play])
def test_episode_stepped_from_outside_is_truncated(use: Callable[[Any], None]) -> None:
    agent = Agent(Clockwork(), tiny(NO_UPDATES)).learn(7)
    use(agent.get_env())
    notes = Notes()
    agent.learn(6, listeners=[notes])
    # Episode 2 is not stored; of episode 1 two steps and their observations are kept.
    assert rows(agent) == [*episode(0, 5), *episode(1, 2, cut=True), *episode(3, 5), *_begun(4, 1)]
    assert notes.about("used by others") == 1


def _begun(number: int, steps: int) -> list[Any]:
    return episode(number, steps)[:-1]


@pytest.mark.parametrize("steps", [5, 7])
def test_resume_is_bit_exact_after_steps_from_outside(steps: int, tmp_path: Path) -> None:
    """After 5 steps an episode has just ended, after 7 one is cut."""
    for name in ("whole", "parts"):
        agent = Agent(env_id(Walk), tiny()).learn(23 + steps, run_dir=tmp_path / name)
        agent.get_env().reset()
        agent.get_env().step(1)
        agent.learn(7)
        if name == "parts":
            del agent
            notes = Notes()
            agent = Agent.load(tmp_path / name)
            agent.learn(10, listeners=[notes])
            assert notes.about("repeat itself") == 0
        else:
            agent.learn(10)
    assert_same_run(tmp_path / "whole", tmp_path / "parts", files=False)


def test_environment_used_before_the_first_step_changes_nothing(tmp_path: Path) -> None:
    for name in ("touched", "left alone"):
        agent = Agent(env_id(Walk), tiny())
        if name == "touched":
            agent.get_env().reset()
            agent.get_env().step(0)
        agent.learn(30, run_dir=tmp_path / name)
    assert_same_run(tmp_path / "touched", tmp_path / "left alone")


def test_episode_played_before_the_run_is_not_counted() -> None:
    env = adapt(RecordEpisodeStatistics(Clockwork()))
    stream = EnvStream(env, 0)
    env.reset()
    for _ in range(5):
        env.step(0)
    assert stream.start() is None
    ends = [stream.step(0)[1] for _ in range(5)]
    assert ends[:4] == [None] * 4
    assert ends[4] is not None
    assert (ends[4].ret, ends[4].length) == (15.0, 5)


class BrokenOff(Clockwork):
    """KeyboardInterrupt in the thirteenth step: before or after its transition."""

    after = False
    steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        if self.steps == 13 and not self.after:
            raise KeyboardInterrupt
        found = super().step(action)
        if self.steps == 13:
            raise KeyboardInterrupt
        return found


@pytest.mark.parametrize("after", [False, True])
def test_episode_with_an_interrupted_step_is_truncated(after: bool) -> None:
    env = BrokenOff()
    env.after = after
    config = tiny({"training.warmup_steps": 9, **NO_UPDATES})
    agent = Agent(env, config)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(20)
    assert agent._run.trainer is not None
    state = agent._run.trainer.collector.player_state
    assert agent.num_timesteps == 12
    agent.learn(3)
    assert rows(agent)[12:] == [*episode(2, 2, cut=True), *_begun(3, 3)]
    fresh = Agent(Clockwork(), config).learn(12)
    assert fresh._run.trainer is not None
    assert state.deter.equal(
        fresh._run.trainer.collector.player_state.deter
    )  # the step was not read


@pytest.mark.parametrize("at", [3, 5, 6])
def test_rows_of_a_step_are_complete_after_an_interrupt(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the third row of an episode, at the last with an action, and at its final observation."""
    agent = Agent(Clockwork(), tiny(NO_UPDATES)).learn(1)
    assert agent._run.trainer is not None
    replay = agent._run.trainer.replay
    append = replay.append

    def interrupted(row: Any) -> None:
        if replay.total == at - 1:
            monkeypatch.undo()
            raise KeyboardInterrupt
        append(row)

    monkeypatch.setattr(replay, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        agent.learn(9)
    steps = agent.num_timesteps
    agent.learn(10 - steps)
    assert rows(agent) == [*episode(0, 5), *episode(1, 5)]


class WiredReset(Walk):
    """Its reset after step 13 fails, once."""

    failed = False

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.total == 12 and not WiredReset.failed:
            raise KeyboardInterrupt
        return super().step(action)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        if self.total == 12 and not WiredReset.failed:
            WiredReset.failed = True
            raise ConnectionError("the wire")
        return super().reset(**kwargs)


def test_seed_after_a_truncation_is_kept_until_the_next_episode(tmp_path: Path) -> None:
    agent = Agent(WiredReset, tiny(NO_UPDATES))
    with pytest.raises(KeyboardInterrupt):
        agent.learn(30, run_dir=tmp_path / "run")
    with pytest.raises(ConnectionError):
        agent.learn(30)
    assert agent._run.trainer is not None
    seed = agent._run.trainer.stream.seed
    assert seed != agent.config.seed
    loaded = Agent.load(tmp_path / "run", env=WiredReset)
    loaded.learn(1)
    assert loaded._run.trainer is not None
    assert loaded._run.trainer.stream.seed == seed


class Talkative(Clockwork):
    """Uses info keys that have another meaning in Atari games."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, _ = super().reset(**kwargs)
        return obs, {"episode": self.episode}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = super().step(action)
        info = {"life_lost": terminated, "episode": self.episode}
        return obs, reward, terminated, truncated, info


class OneInfo(Clockwork):
    """Returns the same info each time; its episodes take 2, 3, 4 … steps."""

    def __init__(self) -> None:
        super().__init__()
        self.info: dict[str, Any] = {}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, _ = super().reset(**kwargs)
        self.length = self.episode + 2
        return obs, self.info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return (*super().step(action)[:4], self.info)


def test_each_episode_is_counted_separately_with_a_reused_info(tmp_path: Path) -> None:
    env = OneInfo()
    Agent(env, tiny(NO_UPDATES)).learn(9, run_dir=tmp_path / "run")
    assert [row["length"] for row in episodes(tmp_path / "run")] == [2, 3, 4]
    assert [row["return"] for row in episodes(tmp_path / "run")] == [3, 6, 10]
    assert env.info == {}


class Monitored(Clockwork):
    """Reports its episodes in the info, as Stable-Baselines3's Monitor does."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = super().step(action)
        info = {"episode": {"r": 150.0, "l": 5, "t": 0.1}} if terminated else {}
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize(("kind", "ret"), [(Clockwork, 15), (Talkative, 15), (Monitored, 150)])
def test_monitor_statistics_in_the_info_take_precedence(
    kind: type[Clockwork], ret: float, tmp_path: Path
) -> None:
    """1 + 2 + 3 + 4 + 5 is 15; a monitor's count takes precedence."""
    Agent(kind(), tiny(NO_UPDATES)).learn(10, run_dir=tmp_path / "run")
    assert episodes(tmp_path / "run") == [
        {"step": 5, "return": ret, "length": 5},
        {"step": 10, "return": ret, "length": 5},
    ]


class Lives(Clockwork):
    """A life is lost at time 2; the no-op after it ends the game. The next step fails, once."""

    broken = False

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.episode == 1 and not self.broken:
            self.broken = True
            raise ConnectionError("the wire")
        obs, reward, *_ = super().step(action)
        return obs, reward, self.time == 3, False, {"lives": 2 - (self.time >= 2)}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return super().reset(**kwargs)[0], {"lives": 2}


def test_game_that_ended_in_the_no_op_is_counted_if_the_next_step_fails(tmp_path: Path) -> None:
    def game(broken: bool) -> Callable[[], gym.Env[Any, Any]]:
        def make() -> gym.Env[Any, Any]:
            env = Lives()
            env.broken = broken
            return LifeLossEpisodes(RecordEpisodeStatistics(env))

        return make

    with pytest.raises(ConnectionError):
        Agent(game(broken=False), tiny(NO_UPDATES)).learn(4, run_dir=tmp_path / "run")
    Agent.load(tmp_path / "run", env=game(broken=True)).learn(4)
    Agent(game(broken=True), tiny(NO_UPDATES)).learn(6, run_dir=tmp_path / "sound")
    expected = [{"step": s, "return": 6.0, "length": 3} for s in (2, 4)]
    assert episodes(tmp_path / "run") == episodes(tmp_path / "sound") == expected
    assert snapshot(tmp_path / "run")["state"]["episodes"] == 2


def test_resume_from_an_older_checkpoint_reports_the_discarded_steps(tmp_path: Path) -> None:
    Agent(env_id(Walk), tiny(NO_UPDATES)).learn(45, run_dir=tmp_path / "run")
    newest, older = Notes(), Notes()
    Agent.load(tmp_path / "run").learn(1, listeners=[newest])
    assert newest.about("deleted") == 0
    Agent.load(tmp_path / "run" / "checkpoints" / "000000045").learn(1, listeners=[older])
    assert (
        older.about(
            "continuing from step 45: later checkpoints (000000046) and log rows are deleted"
        )
        == 1
    )
    assert older.about("000000046") == 1
