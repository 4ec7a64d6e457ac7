"""Agents whose observations have several leaves: they train, save, load, resume, act and dream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.nested import Both, Cards, Mixed, env_id
from tests.training.runs import assert_same_run, metrics, tiny

from drama import Agent, DreamEnv
from drama.actions import ActionSpace
from drama.envs import ObservationAdapter
from drama.errors import CheckpointError, ConfigError
from drama.replay import ReplayBuffer
from drama.report import dreams
from drama.types import Transition, same_obs
from drama.world_model import WorldModel

INFINITE = pytest.mark.filterwarnings("ignore:.*A Box observation space")
"""The bounds of the agent's vectors, which Gymnasium's checker finds suspicious."""

boxes = st.one_of(
    st.tuples(st.integers(4, 9), st.integers(4, 9), st.sampled_from([1, 3, 4])).map(
        lambda shape: spaces.Box(0, 255, shape, np.uint8)
    ),
    st.lists(st.integers(1, 3), max_size=4).map(
        lambda shape: spaces.Box(-3.0, 3.0, tuple(shape), np.float32)
    ),
    st.lists(st.integers(1, 3), min_size=1, max_size=3).map(
        lambda shape: spaces.Box(-9, 9, tuple(shape), np.int16)
    ),
)
categories = st.one_of(
    st.builds(spaces.Discrete, st.integers(1, 9), start=st.integers(-3, 3)),
    st.lists(st.integers(1, 5), min_size=1, max_size=4).map(spaces.MultiDiscrete),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(spaces.MultiBinary),
)
names = st.text("abcde._ ", min_size=1, max_size=5)
nested = st.recursive(
    st.one_of(boxes, categories),
    lambda parts: st.one_of(
        st.dictionaries(names, parts, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=5,
)


class Sampled(Mixed):
    """Samples its observations from any space."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.observation_space = space


@settings(max_examples=60)
@given(space=nested, seed=st.integers(0, 99))
def test_any_space_is_adapted_stored_sampled_encoded_and_decoded(
    space: spaces.Space[Any], seed: int
) -> None:
    adapter = ObservationAdapter(space, 8)
    space.seed(seed)
    rows = [adapter(space.sample()) for _ in range(12)]
    assert all(adapter.space.contains(obs) for obs in rows)
    observations = adapter.observations
    config = tiny()
    replay = ReplayBuffer(config.replay, observations)
    for g, obs in enumerate(rows):
        replay.append(Transition(obs, g == 0, 0, float(g), False, False, False))
    batch = replay.sample("world_model", 2, 4, torch.Generator().manual_seed(seed))
    for b in range(2):
        for t in range(4):
            columns = observations.columns(batch.obs)
            stored = observations.from_columns({k: c[b, t].numpy() for k, c in columns.items()})
            assert same_obs(stored, rows[int(batch.reward[b, t])])
    torch.manual_seed(0)
    model = WorldModel(config.world_model, observations, ActionSpace(2)).eval()
    with torch.no_grad():
        posterior = model.posterior(batch.obs)
        assert posterior.shape == (2, 4, 4, 4)
        decoded = observations.columns(model.decode(model.sample(posterior, None)))
        loss, terms = model.loss(batch, torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(loss))
    if observations.single is None:
        parts = [terms[f"reconstruction/{leaf.name}"] for leaf in observations.leaves]
        torch.testing.assert_close(terms["reconstruction"], torch.stack(parts).sum())
    for name, column in observations.columns(batch.obs).items():
        assert (decoded[name].shape, decoded[name].dtype) == (column.shape, column.dtype)
        leaf = next(leaf for leaf in observations.leaves if leaf.column == name)
        assert all(leaf.space.contains(x) for x in decoded[name].flatten(0, 1).numpy())


@settings(max_examples=6)
@given(space=nested)
def test_an_agent_of_any_space_is_the_same_after_loading(
    space: spaces.Space[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "run"

    def make() -> gym.Env[Any, Any]:
        return Sampled(space)

    agent = Agent(make, tiny({"env.image_size": 8}))
    agent.learn(30, run_dir=path)
    again = Agent.load(path, env=make)
    space.seed(0)
    raw = space.sample()
    one, state = agent.predict(raw, deterministic=True)
    other, same = again.predict(raw, deterministic=True)
    assert one == other
    assert torch.equal(state.deter, same.deter)
    again.learn(10)
    whole = Agent(make, tiny({"env.image_size": 8})).learn(40, run_dir=path.parent / "whole")
    assert whole.num_timesteps == again.num_timesteps == 40
    assert_same_run(path, path.parent / "whole", files=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in the nested environment; read only."""
    path = tmp_path_factory.mktemp("mixed") / "run"
    Agent(env_id(Mixed), tiny()).learn(60, run_dir=path)
    return path


LEAVES = ["dials", "doors/0", "doors/1", "robot/camera", "robot/speed"]


def test_metrics_name_each_leaf(run: Path) -> None:
    last = metrics(run)[-1]
    parts = [last[f"world_model/reconstruction/{name}"] for name in LEAVES]
    assert last["world_model/reconstruction"] == pytest.approx(sum(parts), rel=1e-4)


def test_an_agent_acts_on_raw_and_adapted_observations_and_evaluates(run: Path) -> None:
    agent = Agent.load(run)
    env, raw = agent.new_env(0), Mixed()
    adapted, _ = env.reset(seed=3)
    one, _ = agent.predict(adapted, deterministic=True)
    unadapted, _ = raw.reset(seed=3)
    other, state = agent.predict(unadapted, deterministic=True)
    assert one == other
    assert env.unwrapped.action_space.contains(other)
    batch = {name: np.stack([leaf, leaf]) for name, leaf in adapted.items()}
    actions, _ = agent.predict(batch, deterministic=True)
    assert actions.tolist() == [one, one]
    agent.predict(unadapted, state)
    result = agent.evaluate(4, num_envs=2)
    assert [episode.length for episode in result.episodes] == [7] * 4


@INFINITE
def test_a_dream_has_the_observations_of_the_agent(run: Path) -> None:
    agent = Agent.load(run)
    dream = DreamEnv(agent, max_episode_steps=5)
    assert dream.observation_space == agent.observation_space
    check_env(dream, skip_render_check=True)
    obs, _ = dream.reset(seed=0)
    assert list(obs) == LEAVES
    agent.predict(dream.step(0)[0])
    assert dream.render().shape == (12, 10, 3)


@INFINITE
def test_sb3_checks_a_dream(run: Path) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(DreamEnv(Agent.load(run)), warn=False, skip_render_check=True)


def test_rollouts_show_the_picture(run: Path) -> None:
    found = dreams.measure_rollouts(run)
    assert set(found.errors) == {dreams.FRESH, dreams.REPLAY}
    assert found.strip is not None
    assert found.strip.shape[2:] == (12, 10, 3)
    assert all((errors.copy > 0).all() for errors in found.errors.values())


@INFINITE
def test_leaves_that_are_not_reconstructed_are_missing_in_dreams(tmp_path: Path) -> None:
    agent = Agent(env_id(Mixed), tiny({"env.reconstruct": ("doors", "dials")}))
    agent.learn(30, run_dir=tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert "world_model/reconstruction/dials" in rows[-1]
    assert "world_model/reconstruction/robot/camera" not in rows[-1]
    agent = Agent.load(tmp_path / "run")
    dream = DreamEnv(agent)
    assert list(dream.observation_space) == ["dials", "doors/0", "doors/1"]
    check_env(dream, skip_render_check=True)
    found = dreams.measure_rollouts(tmp_path / "run")
    assert found.strip is None
    assert np.isfinite(found.errors[dreams.FRESH].rollout).all()


def test_names_in_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"env\.reconstruct: .*'dial'; did you mean dials"):
        Agent(env_id(Mixed), tiny({"env.reconstruct": ("dial",)}))
    with pytest.raises(ConfigError, match=r"env\.observe: .*'dial'; did you mean dials"):
        Agent(env_id(Mixed), tiny({"env.observe": ("dial",)}))
    with pytest.raises(ConfigError, match=r"env\.reconstruct: .*'dials'"):  # it is not observed
        Agent(
            env_id(Mixed),
            tiny({"env.observe": ("robot",), "env.reconstruct": ("dials",)}),
        )


def test_other_observations_do_not_fit_a_checkpoint(run: Path) -> None:
    with pytest.raises(CheckpointError, match="was made for observations dials: one-hot 4 of"):
        Agent.load(run, env=Cards)


@pytest.mark.parametrize("name", ["FrozenLake-v1", env_id(Cards), env_id(Both)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(name: str, tmp_path: Path) -> None:
    Agent(name, tiny()).learn(60, run_dir=tmp_path / "whole")
    Agent(name, tiny()).learn(40, run_dir=tmp_path / "run")
    Agent.load(tmp_path / "run").learn(20)
    assert_same_run(tmp_path / "whole", tmp_path / "run", files=False)
