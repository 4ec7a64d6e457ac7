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
    # PyTorch's own, while it traces an autograd function.
    "ignore:.*should not be instantiated:DeprecationWarning",
)

Changes = dict[str, Any]


def agree(changes: Changes, updates: int) -> None:
    """Compiled updates draw the same numbers and log the same ones as eager updates."""
    fast, plain = trainer(**changes, **{"training.compile": True}), trainer(**changes)
    for _ in range(updates):
        for purpose in PURPOSES:
            found, expected = learn(fast, purpose), learn(plain, purpose)
            assert found.keys() == expected.keys()
            for name, value in expected.items():
                if name == "explained_variance":
                    continue  # a quotient of two numbers that are nearly nothing here
                torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    for model in ("world_model", "behaviour"):
        weights = getattr(plain.learner, model).state_dict()
        assert getattr(fast.learner, model).state_dict().keys() == weights.keys()
        for name, tensor in getattr(fast.learner, model).state_dict().items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=2e-3, msg=name)


def trace(function: Callable[..., Any]) -> Callable[..., Any]:
    """Traced as for compilation, then run eagerly: a break in the graph would be an error."""
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
def test_nor_does_asking_about_every_action_break_one(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(compiled, "_compile", trace)
    agree({"behaviour.actor_gradient": "all-actions", "behaviour.policy_context": memory}, 2)


def test_a_break_in_a_graph_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_compiled_code_gives_the_same_numbers(backbone: str) -> None:
    torch.compiler.reset()
    agree({"world_model.dynamics.name": backbone}, 3)


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    agent = Agent("drama/Catch-v0", config=tiny({"training.compile": True}))
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        agent.learn(30)


def test_the_compiler_that_was_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/not/there/c++ -O2")
    agent = Agent("drama/Catch-v0", config=tiny({"training.compile": True}))
    with pytest.raises(ConfigError, match="tried /not/there/c\\+\\+\\)"):
        agent.learn(30)
