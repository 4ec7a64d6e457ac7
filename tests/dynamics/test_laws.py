"""The four laws of a sequence model, for every registered backbone, forward and gradient.

All in float64, so that a violation cannot hide behind rounding. Each law names two ways to compute
the same outputs and the same final state; the gradients of one random projection of both, with
respect to the input, the initial state and every parameter, have to agree as well.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.runs import tiny
from torch import Tensor

from drama import Agent
from drama.dynamics import (
    DynamicsConfig,
    make_dynamics,
    map_state,
    peek,
    registered,
    restart,
    step_inplace,
    unroll,
    where_state,
)
from drama.registry import SEQUENCE_MODELS

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_dynamics.py"
runpy.run_path(str(EXAMPLE))  # registers "leaky", so that the laws are checked for it as well

BATCH, WIDTH = 3, 16
CASES: dict[str, dict[str, Any]] = {
    # One chunk, one layer, a window of attention longer than the sequence.
    "short": {"length": 7, "layers": 1, "chunk_size": 64, "context": 16},
    # Several chunks, the last one ragged, two layers, attention that forgets.
    "long": {"length": 21, "layers": 2, "chunk_size": 4, "context": 5},
    # The convolution and the attention see one step only; chunks of one step.
    "narrow": {"length": 5, "layers": 2, "chunk_size": 1, "context": 1, "d_conv": 1},
}

Result = tuple[Tensor, Any]


class Problem:
    """A backbone in float64 with a carried state, an input and resets at awkward places."""

    def __init__(self, name: str, length: int, **sizes: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        torch.manual_seed(0)
        config = DynamicsConfig(
            name=name, width=WIDTH, d_state=3, headdim=8, expand=2, num_heads=2, **sizes
        )
        self.model: Any = make_dynamics(config).double()
        for parameter in self.model.parameters():  # no gain at 1, no bias at 0
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.1 * noise
        self.x = torch.randn(BATCH, length, WIDTH, generator=generator, dtype=torch.float64)
        warm_up = torch.randn(BATCH, 6, WIDTH, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            state = self.model(warm_up)[1]
        # Leaf tensors, so that the gradient of the carried state is checked too.
        self.leaves: list[Tensor] = [self.x.requires_grad_()]
        self.state = map_state(self._leaf, state)
        # Row 0: none. Row 1: at the start and the end. Row 2: two in a row, inside a chunk.
        self.is_first = torch.zeros(BATCH, length, dtype=torch.bool)
        self.is_first[1, 0] = self.is_first[1, -1] = True
        self.is_first[2, 2:4] = True
        self.length = length

    def _leaf(self, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        if tensor.is_floating_point():
            self.leaves.append(tensor.requires_grad_())
        return tensor

    def steps(self, is_first: Tensor | None, state: Any) -> Result:
        outputs = []
        for t in range(self.length):
            if is_first is not None:
                state = where_state(is_first[:, t], self.model.init_state(BATCH), state)
            y, state = self.model.step(self.x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


def parallel_equals_steps(p: Problem) -> tuple[Result, Result]:
    return p.model(p.x, None, p.state), p.steps(None, p.state)


def parallel_equals_steps_with_resets(p: Problem) -> tuple[Result, Result]:
    return p.model(p.x, p.is_first, p.state), p.steps(p.is_first, p.state)


def split_equals_whole(p: Problem) -> tuple[Result, Result]:
    cut = p.length // 2
    first, state = p.model(p.x[:, :cut], p.is_first[:, :cut], p.state)
    second, state = p.model(p.x[:, cut:], p.is_first[:, cut:], state)
    return p.model(p.x, p.is_first, p.state), (torch.cat([first, second], dim=1), state)


def reset_equals_fresh_start(p: Problem) -> tuple[Result, Result]:
    k = 3
    is_first = torch.zeros(BATCH, p.length, dtype=torch.bool)
    is_first[:, k] = True
    before, _ = p.model(p.x[:, :k], None, p.state)
    after, state = p.model(p.x[:, k:])
    return p.model(p.x, is_first, p.state), (torch.cat([before, after], dim=1), state)


def no_output_depends_on_later_input(p: Problem) -> tuple[Result, Result]:
    k = p.length // 2
    changed = torch.cat([p.x[:, :k], p.x[:, k:] + 1.0], dim=1)
    original, _ = p.model(p.x, p.is_first, p.state)
    disturbed, _ = p.model(changed, p.is_first, p.state)
    return (original[:, :k], ()), (disturbed[:, :k], ())


LAWS: list[Callable[[Problem], tuple[Result, Result]]] = [
    parallel_equals_steps,
    parallel_equals_steps_with_resets,
    split_equals_whole,
    reset_equals_fresh_start,
    no_output_depends_on_later_input,
]


def flatten(result: Result) -> list[Tensor]:
    tensors: list[Tensor] = []
    map_state(lambda t: (tensors.append(t), t)[1], result)
    return tensors


def gradients(result: Result, problem: Problem) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    total = torch.zeros((), dtype=torch.float64)
    for tensor in flatten(result):
        if tensor.is_floating_point():
            weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            total = total + (tensor * weights).sum()
    wanted = [*problem.leaves, *problem.model.parameters()]
    return list(torch.autograd.grad(total, wanted, materialize_grads=True))


@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", registered())
def test_law(name: str, law: Callable[[Problem], tuple[Result, Result]], case: str) -> None:
    problem = Problem(name, **CASES[case])
    one, other = law(problem)
    for left, right in zip(flatten(one), flatten(other), strict=True):
        if left.is_floating_point():
            torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)
        else:
            assert torch.equal(left, right)
    for left, right in zip(gradients(one, problem), gradients(other, problem), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", registered())
def test_no_gradient_flows_into_later_inputs(name: str) -> None:
    problem = Problem(name, **CASES["long"])
    y, _ = problem.model(problem.x, None, problem.state)
    (gradient,) = torch.autograd.grad(y[:, 9].sum(), problem.x)
    assert gradient[:, 9].abs().min() > 0
    assert (gradient[:, 10:] == 0).all()


def test_the_laws_can_fail() -> None:
    problem = Problem("gru", **CASES["short"])
    problem.model.step = lambda x, state: (x, state)  # does nothing
    one, other = parallel_equals_steps(problem)
    assert not torch.allclose(one[0], other[0])


def test_the_example_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SEQUENCE_MODELS, "registered", {})
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "equals its steps" in capsys.readouterr().out


@pytest.mark.parametrize("name", registered())
def test_every_model_learns_in_bfloat16(name: str, tmp_path: Path) -> None:
    changes = {"world_model.dynamics.name": name, "training.precision": "bfloat16"}
    agent = Agent("drama/Catch-v0", tiny(changes))
    before = {k: v.clone() for k, v in agent.world_model.dynamics.state_dict().items()}
    agent.learn(34, run_dir=tmp_path / "run")
    after = agent.world_model.dynamics.state_dict()
    assert all(v.isfinite().all() for v in after.values())
    assert any(not torch.equal(v, after[k]) for k, v in before.items())


@pytest.mark.parametrize("name", registered())
def test_peek_has_gradients_where_they_are_needed(name: str) -> None:
    p = Problem(name, **CASES["long"])
    x = p.x[:, 0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(peek(p.model, x, p.state).sum(), x)
    (expected,) = torch.autograd.grad(p.model.step(x, p.state)[0].sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("name", registered())
@torch.no_grad()
def test_peek_is_the_output_of_a_step(name: str) -> None:
    p = Problem(name, **CASES["long"])
    state = p.state
    for t in range(p.length):
        before = map_state(torch.clone, state)
        output = peek(p.model, p.x[:, t], state)
        for a, b in zip(flatten(before), flatten(state), strict=True):
            assert torch.equal(a, b)
        expected, state = p.model.step(p.x[:, t], state)
        assert torch.equal(output, expected)


@pytest.mark.parametrize("name", registered())
@torch.no_grad()
def test_in_place_step_equals_an_ordinary_step(name: str) -> None:
    p = Problem(name, **CASES["long"])
    expected, carried = p.steps(None, p.state)
    outputs, state = [], map_state(torch.clone, p.state)
    for t in range(p.length):
        y, state = step_inplace(p.model, p.x[:, t], state)
        outputs.append(y)
    for a, b in zip(
        flatten((torch.stack(outputs, dim=1), state)), flatten((expected, carried)), strict=True
    ):
        torch.testing.assert_close(a, b)
    if not hasattr(p.model, "step_"):  # then it is an ordinary step
        given = map_state(torch.clone, p.state)
        step_inplace(p.model, p.x[:, 0], given)
        for a, b in zip(flatten((p.x, given)), flatten((p.x, p.state)), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_unrolled_steps_equal_ordinary_steps(case: str) -> None:
    p = Problem("mamba2", **CASES[case])
    state, unrolled = p.model.init_state(BATCH), unroll(p.model, BATCH, p.length)
    assert unrolled is not None
    for t in range(p.length):
        state = restart(p.model, state, p.is_first[:, t])
        assert restart(p.model, unrolled, p.is_first[:, t]) is unrolled
        other = p.x[:, -1 - t]
        torch.testing.assert_close(peek(p.model, other, unrolled), peek(p.model, other, state))
        expected, state = p.model.step(p.x[:, t], state)
        found, same = step_inplace(p.model, p.x[:, t], unrolled)
        assert same is unrolled
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", sorted({*registered()} - {"mamba2"}))
def test_other_backbones_are_not_unrolled(name: str) -> None:
    assert unroll(Problem(name, **CASES["short"]).model, BATCH, 4) is None
