"""``Agent.predict``: batches, states, observations."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from tests.training.faulty_envs import Walk
from tests.training.runs import tiny

from drama import Agent
from drama.envs import ObservationAdapter, adapt
from drama.envs.adapt import adapter_of, as_batch
from drama.errors import EnvError


def frames(*lead: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*lead, 32, 32, 3), dtype=np.uint8)


def test_predict_accepts_one_observation_or_a_batch(catch: Agent) -> None:
    obs = frames(3)
    actions, state = catch.predict(obs, deterministic=True)
    assert actions.shape == (3,)
    assert actions.dtype.kind == "i"
    for i in range(3):
        action, single = catch.predict(obs[i], deterministic=True)
        assert np.ndim(action) == 0
        assert action == actions[i]
        assert catch.action_space.contains(action)
        torch.testing.assert_close(single.deter[0], state.deter[i])


def test_deterministic_predict_uses_no_random_numbers(catch: Agent) -> None:
    obs = frames(5)
    before = catch._generator.get_state()
    first, state = catch.predict(obs, deterministic=True)
    second, again = catch.predict(obs, deterministic=True)
    assert np.array_equal(first, second)
    assert torch.equal(state.deter, again.deter)
    assert torch.equal(before, catch._generator.get_state())


def test_sampled_actions_differ_and_depend_on_the_seed() -> None:
    obs = frames(64)
    draws = [Agent("drama/Catch-v0", tiny(), seed=s).predict(obs)[0] for s in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert set(draws[0]) == {0, 1, 2}  # a new policy is uniform


def test_state_carries_the_past_and_episode_start_resets_it(catch: Agent) -> None:
    past, now = frames(2, 3)
    _, carried = catch.predict(past, deterministic=True)
    kept = copy.deepcopy(carried)
    _, on = catch.predict(now, carried, np.array([False] * 3), deterministic=True)
    _, fresh = catch.predict(now, deterministic=True)
    _, mixed = catch.predict(now, carried, np.array([True, False, True]), deterministic=True)
    assert not torch.allclose(on.deter, fresh.deter)
    torch.testing.assert_close(mixed.deter[[0, 2]], fresh.deter[[0, 2]])
    torch.testing.assert_close(mixed.deter[1], on.deter[1])
    # The passed state can be used again.
    assert torch.equal(carried.deter, kept.deter)
    _, default = catch.predict(now, carried, deterministic=True)
    assert torch.equal(default.deter, on.deter)


def test_raw_and_adapted_observations_are_accepted() -> None:
    class Grey(Walk):
        """Float images and actions that start at 5: both have to be adapted."""

        observation_space = gym.spaces.Box(0.0, 1.0, (16, 16), np.float32)
        action_space = gym.spaces.Discrete(3, start=5)

        def _obs(self) -> Any:
            return self.np_random.random((16, 16), dtype=np.float32)

    agent = Agent(Grey, tiny({"env.image_size": 16})).learn(26)
    raw = np.random.default_rng(0).random((4, 16, 16), dtype=np.float32)
    actions, state = agent.predict(raw, deterministic=True)
    assert set(actions) <= {5, 6, 7}
    adapted, _ = agent.get_env().reset()
    assert adapted.dtype == np.uint8
    action, _ = agent.predict(adapted, deterministic=True)
    assert action in (0, 1, 2)
    single, _ = agent.predict(raw[0], deterministic=True)
    assert single == actions[0]
    assert state.deter.shape[0] == 4
    returns, _ = evaluate_policy(agent, Grey(), 2, warn=False, return_episode_rewards=True)
    assert len(returns) == 2


class Dim(Walk):
    """Images with the agent's shape and type, but a maximum of 10; actions start at 1."""

    observation_space = gym.spaces.Box(0, 10, (16, 16, 3), np.uint8)
    action_space = gym.spaces.Discrete(2, start=1)

    def _obs(self) -> Any:
        return np.full((16, 16, 3), 10, np.uint8)


def test_ambiguous_observations_are_read_as_adapted() -> None:
    agent = Agent(Dim, tiny({"env.image_size": 16}))
    dim, _ = Dim().reset()
    bright, _ = agent.get_env().reset()
    assert (dim.max(), bright.max()) == (10, 255)
    adapted = ObservationAdapter(agent.observation_space, channels_last=True)
    for obs in (dim, bright):
        read, single, raw = as_batch(obs, adapted, adapter_of(agent.env))
        assert np.array_equal(read[0], obs)
        assert (single, raw) == (True, False)
    assert set(agent.predict(np.stack([dim] * 40))[0]) == {0, 1}
    # As documented: the adapted environment accepts these actions.
    env = adapt(Dim(), image_size=16)
    returns, _ = evaluate_policy(agent, env, 2, warn=False, return_episode_rewards=True)
    assert len(returns) == 2


@pytest.mark.parametrize(
    "shape", [(), (3,), (32, 32), (32, 32, 4), (16, 16, 3), (2, 3, 32, 32, 3), (3, 32, 32)]
)
def test_observations_of_another_shape_are_refused(shape: tuple[int, ...], catch: Agent) -> None:
    with pytest.raises(EnvError, match="fit"):
        catch.predict(np.zeros(shape, np.uint8))


def test_observations_of_another_kind_are_refused(cart: Agent) -> None:
    with pytest.raises(EnvError):
        cart.predict(np.zeros(5, np.float32))
    with pytest.raises(EnvError):
        cart.predict(np.array(["a", "b", "c", "d"]))


@pytest.mark.parametrize(
    ("observation", "what"),
    [
        (None, "fit"),
        ({}, "fit"),
        ("abcd", "fit"),
        ([[0.0], [0.0, 1.0]], "must be an array, got list"),
        ((np.zeros(4, np.float32), {}), r"got tuple; reset\(\) returns \(obs, info\)"),
        (np.array([0, 0, np.nan, 0], np.float32), "contains NaN or Inf"),
        (np.array([0, 0, np.inf, 0]), "contains NaN or Inf"),
    ],
)
def test_invalid_observations_are_refused(observation: Any, what: str, cart: Agent) -> None:
    with pytest.raises(EnvError, match=what) as caught:
        cart.predict(observation)
    assert "\n" not in str(caught.value)


def test_invalid_states_are_refused(cart: Agent) -> None:
    obs = np.zeros(4, np.float32)
    with pytest.raises(EnvError, match=r"state must be what the last call returned, .* got tuple"):
        cart.predict(obs, (1, 2))
    with pytest.raises(EnvError, match=r"episode_start must be bool \(1,\), got 'a'"):
        cart.predict(obs, cart.predict(obs)[1], "a")


def test_episode_starts_of_another_batch_size_are_refused(catch: Agent) -> None:
    _, state = catch.predict(frames(2))
    with pytest.raises(EnvError):
        catch.predict(frames(2), state, np.ones(3, dtype=bool))
    with pytest.raises(EnvError):
        catch.predict(frames(3), state)
