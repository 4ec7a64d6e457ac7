"""A task of picture and vector together is solved only by reading both. Minutes each."""

import pytest
from tests.nested import Both, env_id

import drama

BEST = float(Both.length)


def mean_return(seed, path, **settings):
    agent = drama.Agent(env_id(Both), drama.presets.quick().override(settings), seed=seed)
    agent.learn(10_000, run_dir=path / "run")
    return agent.evaluate(episodes=50).mean


@pytest.mark.learning
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_picture_and_vector_are_read_together(seed, tmp_path):
    assert mean_return(seed, tmp_path) >= 0.9 * BEST


@pytest.mark.learning
@pytest.mark.parametrize("leaf", ["picture", "vector"])
def test_either_alone_is_not_enough(leaf, tmp_path):
    found = mean_return(0, tmp_path, **{"env.observe": (leaf,)})
    assert 0.3 * BEST <= found <= 0.7 * BEST
