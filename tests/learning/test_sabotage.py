"""The faults take effect while they are applied, and the command reports whether a check fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.learning import sabotage
from tests.learning.checks import CHECKS
from tests.training.faulty_envs import Walk, env_id
from tests.training.runs import tiny

from drama import Agent
from drama.behaviour.actor_critic import ActorCritic
from drama.config import ReplayConfig
from drama.observations import ObsSpace
from drama.replay import ReplayBuffer
from drama.types import Transition


def gain() -> torch.Tensor:
    rollout: Any = SimpleNamespace(q_values=None, action=torch.tensor([0]))
    policy: Any = SimpleNamespace(log_prob=lambda action: torch.tensor([-0.5]))
    found: torch.Tensor = ActorCritic._gain(None, rollout, policy, torch.tensor([2.0]), None)[0]  # type: ignore[arg-type]
    return found


def test_sign_of_the_actor_is_broken_inside_only() -> None:
    assert gain().item() == -1.0
    with sabotage.fault("actor-sign"):
        assert gain().item() == 1.0
    assert gain().item() == -1.0


def stored() -> list[float]:
    replay = ReplayBuffer(ReplayConfig(capacity=8), ObsSpace.vector(2))
    for reward in (1.0, 2.0, 3.0):
        obs = np.zeros(2, np.float32)
        replay.append(Transition(obs, False, 0, reward, False, False, False))
    return [float(reward) for reward in replay.columns["reward"][:3]]


def test_rewards_are_stored_one_step_late() -> None:
    assert stored() == [1.0, 2.0, 3.0]
    with sabotage.fault("shifted-reward"):
        assert stored() == [0.0, 1.0, 2.0]


def encoder_moves() -> tuple[bool, bool]:
    """Return whether training changes the encoder, and the rest of the world model."""
    agent = Agent(env_id(Walk), tiny(), seed=0)
    before = {name: p.clone() for name, p in agent.world_model.named_parameters()}
    agent.learn(40)
    moved = {
        name: not torch.equal(before[name], p) for name, p in agent.world_model.named_parameters()
    }
    encoder = [changed for name, changed in moved.items() if name.startswith("encoder.")]
    rest = [changed for name, changed in moved.items() if not name.startswith("encoder.")]
    assert encoder
    return any(encoder), any(rest)


def test_encoder_is_frozen() -> None:
    assert encoder_moves() == (True, True)
    with sabotage.fault("frozen-encoder"):
        assert encoder_moves() == (False, True)


@pytest.mark.parametrize("name", sabotage.FAULTS)
@pytest.mark.parametrize(("found", "code"), [(0.89, 0), (0.9, 1)])
def test_command_succeeds_if_the_check_fails(
    name: str,
    found: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sabotage, "score", lambda check, seed: found)
    assert sabotage.main([name]) == code
    assert ("NOT NOTICED" in capsys.readouterr().out) == bool(code)
    assert CHECKS["catch"].least == 0.9
