"""The exported step of a dream is the package's own imagination."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.export.agents import dream, made

from drama.export.modules import DreamStep, Encode, flat_state, state_leaves, unflatten
from drama.export.random import END, LATENTS, POLICY, PageRandom
from drama.export.starts import Start
from drama.ops.categorical import sample_categorical

NAMES = ("mamba2", "mamba1", "transformer", "gru")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("env", ["drama/Catch-v0", "CartPole-v1"])
@torch.no_grad()
def test_dream_is_that_of_imagination(name: str, env: str) -> None:
    changes = {"world_model.dynamics.name": name, "behaviour.policy_context": "current"}
    agent = made(env, changes)
    obs, _ = agent.new_env(0).reset()
    actions = [t % agent.world_model.actions.count for t in range(12)]
    found = dream(agent, Start(obs[None], np.array([], np.int64), "start"), 5, actions)

    world_model, imagination = agent.world_model.eval(), agent.player.imagination
    random, variables = PageRandom(5), agent.world_model.latent_variables

    def numbers() -> torch.Tensor:
        return torch.from_numpy(random.uniform(variables)).view(1, variables, 1)

    state = imagination.start(torch.from_numpy(obs)[None], numbers())
    for moment, action in zip(found, [*actions, None], strict=True):
        np.testing.assert_array_equal(moment.obs, world_model.decode(state.stoch)[0].numpy())
        features = imagination.features(state)
        policy = agent.behaviour.policy(features).log_probs.exp()[0]
        np.testing.assert_allclose(moment.policy, policy.numpy(), rtol=1e-5)
        assert moment.value == pytest.approx(float(agent.behaviour.value(features)), abs=1e-5)
        if action is not None:
            state = imagination.step(state, torch.tensor([action]), numbers())
    reward, end = imagination.outcome(state.deter)
    assert found[-1].reward == pytest.approx(float(reward), abs=1e-5)
    assert found[-1].end == pytest.approx(float(end), abs=1e-5)
    assert found[0].reward == found[0].end == 0.0
    assert len({tuple(moment.latent) for moment in found}) > 3


@torch.no_grad()
def test_context_is_read_as_an_open_loop_prediction_reads_it() -> None:
    agent = made("drama/Catch-v0")
    env = agent.new_env(0)
    frames, actions = [env.reset()[0]], [2, 0, 1]
    frames += [env.step(action)[0] for action in actions]
    found = dream(agent, Start(np.stack(frames), np.array(actions), "within"), 9, [])[-1]
    step, encode = DreamStep(agent.player), Encode(agent.player)
    random, variables = PageRandom(9), agent.world_model.latent_variables
    dynamics = agent.world_model.dynamics.init_state(1)
    for frame, action in itertools.zip_longest(frames, actions):
        numbers = torch.from_numpy(random.uniform(variables)).view(1, variables, 1)
        stoch = encode(torch.from_numpy(frame)[None], numbers)
        if action is not None:
            deter, dynamics = agent.world_model.step(stoch, torch.tensor([action]), dynamics)
    assert found.latent == stoch.view(variables, -1).argmax(-1).tolist()
    assert found.reward == pytest.approx(float(agent.world_model.reward(deter)), abs=1e-5)
    assert len(list(state_leaves(step.state, "state"))) == len(flat_state(step.state))


@torch.no_grad()
def test_temperature_0_1_takes_almost_the_mode() -> None:
    agent = made("drama/Catch-v0")
    step = DreamStep(agent.player).eval()
    variables, classes = 4, 4
    state = step.state
    state = state._replace(stoch=torch.eye(4).repeat(1, 4)[:1])
    given = (torch.zeros_like(state.stoch), torch.tensor([False]), torch.tensor([False]))
    deter, _ = agent.world_model.step(state.stoch, torch.tensor([1]), state.dynamics)
    prior = agent.world_model.prior(deter)[0]

    def share(temperature: float) -> float:
        hits = 0
        for seed in range(60):
            uniform = torch.rand(1, variables, 1, generator=torch.Generator().manual_seed(seed))
            results = step(
                torch.tensor([1]), uniform, torch.tensor([temperature]), *given, *flat_state(state)
            )
            after = unflatten(state, results[5:])
            hits += int((after.stoch.view(variables, classes).argmax(-1) == prior.argmax(-1)).sum())
        return hits / (60 * variables)

    expected = float(prior.exp().amax(-1).mean())
    assert share(1.0) == pytest.approx(expected, abs=0.12)
    assert share(0.1) > max(0.85, share(1.0))


def test_sampling_when_exported_is_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(64, 16, 7, generator=generator).log_softmax(-1)
    log_probs[:, :, 3] = -torch.inf
    uniform = torch.rand(64, 16, 1, generator=generator)
    uniform[0] = 0.0
    expected = sample_categorical(log_probs, uniform)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert torch.equal(sample_categorical(log_probs, uniform), expected)


def test_numbers_of_the_page() -> None:
    numbers = PageRandom(7).uniform(4000)
    assert numbers.dtype == np.float32
    assert (numbers >= 0).all()
    assert (numbers < 1).all()
    # PCG-RXS-M-XS with 32 bits by hand, for state 0: the word is 0, and the next state 2891336453.
    first = PageRandom(0).uniform(2)
    word = ((2891336453 >> ((2891336453 >> 28) + 4)) ^ 2891336453) * 277803737 % 2**32
    assert first.tolist() == [0.0, (((word >> 22) ^ word) >> 8) / 2**24]
    assert numbers.mean() == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(numbers[:-1], numbers[1:])[0, 1] == pytest.approx(0, abs=0.05)
    streams = [PageRandom(7, stream).uniform(8).tolist() for stream in (LATENTS, END, POLICY)]
    assert len({tuple(stream) for stream in streams}) == 3
    assert PageRandom(2**32 + 7).uniform(4).tolist() == numbers[:4].tolist()
