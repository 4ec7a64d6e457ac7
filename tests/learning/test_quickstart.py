"""Target of the quickstart: at least 0.9 of the optimum on every seed. Minutes each."""

import pytest

import drama


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quick_preset_learns_catch(seed, tmp_path):
    agent = drama.Agent("drama/Catch-v0", drama.presets.quick(), seed=seed)
    agent.learn(agent.config.steps, run_dir=tmp_path / "run")
    result = agent.evaluate(episodes=100, greedy=True)
    assert result.optimum == 1.0
    assert result.mean >= 0.9 * result.optimum
