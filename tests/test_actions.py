"""The action space: stored actions, model inputs and environment actions."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from drama.actions import ActionSpace, Categorical
from drama.errors import CheckpointError, EnvError

SPACE = ActionSpace(3)


def test_an_encoded_action_is_one_hot_and_the_null_action_is_zero() -> None:
    encoded = SPACE.encode(torch.tensor([[2, 0]]), torch.float64)
    assert encoded.dtype == torch.float64
    assert encoded.tolist() == [[[0, 0, 1], [1, 0, 0]]]
    assert encoded.shape[-1] == SPACE.encoded_size
    null = SPACE.null((2,), torch.device("cpu"))
    assert SPACE.encode(null, torch.float32).tolist() == [[0, 0, 0]] * 2


def test_policy_matches_hand_computed_values() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    policy = SPACE.policy(probs.log())
    assert policy.mode().tolist() == [0, 2]
    torch.testing.assert_close(
        policy.log_prob(torch.tensor([1, 2])), torch.tensor([0.25, 0.8]).log()
    )
    torch.testing.assert_close(policy.entropy()[0], torch.tensor(1.5 * np.log(2.0)).float())
    sampled = Categorical(policy.log_probs.expand(1000, 2, 3)).sample(torch.Generator())
    assert sampled.dtype == SPACE.dtype
    counts = torch.nn.functional.one_hot(sampled, 3).double().mean(0)
    torch.testing.assert_close(counts.float(), probs, atol=0.05, rtol=0)


def test_given_noise_gives_the_sample_of_the_generator() -> None:
    policy = SPACE.policy(torch.randn(50, 3))
    noise = SPACE.noise(50, policy.log_probs, torch.Generator().manual_seed(1))
    expected = policy.sample(torch.Generator().manual_seed(1))
    assert torch.equal(policy.sample(noise), expected)


def test_actions_map_to_environments_and_back() -> None:
    space = ActionSpace.of(gym.spaces.Discrete(4))
    assert space == ActionSpace(4)
    batch = space.to_tensor([3, 0], torch.device("cpu"))
    assert batch.dtype == space.dtype
    assert space.to_host(batch) == [3, 0]
    assert {space.random(np.random.default_rng(seed)) for seed in range(40)} == {0, 1, 2, 3}
    assert space.check(np.int64(2)) == 2
    for wrong in (4, -1, 0.5, "left", None):
        with pytest.raises(EnvError, match=r"is not one of 0\.\.3"):
            space.check(wrong)


def test_action_log_is_int32_and_checked() -> None:
    packed = SPACE.pack([0, 2, 1])
    assert packed.dtype == torch.int32
    assert SPACE.unpack(packed) == [0, 2, 1]
    for wrong in (-1, 3):
        with pytest.raises(CheckpointError, match=r"none of 0\.\.2"):
            SPACE.unpack(torch.tensor([0, wrong], dtype=torch.int32))


def test_checkpoint_records_the_action_space() -> None:
    assert SPACE.state() == {"num_actions": 3}
    assert ActionSpace.from_state({"num_actions": 3}) == SPACE != ActionSpace(2)
