"""Environment families; a new one is a class in one file, here this test."""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import MaxAndSkipObservation
from tests.training.runs import assert_same_run, tiny

import drama
from drama import Agent, registry
from drama.envs import EnvFamily, EnvOptions, ScoreRange, describe, families, register_family
from drama.envs.families import GYMNASIUM, family_of, family_settings
from drama.errors import CheckpointError, ConfigError, EnvError, UnknownEnvError
from drama.registry import ENV_FAMILIES
from drama.report.runs import Reference, reference_of


class Corridor(gym.Env[Any, Any]):
    """Walk right from a random cell: 1 at the end. Actions slip with a probability."""

    action_space = spaces.Discrete(2)

    def __init__(self, length: int, slip: float = 0.0) -> None:
        self.observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
        self.length, self.slip = length, slip

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        self.cell = int(self.np_random.integers(self.length))
        return self._picture(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.np_random.random() < self.slip:
            action = 1 - action
        self.cell = max(0, self.cell + 2 * action - 1)
        done = self.cell >= self.length
        return self._picture(), float(done), done, False, {}

    def _picture(self) -> Any:
        picture = np.zeros((16, 16, 3), np.uint8)
        picture[:, min(self.cell, 15)] = 255
        return picture


class Corridors(EnvFamily):
    """Corridors, with two steps per action."""

    name = "corridors"
    prefix = "corridor/"
    packages = ("numpy",)
    settings = {"frame_skip": 2, "life_loss": True}  # noqa: RUF012
    image_size = None
    wrappers = (MaxAndSkipObservation,)

    def register_ids(self, env_id: str) -> None:
        if "corridor/Short-v0" not in gym.registry:
            gym.register("corridor/Short-v0", Corridor, kwargs={"length": 6}, max_episode_steps=9)
            gym.register("corridor/Long-v0", Corridor, kwargs={"length": 12})

    def make(self, spec: EnvSpec, options: EnvOptions) -> gym.Env[Any, Any]:
        skip = options.settings["frame_skip"]
        return MaxAndSkipObservation(super().make(spec, options), skip=skip)

    def protocol(self, env: gym.Env[Any, Any], options: EnvOptions) -> dict[str, Any]:
        corridor: Any = env.unwrapped
        return {"frame_skip": options.settings["frame_skip"], "slip": corridor.slip}

    def score_range(self, env_id: str) -> ScoreRange | None:
        return ScoreRange(0.25, 1.0)


@pytest.fixture
def corridors(monkeypatch: pytest.MonkeyPatch) -> Iterator[EnvFamily]:
    monkeypatch.setattr(ENV_FAMILIES, "registered", {})
    register_family(Corridors)
    yield families.families()[0]
    for env_id in [key for key in gym.registry if key.startswith("corridor/")]:
        del gym.registry[env_id]


def config(changes: dict[str, Any] | None = None) -> drama.Config:
    return tiny({"env.id": "corridor/Short-v0", "env.frame_skip": 2, **(changes or {})})


def test_a_new_family_trains_evaluates_and_resumes(corridors: EnvFamily, tmp_path: Path) -> None:
    Agent(config=config()).learn(60, run_dir=tmp_path / "whole")
    Agent(config=config()).learn(40, run_dir=tmp_path / "parts")
    agent = Agent.load(tmp_path / "parts").learn(20)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    result = agent.evaluate(2)
    assert result.protocol["env"]["frame_skip"] == 2
    assert result.protocol["wrappers"] == []
    assert Agent.load(tmp_path / "whole").evaluate(2).mean == result.mean


def test_family_sets_image_size_protocol_limit_and_scores(corridors: EnvFamily) -> None:
    env = drama.make_env("corridor/Short-v0", 0, frame_skip=3, env_kwargs={"slip": 0.125})
    stamp = describe(env)
    assert json.loads(json.dumps(stamp)) == stamp
    assert stamp["observation_shape"] == [16, 16, 3]
    assert (stamp["frame_skip"], stamp["slip"], stamp["wrappers"]) == (3, 0.125, [])
    assert stamp["env_kwargs"] == {"slip": 0.125}
    assert stamp["numpy"] == np.__version__
    assert stamp["max_episode_steps"] == 9
    assert stamp["noop_max"] is None
    assert "slip" not in describe(drama.make_env("CartPole-v1"))
    assert reference_of("corridor/Long-v0") == Reference("optimum", 0.25, 1.0)
    assert gym.make(env.spec).spec == env.spec  # type: ignore[arg-type]


def test_resume_refuses_another_protocol(corridors: EnvFamily, tmp_path: Path) -> None:
    Agent(config=config({"env.kwargs": {"slip": 0.25}})).save(tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"slip 0.25 \(now 0.0\)"):
        Agent.load(tmp_path / "a", env=drama.make_env("corridor/Short-v0", frame_skip=2))


def test_object_of_the_family_is_recognised(corridors: EnvFamily, tmp_path: Path) -> None:
    agent = Agent(drama.make_env("corridor/Short-v0", 3, frame_skip=4), config())
    assert agent.config.env.frame_skip == 4
    assert agent.config.env.made_by == "drama"
    agent.save(tmp_path / "a")
    assert describe(Agent.load(tmp_path / "a").new_env()) == describe(agent.env)
    assert drama.envs.default_image_size(gym.make("corridor/Short-v0")) is None


def test_a_wrong_id_of_the_family_suggests_the_nearest(corridors: EnvFamily) -> None:
    with pytest.raises(UnknownEnvError, match="the nearest id is 'corridor/Short-v0'"):
        drama.make_env("corridor/Shrt-v0")


def test_settings_of_other_families_are_ignored_and_unknown_ones_refused() -> None:
    assert describe(drama.make_env("CartPole-v1", frame_skip=2))["frame_skip"] is None
    with pytest.raises(EnvError, match="no environment has the setting 'noop'; did you mean noop"):
        drama.make_env("CartPole-v1", noop=3)


@pytest.mark.parametrize(
    ("env_id", "name"),
    [
        ("ALE/Pong-v5", "atari"),
        ("Pong-v4", "atari"),
        ("drama/Catch-v0", "built-in"),
        ("CartPole-v1", "gymnasium"),
    ],
)
def test_each_environment_has_one_family(env_id: str, name: str) -> None:
    env = drama.make_env(env_id)
    assert family_of(env).name == family_of(gym.spec(env_id)).name == name


def test_family_settings_are_run_settings() -> None:
    fields = vars(tiny().env)
    assert {name: fields[name] for name in family_settings()} == family_settings()


def test_family_name_is_unique() -> None:
    class Other(EnvFamily):
        name = "atari"

    with pytest.raises(ConfigError, match="registered as 'atari' already"):
        register_family(Other)
    with pytest.raises(ConfigError, match="registered as 'gymnasium' already"):
        register_family(type("Nameless", (EnvFamily,), {}))


@pytest.mark.parametrize(
    "where", [f"{__name__}:Corridors", "nowhere:Thing", f"{__name__}:Corridor"]
)
def test_families_of_installed_packages(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entry = importlib.metadata.EntryPoint("corridors", where, "drama.env_families")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] * (group == entry.group))
    families._installed.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, "drama"):
            found = [family.name for family in families.families()]
    finally:
        families._installed.cache_clear()
    sound = where.endswith("Corridors")
    assert ("corridors" in found) == sound
    assert (f"cannot be loaded from {where!r}" in caplog.text) == (not sound)
    assert family_of(drama.make_env("CartPole-v1")) is GYMNASIUM
