"""Rollout errors: hand-computed values."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("matplotlib")

from lab import rollout_error

import drama
from drama import presets

ENV = "drama/Catch-v0"


def windows(reward: list[float], end: list[bool]) -> rollout_error.Windows:
    """One window of frames whose brightness rises by one a step."""
    length = len(reward)
    obs = torch.arange(length, dtype=torch.uint8)[None, :, None, None, None].expand(1, -1, 2, 2, 3)
    return rollout_error.Windows(
        obs, torch.zeros(1, length, dtype=torch.int64), torch.tensor([reward]), torch.tensor([end])
    )


def test_outcomes_match_hand_computed_values() -> None:
    seen = windows([9.0, 0.0, 1.0, -2.0, 0.0], [False, False, False, False, True])
    reward = torch.tensor([[0.6, 0.4, -1.1, -0.1]])  # of the last four; the first was read
    end = torch.tensor([[False, True, False, False]])
    found = rollout_error.outcomes(reward, end, seen, context=1)
    # 1 predicted as 0.4 is missed, -2 as -1.1 recalled; of the zeros 0.6 is false, -0.1 is not.
    assert (found["reward_found"], found["reward_made_up"]) == (0.5, 0.5)
    assert (found["end_found"], found["end_made_up"]) == (0.0, 0.3333)
    assert (found["rewards"], found["ends"]) == (2, 1)


def test_frame_error_matches_hand_computed_values() -> None:
    black = torch.zeros(2, 2, 2, 3, dtype=torch.uint8)
    grey = torch.full_like(black, 51)  # a fifth: 12 values of 1/25 each
    assert rollout_error.error(grey, black) == pytest.approx(12 / 25)


def test_game_without_rollouts_has_an_empty_panel(tmp_path: Path) -> None:
    errors = {key: [1.0, 2.0] for key in ("dream", "last_frame", "reconstruction")}
    result = {
        "horizon": 2,
        "variants": {"ours": "Ours"},
        "games": ["none/Yet-v0", ENV],
        "runs": [{"variant": "ours", "env": ENV, "seed": 0, **errors}],
    }
    rollout_error.draw(result, tmp_path / "dream.png")
    assert (tmp_path / "dream.png").stat().st_size > 1000


def test_rollouts_of_an_untrained_agent_are_measured() -> None:
    agent = drama.Agent(ENV, presets.quick(), seed=0)
    seen = rollout_error.play(agent, length=5, windows=6, episodes=4)
    assert seen.obs.shape == (6, 5, 32, 32, 3)
    # Catch takes seven steps: windows of five begin at the first three.
    assert seen.terminated.sum() == seen.terminated[:, -1].sum() > 0
    found = rollout_error.compare(agent, seen, context=2)
    assert len(found["dream"]) == len(found["last_frame"]) == 3
    first = (seen.obs[:, 2].float() - seen.obs[:, 1].float()) / 255
    assert found["last_frame"][0] == pytest.approx(float(first.square().sum()) / 6, rel=1e-3)
    with pytest.raises(SystemExit, match="no episode"):
        rollout_error.play(agent, length=30, windows=6, episodes=2)
