"""A run records the source of its environment: an id, a function or an object."""

# One file: the tests share the environments and the comparison of their rewards.

from __future__ import annotations

import logging
import os
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import (
    AtariPreprocessing,
    ClipReward,
    FrameStackObservation,
    GrayscaleObservation,
    RecordEpisodeStatistics,
    RecordVideo,
    TimeLimit,
    TransformReward,
)
from stable_baselines3.common.atari_wrappers import AtariWrapper, MaxAndSkipEnv
from stable_baselines3.common.monitor import Monitor
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import assert_same_run, options, tiny

import drama
from drama import Agent
from drama.cli import main
from drama.envs import describe
from drama.envs.description import differences
from drama.envs.source import env_source
from drama.envs.wrappers import unrecorded
from drama.errors import CheckpointError, ConfigError, EnvError, UnknownEnvError

CAR = {"goal_velocity": 0.02}


class Flip(gym.RewardWrapper[Any, Any]):
    """Negates rewards; its constructor takes the environment only."""

    def reward(self, reward: Any) -> float:
        return -float(reward)


class Scale(gym.RewardWrapper[Any, Any]):
    """Scales rewards; records no argument."""

    def __init__(self, env: gym.Env[Any, Any], factor: float) -> None:
        super().__init__(env)
        self.factor = factor

    def reward(self, reward: Any) -> float:
        return self.factor * float(reward)


class TwoFrames(FrameStackObservation):
    """Its constructor differs from the arguments that its base class records."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env, 2)


def car(**kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make("MountainCar-v0", **{**CAR, **kwargs})


def flipped() -> gym.Env[Any, Any]:
    return Flip(car())


def atari(**kwargs: Any) -> gym.Env[Any, Any]:
    drama.make_env("ALE/Pong-v5").close()  # registers the games
    return gym.make("ALE/Pong-v5", frameskip=1, **kwargs)


def preprocessed() -> gym.Env[Any, Any]:
    return AtariPreprocessing(atari(repeat_action_probability=0.0), noop_max=5, screen_size=64)


def limited_inside() -> gym.Env[Any, Any]:
    return gym.wrappers.MaxAndSkipObservation(TimeLimit(gym.make("drama/Catch-v0"), 6), skip=2)


def limited_outside() -> gym.Env[Any, Any]:
    return TimeLimit(gym.wrappers.MaxAndSkipObservation(gym.make("drama/Catch-v0"), skip=2), 3)


RECORDABLE = [
    car,
    flipped,
    preprocessed,
    limited_inside,
    limited_outside,
    lambda: ClipReward(car(), -1.0, 1.0),
    lambda: TwoFrames(GrayscaleObservation(gym.make("drama/Catch-v0"))),
    lambda: RecordEpisodeStatistics(gym.make("CartPole-v1")),
    lambda: Monitor(gym.make("CartPole-v1")),
    lambda: gym.make("drama/Recall-v0", gap=3),
    lambda: drama.make_env("ALE/Pong-v5", 3, frame_skip=2, env_kwargs={"difficulty": 1}),
    lambda: drama.make_env("CartPole-v1", 3, max_episode_steps=9, wrappers=[f"{__name__}:Flip"]),
]


def rewards(env: gym.Env[Any, Any], steps: int = 40) -> list[Any]:
    actions, seen = np.random.default_rng(0), [env.reset(seed=5)[0].tolist()]
    for _ in range(steps):
        count = env.action_space.n  # type: ignore[attr-defined]
        obs, reward, terminated, truncated, _ = env.step(int(actions.integers(count)))
        seen.append((obs.tolist(), reward, terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0].tolist())
    return seen


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings about environments, without the one about runs with too few updates."""
    said = (r.message for r in caplog.records if r.levelno == logging.WARNING)
    return [line for line in said if "little will be learnt" not in line]


@pytest.fixture
def moviepy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of the large package that ``RecordVideo`` needs."""

    class Clip:
        def __init__(self, frames: Any, fps: float) -> None:
            pass

        def write_videofile(self, path: str, logger: Any = None) -> None:
            Path(path).write_text("a video")

    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    module: Any = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    module.ImageSequenceClip = Clip
    monkeypatch.setitem(sys.modules, module.__name__, module)


# -- objects ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", RECORDABLE)
def test_an_object_is_rebuilt_from_the_run(
    make: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = make()
    agent = Agent(env, tiny())
    agent.save(tmp_path / "a")
    loaded = Agent.load(tmp_path / "a")
    assert loaded.config == agent.config
    assert loaded.config.env.made_by != "caller"
    assert describe(loaded.env) == describe(agent.env)
    played = rewards(agent.env)
    assert rewards(loaded.env) == played
    if agent.config.env.made_by == "gymnasium":  # Atari's lost lives end no episode of a copy
        for other in (agent, loaded):
            assert rewards(other.new_env()) == played
    assert not warned(caplog)


def test_the_config_records_an_object() -> None:
    config = Agent(Flip(car()), tiny()).config.env
    assert (config.id, config.kwargs, config.made_by) == ("MountainCar-v0", CAR, "gymnasium")
    limit, flip = config.wrappers
    assert limit.endswith(":TimeLimit(max_episode_steps=200)")
    assert flip == f"{__name__}:Flip"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Walk, "Walk was given as an object, .*(it has no specification)"),
        (lambda: Scale(gym.make("CartPole-v1"), 2.0), "Scale does not record its arguments"),
        (lambda: MaxAndSkipEnv(gym.make("CartPole-v1")), "MaxAndSkipEnv does not record"),
        (lambda: AtariWrapper(atari(obs_type="rgb")), "does not record its arguments"),
    ],
)
def test_an_object_that_cannot_be_rebuilt_causes_a_warning_at_once(
    make: Any, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = make()
    agent = Agent(env, tiny())
    (said,) = warned(caplog)
    assert "function that returns a new environment" in said
    assert "evaluate()" in said
    agent.save(tmp_path / "a")
    with pytest.raises(EnvError, match=r"has no record that makes it; give it: .* --env module:"):
        Agent.load(tmp_path / "a")
    Agent.load(tmp_path / "a", env=make())
    with pytest.raises(EnvError, match="function that returns a new environment"):
        agent.new_env()


def test_a_function_as_an_argument_is_copied_here_and_refused_elsewhere(tmp_path: Path) -> None:
    env = TransformReward(gym.make("CartPole-v1"), lambda reward: 3.0 * float(reward))
    agent = Agent(env, tiny())
    copy = agent.new_env()
    copy.reset(seed=0)
    assert copy.step(0)[1] == 3.0
    agent.save(tmp_path / "a")
    with pytest.raises(EnvError, match="has no record that makes it"):
        Agent.load(tmp_path / "a")
    Agent.load(tmp_path / "a", env=env)


@pytest.mark.parametrize(
    ("then", "now", "words"),
    [
        (
            car,
            lambda: gym.make("MountainCar-v0"),
            r"env_kwargs.goal_velocity 0.02 \(now not given\)",
        ),
        (car, lambda: car(goal_velocity=0.03), r"env_kwargs.goal_velocity 0.02 \(now 0.03\)"),
        (flipped, car, r'wrappers \["[a-z_.]*:Flip"\] \(now \[\]\)'),
        (preprocessed, lambda: "ALE/Pong-v5", r"AtariPreprocessing.* frame_skip not given"),
        (lambda: gym.make("CartPole-v1"), lambda: gym.make("CartPole-v0"), "id CartPole-v1"),
        (
            lambda: gym.make("CartPole-v1"),
            lambda: gym.wrappers.RescaleObservation(
                gym.make("Acrobot-v1"), np.float32(-2.0), np.float32(2.0)
            ),
            "observations vector 4 and 2 actions; Acrobot-v1 has vector 6 and 3",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of CartPole-v0
def test_another_environment_than_that_of_the_run_is_refused(
    then: Any, now: Any, words: str, tmp_path: Path
) -> None:
    agent = Agent(then(), tiny())
    agent.save(tmp_path / "a")
    with pytest.raises(CheckpointError, match=words) as caught:
        Agent.load(tmp_path / "a", env=now())
    assert "\n" not in str(caught.value)


def test_the_same_environment_may_be_given_in_another_form(tmp_path: Path) -> None:
    path = f"{__name__}:car"
    config = tiny({"env.id": "MountainCar-v0", "env.kwargs": CAR})
    for n, one in enumerate((None, car(), car, lambda: car())):
        Agent(one, config if one is None else tiny()).save(tmp_path / str(n))
        for other in (car(), car, lambda: car(), path):
            loaded = Agent.load(tmp_path / str(n), env=other)
            assert loaded.env.unwrapped.goal_velocity == 0.02  # type: ignore[attr-defined]


def test_recorders_and_render_modes_are_not_compared(tmp_path: Path, moviepy: None) -> None:
    Agent(car(), tiny()).save(tmp_path / "a")
    Agent.load(tmp_path / "a", env=car(render_mode="rgb_array"))
    video = RecordVideo(car(render_mode="rgb_array"), str(tmp_path / "videos"))
    Agent.load(tmp_path / "a", env=Monitor(video))


def test_other_package_versions_are_logged_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    Agent("CartPole-v1", tiny()).save(tmp_path / "a")
    monkeypatch.setattr("importlib.metadata.version", lambda name: "99.0")
    with caplog.at_level(logging.INFO, "drama"):
        Agent.load(tmp_path / "a")
    assert [r.levelname for r in caplog.records] == ["INFO"]
    assert "gymnasium" in caplog.text
    assert "(now 99.0)" in caplog.text


def test_a_run_without_the_record_loads_as_before() -> None:
    now = describe(drama.make_env("CartPole-v1"))
    assert differences({}, now) == ([], [])
    lacking = {k: v for k, v in now.items() if k not in ("wrappers", "observation_space")}
    assert differences(lacking, now) == ([], [])


def test_training_resumes_exactly_in_an_object(tmp_path: Path) -> None:
    def start() -> Agent:
        return Agent(flipped(), tiny({"steps": 60}))

    start().learn(60, run_dir=tmp_path / "whole")
    start().learn(40, run_dir=tmp_path / "parts")
    Agent.load(tmp_path / "parts").learn(20)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_arguments_for_an_object_are_refused() -> None:
    config = tiny({"env.kwargs": {"goal_velocity": 0.02}})
    with pytest.raises(ConfigError, match="an environment object has its arguments and wrappers"):
        Agent(car(), config)


# -- recording ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["object", "function", "settings"])
@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos:UserWarning")
def test_copies_of_an_environment_record_no_video(
    given: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, moviepy: None
) -> None:
    folder = str(tmp_path / "videos")

    def make() -> gym.Env[Any, Any]:
        return RecordVideo(gym.make("CartPole-v1", render_mode="rgb_array"), folder)

    changes: dict[str, Any] = {}
    if given == "settings":
        changes["env.id"] = "CartPole-v1"
        changes["env.kwargs"] = {"render_mode": "rgb_array"}
        changes["env.wrappers"] = (f"gymnasium.wrappers:RecordVideo(video_folder={folder!r})",)
    source: Any = {"object": make(), "function": make, "settings": None}[given]
    agent = Agent(source, tiny(changes))
    (said,) = warned(caplog)
    assert said.endswith(": RecordVideo")
    agent.learn(30)
    agent.env.close()
    (video,) = [path for path in Path(folder).iterdir() if path.suffix == ".mp4"][:1]
    video.write_text("of training")
    agent.evaluate(2, num_envs=1)
    assert video.read_text() == "of training"
    assert not any(isinstance(layer, RecordVideo) for layer in _layers(agent.new_env()))
    assert any(isinstance(layer, RecordVideo) for layer in _layers(agent.env))


def _layers(env: gym.Env[Any, Any]) -> list[Any]:
    found: list[Any] = []
    while isinstance(env, gym.Wrapper):
        found.append(env)
        env = env.env
    return found


def test_copies_of_an_environment_write_no_monitor_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "monitor.csv"
    env = Monitor(gym.make("CartPole-v1"), str(path))
    agent = Agent(env, tiny()).learn(30)
    written = path.read_text()
    agent.evaluate(2)
    agent.save(tmp_path / "a")
    assert "filename" not in " ".join(Agent.load(tmp_path / "a").config.env.wrappers)
    assert path.read_text() == written
    (said,) = warned(caplog)
    assert said.endswith(": the file of Monitor")
    agent.env.close()


def test_settings_without_recorders() -> None:
    monitor = "stable_baselines3.common.monitor:Monitor"
    kwargs, wrappers = unrecorded(
        {"render_mode": "human", "goal_velocity": 0.1},
        (
            "gymnasium.wrappers:HumanRendering",
            f"{__name__}:Flip",
            f"{monitor}(filename='a.csv', allow_early_resets=False)",
        ),
    )
    assert kwargs == {"goal_velocity": 0.1}
    flip, silent = wrappers
    assert flip == f"{__name__}:Flip"
    assert silent == f"{monitor}(filename=None, allow_early_resets=False)"


def test_a_function_whose_monitor_overwrites_its_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "monitor.csv")
    Agent(lambda: Monitor(gym.make("CartPole-v1"), path), tiny()).env.close()
    (said,) = warned(caplog)
    assert "overwrites the file of its Monitor: give the Monitor no filename" in said


# -- functions and import paths -----------------------------------------------------------------


def test_an_importable_function_is_recorded_by_its_path(tmp_path: Path) -> None:
    agent = Agent(car, tiny({"env.kwargs": {"goal_velocity": 0.05}}))
    assert agent.config.env.id == f"{__name__}:car"
    assert agent.env.unwrapped.goal_velocity == 0.05  # type: ignore[attr-defined]
    agent.save(tmp_path / "a")
    for env in (None, car, f"{__name__}:car"):
        loaded = Agent.load(tmp_path / "a", env=env)
        assert loaded.config == agent.config
        assert loaded.new_env().unwrapped.goal_velocity == 0.05  # type: ignore[attr-defined]
    twin = Agent(f"{__name__}:car", agent.config)
    assert describe(twin.env) == describe(agent.env)
    assert describe(twin.env)["env_kwargs"] == {"goal_velocity": 0.05}


def test_class_is_recorded_by_its_path() -> None:
    env = drama.make_env(f"{Walk.__module__}:Walk", 0, max_episode_steps=3)
    assert env.observation_space.shape == (3,)
    assert describe(env)["id"] == "Walk"


def test_a_local_function_must_be_given_again(tmp_path: Path) -> None:
    def local() -> gym.Env[Any, Any]:
        return car()

    Agent(local, tiny()).save(tmp_path / "a")
    with pytest.raises(EnvError, match=r"the environment local was given from Python"):
        Agent.load(tmp_path / "a")
    Agent.load(tmp_path / "a", env=local)
    with pytest.raises(CheckpointError, match=r"env_kwargs\.goal_velocity"):
        Agent.load(tmp_path / "a", env="MountainCar-v0")


@pytest.mark.parametrize("missing", ["never/Registered-v3", "nosuchmodule:Game-v0"])
def test_an_unregistered_environment_must_be_given(missing: str, tmp_path: Path) -> None:
    agent = Agent(env_id(Walk), tiny())
    object.__setattr__(agent.config.env, "id", missing)
    agent.save(tmp_path / "a")
    with pytest.raises(EnvError, match=r"give it: Agent\.load\(run, env=") as caught:
        Agent.load(tmp_path / "a")
    assert "nearest" not in str(caught.value)
    assert isinstance(caught.value, UnknownEnvError) == missing.startswith("never")
    Agent.load(tmp_path / "a", env=env_id(Walk))


# -- settings -----------------------------------------------------------------------------------


def test_kwargs_and_wrappers_of_the_settings() -> None:
    config = tiny(
        {
            "env.id": "MountainCar-v0",
            "env.kwargs": CAR,
            "env.wrappers": (
                f"{__name__}:Scale(factor=2.0)",
                "gymnasium.wrappers:ClipReward(min_reward=-1.0, max_reward=1.0)",
            ),
        }
    )
    env = env_source(None, config.env).make(0)
    names = [type(layer).__name__ for layer in _layers(env)]
    assert names[-5:-1] == ["FaultGuard", "ClipReward", "Scale", "TimeLimit"]
    assert env.unwrapped.goal_velocity == 0.02  # type: ignore[attr-defined]
    stamp = describe(env)
    assert stamp["env_kwargs"] == CAR
    assert stamp["wrappers"][0] == f"{__name__}:Scale(...)"
    assert stamp["wrappers"][1].endswith(":ClipReward(min_reward=-1.0, max_reward=1.0)")


def test_wrappers_of_atari_see_agent_steps() -> None:
    env = drama.make_env("ALE/Pong-v5", 0, wrappers=[f"{__name__}:Flip"])
    names = [type(layer).__name__ for layer in _layers(env)]
    assert names.index("FaultGuard") < names.index("Flip") < names.index("LifeLossEpisodes")
    assert describe(env)["wrappers"] == [f"{__name__}:Flip"]


@pytest.mark.parametrize(
    ("wrapper", "words"),
    [
        (f"{__name__}:Nothing", "could not be made in .*Nothing"),
        (f"{__name__}:car", "could not be made in"),
        (f"{__name__}:Scale", "could not be made in .*factor"),
        ("nosuchmodule:Wrapper", "needs the module 'nosuchmodule'"),
    ],
)
def test_invalid_wrappers(wrapper: str, words: str) -> None:
    with pytest.raises(EnvError, match=words):
        drama.make_env("CartPole-v1", wrappers=[wrapper])


# -- the command line ---------------------------------------------------------------------------

MODULE = """
import gymnasium as gym

class Flip(gym.RewardWrapper):
    def reward(self, reward):
        return -reward

def make_env(goal_velocity=0.03):
    return gym.make("MountainCar-v0", goal_velocity=goal_velocity)
"""


@pytest.fixture
def mygame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working directory with a module of the user."""
    (tmp_path / "mygame.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", os.getcwd())])
    monkeypatch.delitem(sys.modules, "mygame", raising=False)
    return tmp_path


def test_a_factory_and_settings_on_the_command_line(
    mygame: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = [
        "--run-dir",
        "run",
        "--env.kwargs",
        "goal_velocity=0.04",
        "--env.wrappers",
        "mygame:Flip",
    ]
    small = options({"steps": 40, "evaluation.episodes": 0})
    assert main(["train", "quick", "--env", "mygame:make_env", *small, *run]) == 0
    assert main(["train", "--resume", "run", "--steps", "44"]) == 0
    assert main(["eval", "run", "--episodes", "1", "--mode", "greedy"]) == 0
    env = Agent.load("run").config.env
    assert (env.id, env.kwargs) == ("mygame:make_env", {"goal_velocity": 0.04})
    assert env.wrappers == ("mygame:Flip",)
    assert capfd.readouterr().err.count("error") == 0


def test_a_run_from_python_resumes_with_a_factory(
    mygame: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tiny({"steps": 40, "evaluation.episodes": 0})
    Agent(lambda: gym.make("MountainCar-v0", goal_velocity=0.03), config).learn(40, run_dir="run")
    for args in (["eval", "run", "--episodes", "1"], ["train", "--resume", "run", "--steps", "44"]):
        assert main(args) == 2
        said = capfd.readouterr().err
        assert "--env module:make_env" in said
        assert "nearest" not in said
    assert main(["eval", "run", "--episodes", "1", "--env", "MountainCar-v0"]) == 2
    assert "env_kwargs.goal_velocity 0.03 (now not given)" in capfd.readouterr().err
    assert main(["eval", "run", "--episodes", "1", "--env", "mygame:make_env"]) == 0
    resume = ["train", "--resume", "run"]
    assert main([*resume, "--steps", "44", "--env", "mygame:make_env"]) == 0
    assert main([*resume, "--steps", "48"]) == 0  # the run records it now
    assert main(["eval", "run", "--episodes", "1"]) == 0


# -- what counts as the same ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "old", "new", "same"),
    [
        ("wrappers", ["a:Reward"], ["a:Reward"], True),
        ("wrappers", ["a:Reward"], ["b:Reward"], False),  # another's wrapper of the same name
        ("wrappers", ["a:Reward(x=1)"], ["a:Reward(x=2)"], False),
        ("wrappers", ["a:Reward"], ["__main__:Reward"], True),
        ("wrappers", ["gymnasium.wrappers.a:Clip"], ["gymnasium.wrappers:Clip"], True),
        ("wrappers", ["gymnasium.wrappers:Clip"], ["mine:Clip"], False),
        ("wrappers", ["a:Reward"], [], False),
        ("id", "Own", "CartPole-v1", True),  # an instance made directly has no id to compare
        ("id", "tests/Unversioned", "CartPole-v1", False),
        ("id", "tests/Unversioned", "tests/Unversioned", True),
    ],
)
def test_comparison_of_descriptions(
    key: str, old: Any, new: Any, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(gym.registry, "tests/Unversioned", gym.spec("CartPole-v1"))
    changed, _ = differences({key: old}, {key: new})
    assert (not changed) == same
