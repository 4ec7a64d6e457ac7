"""What limits a policy: blind actions, retrained policies, one-step lookahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from lab import policy
from lab.runs import beginning, continued
from lab.tests.measured import measured

from drama import Agent
from drama.behaviour import Behaviour


def test_evaluation_follows_the_policy_and_makes_no_updates(run: Path) -> None:
    with continued(run, {"training.overlap": True}) as (agent, _):
        with torch.no_grad():  # a policy of one action only
            for name, value in agent.behaviour.named_parameters():
                if name.startswith("actor"):
                    value.zero_()
            last = [p for n, p in agent.behaviour.named_parameters() if n.startswith("actor")][-1]
            last[2] = 50.0
        trainer = beginning(agent, 3)
        for _ in range(30):
            trainer.collect()
        assert trainer.stream.actions == [2] * 30
        assert trainer.learner.updates == {"world_model": 0, "behaviour": 0}


def test_blind_case_compares_policy_with_marginal_frequencies(run: Path, tmp_path: Path) -> None:
    (row,) = measured(policy, "blind", run, tmp_path, "--episodes", "4")
    assert abs(sum(row["shares"]) - 1) < 0.01
    assert len(row["shares"]) == 3
    assert len(row["seeing"]) == len(row["unseeing"]) == 4
    assert {*row["seeing"], *row["unseeing"]} <= {-1.0, 1.0}


def agent_steps(run: Path) -> int:
    """Length of an episode, which is constant in the game."""
    (length,) = {e.length for e in Agent.load(run).evaluate(4).episodes}
    return length


def test_lookahead_case_compares_policy_with_lookahead(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    length, asked = agent_steps(run), []
    original = Behaviour.improved_log_probs

    def improved_log_probs(
        self: Behaviour, log_probs: torch.Tensor, q_values: torch.Tensor
    ) -> torch.Tensor:
        asked.append(q_values.shape)
        return original(self, log_probs, q_values)

    monkeypatch.setattr(Behaviour, "improved_log_probs", improved_log_probs)
    options = ("--episodes", "4", "--futures", "2")
    alone, ahead = measured(policy, "lookahead", run, tmp_path, *options)
    assert (alone["case"], ahead["case"]) == ("the policy alone", "lookahead, 2 samples per action")
    assert {*alone["greedy"], *alone["sampled"], *ahead["greedy"], *ahead["sampled"]} <= {-1.0, 1.0}
    assert {tuple(shape) for shape in asked} == {(4, 3)}
    # Lookahead runs once per step, in two modes and two calls; never with the policy alone.
    assert len(asked) == length * 2 * 2


def test_blind_return_depends_on_action_frequencies_only() -> None:
    class Game(gym.Env[int, int]):
        """Reward is the action's index in every state; eight steps."""

        def reset(self, **_: Any) -> tuple[int, dict[str, Any]]:
            self.step_ = 0
            return 0, {}

        def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
            self.step_ += 1
            return 0, float(action), self.step_ == 8, False, {}

    rng = np.random.default_rng(0)
    assert policy.blindly(Game(), np.array([0.0, 0.0, 1.0]), rng) == 16
    mean = np.mean([policy.blindly(Game(), np.array([0.5, 0.5, 0.0]), rng) for _ in range(400)])
    assert abs(mean - 4) < 0.3


def test_retraining_resets_the_policy_and_keeps_the_model(run: Path) -> None:
    with continued(run, {"behaviour.entropy": 0.5}) as (agent, trainer):
        assert agent.config.behaviour.entropy == 0.5
        model = {k: v.clone() for k, v in agent.world_model.state_dict().items()}
        size = agent.world_model.stoch_size + agent.config.world_model.dynamics.width
        features = torch.randn(4, size, generator=torch.Generator().manual_seed(0))
        uniform = torch.full((4, 3), 1 / 3)
        assert not torch.allclose(
            agent.behaviour.policy(features).log_probs.exp(), uniform, atol=1e-4
        )
        policy.forget(agent, trainer)
        torch.testing.assert_close(agent.behaviour.policy(features).log_probs.exp(), uniform)
        for _ in range(3):
            trainer.update("behaviour")
        assert not torch.equal(agent.behaviour.policy(features).log_probs.exp(), uniform)
        for key, value in agent.world_model.state_dict().items():
            assert torch.equal(value, model[key]), key


def test_retrained_policy_is_recorded_with_every_return(run: Path, tmp_path: Path) -> None:
    options = ("--updates", "1", "--episodes", "2", "--cases", "entropy bonus 3e-3")
    (row,) = measured(policy, "retrained", run, tmp_path, *options)
    assert len(row["greedy"]) == len(row["sampled"]) == 2
    assert {*row["greedy"], *row["sampled"]} <= {-1.0, 1.0}
