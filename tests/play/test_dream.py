"""A dream returns the world model's predictions and does not change the agent."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import drama
from drama.errors import ConfigError, EnvError


@pytest.fixture
def agent():
    config = drama.presets.quick()
    model = dataclasses.replace(
        config.world_model,
        filters=(4, 8),
        spatial_latents=0,
        latent_variables=4,
        latent_classes=4,
        dynamics=dataclasses.replace(config.world_model.dynamics, width=32, headdim=16),
    )
    return drama.Agent("drama/Catch-v0", dataclasses.replace(config, world_model=model), seed=3)


def test_dream_passes_the_gymnasium_checker(agent):
    check_env(drama.DreamEnv(agent, max_episode_steps=5), skip_render_check=True)


def test_steps_equal_the_world_model_predictions(agent):
    env = drama.DreamEnv(agent, sample_termination=False)
    frame, _ = env.reset(seed=11)
    real = agent.new_env(life_loss=True).reset(seed=11)[0]
    np.testing.assert_array_equal(frame, real)

    model, generator = agent.world_model, torch.Generator().manual_seed(11)
    with torch.no_grad():
        stoch = model.sample(model.posterior(torch.from_numpy(real)[None]), generator)
        deter, state = model.step(stoch, torch.tensor([2]), model.dynamics.init_state(1))
        stoch = model.sample(model.prior(deter), generator)
        obs, reward, _, _, info = env.step(2)
        expected = model.decoder.to_obs(model.decoder(stoch))[0].numpy()
        np.testing.assert_array_equal(obs, expected)
        assert reward == float(model.reward(deter))
        assert info["termination"] == float(model.termination(deter))
        deter, _ = model.step(stoch, torch.tensor([0]), state)  # the second step carries the state
        assert env.step(0)[4]["termination"] == float(model.termination(deter))


def test_terminations_follow_the_continuation_head(agent):
    torch.nn.init.constant_(agent.world_model.termination_head.out.bias, 20.0)
    env = drama.DreamEnv(agent)
    env.reset(seed=0)
    assert env.step(0)[2]
    torch.nn.init.constant_(agent.world_model.termination_head.out.bias, -20.0)
    env = drama.DreamEnv(agent, max_episode_steps=2)
    env.reset(seed=0)
    assert env.step(0)[2:4] == (False, False)
    assert env.step(0)[2:4] == (False, True)


def test_agent_is_unchanged(agent):
    before = {k: v.clone() for k, v in agent.world_model.state_dict().items()}
    env = drama.DreamEnv(agent)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    after = agent.world_model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_dreams_follow_a_seed_and_differ_without(agent):
    def dream(env, seed=None):
        return [env.reset(seed=seed)[0], *(env.step(i % 3)[0] for i in range(4))]

    def same(one, other):
        return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))

    a, b = drama.DreamEnv(agent), drama.DreamEnv(agent)
    assert same(dream(a, 5), dream(b, 5))
    assert same(dream(a), dream(b))  # later steps too
    others = [dream(drama.DreamEnv(agent)) for _ in range(4)]
    assert not all(same(others[0], other) for other in others[1:])


def test_invalid_use_is_reported(agent):
    with pytest.raises(ConfigError, match="max_episode_steps"):
        drama.DreamEnv(agent, max_episode_steps=0)
    env = drama.DreamEnv(agent)
    with pytest.raises(EnvError, match="reset"):
        env.step(0)
    env.reset(seed=0)
    with pytest.raises(EnvError, match="action 7"):
        env.step(7)
