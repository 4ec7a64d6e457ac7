"""Compiled updates: one graph each, and the same numbers as eager ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.training.runs import tiny
from tests.training.test_static_updates import (
    ALGORITHMS,
    BACKBONES,
    PURPOSES,
    RECOMPUTED,
    learn,
    trainer,
)

from drama import Agent
from drama.errors import ConfigError
from drama.training import compiled

pytestmark = pytest.mark.filterwarnings(
    # A warning of PyTorch while it traces an autograd function.
    "ignore:.*should not be instantiated:DeprecationWarning",
)

Changes = dict[str, Any]


def agree(changes: Changes, updates: int) -> None:
    """Assert that compiled updates sample and log the same values as eager ones."""
    fast, plain = trainer(**changes, **{"training.compile": True}), trainer(**changes)
    for _ in range(updates):
        for purpose in PURPOSES:
            found, expected = learn(fast, purpose), learn(plain, purpose)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                if name == "explained_variance":
                    continue  # a quotient of two very small numbers here
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    for model in ("world_model", "behaviour"):
        weights = getattr(plain.learner, model).state_dict()
        assert getattr(fast.learner, model).state_dict().keys() == weights.keys()
        for name, tensor in getattr(fast.learner, model).state_dict().items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=2e-3, msg=name)


def trace(function: Callable[..., Any]) -> Callable[..., Any]:
    """Trace as for compilation, then run eagerly: a graph break is an error."""
    traced: Callable[..., Any] = torch.compile(
        function, fullgraph=True, dynamic=False, backend="eager"
    )
    return traced


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_function_is_one_graph(
    backbone: str, algorithm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "_compile", trace)
    agree({"world_model.dynamics.name": backbone, "behaviour.algorithm": algorithm}, 2)


def test_recomputed_advantages_and_running_moments_are_one_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "_compile", trace)
    agree(RECOMPUTED, 2)


@pytest.mark.parametrize("memory", ["previous", "current"])
def test_q_values_of_all_actions_are_one_graph(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "_compile", trace)
    agree({"behaviour.actor_gradient": "all-actions", "behaviour.policy_context": memory}, 2)


def test_graph_break_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    made = trainer(**{"training.compile": True})
    original = made.learner.world_model.termination_head.forward

    def looks(x: torch.Tensor) -> torch.Tensor:
        return original(x) * (2.0 if float(x.sum()) > 0 else 1.0)

    monkeypatch.setattr(made.learner.world_model.termination_head, "forward", looks)
    with pytest.raises((torch._dynamo.exc.Unsupported, torch._dynamo.exc.UserError)):
        learn(made, "world_model")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning:torch._inductor", "ignore::DeprecationWarning")
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("backbone", ["mamba2", "gru"])
def test_compiled_updates_equal_eager_updates(backbone: str) -> None:
    torch.compiler.reset()
    agree({"world_model.dynamics.name": backbone}, 3)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    agent = Agent("drama/Catch-v0", config=tiny({"training.compile": True}))
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        agent.learn(30)


def test_requested_compiler_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/not/there/c++ -O2")
    agent = Agent("drama/Catch-v0", config=tiny({"training.compile": True}))
    with pytest.raises(ConfigError, match="tried /not/there/c\\+\\+\\)"):
        agent.learn(30)
