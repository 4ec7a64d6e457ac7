"""Probe of a sequence model of another package: checks that it follows the protocol."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drama.dynamics.config import DynamicsConfig
from drama.errors import ConfigError
from drama.text import one_line

BATCH, STEPS = 2, 3


class _RaisedError(ConfigError):
    """The model raised."""


def build_foreign(name: str, builder: Callable[..., Any], config: DynamicsConfig) -> nn.Module:
    """Call a builder of another package and run its model on zeros.

    The four laws are not checked; see ``examples/custom_dynamics.py``. On a machine with a GPU a
    model that raises is accepted, since it may run on the GPU only.

    Raises:
        ConfigError: The builder does not take a configuration, or methods, shapes or states of its
            model differ from :class:`drama.dynamics.SequenceModel`.
    """
    try:
        inspect.signature(builder).bind(config)
    except TypeError as error:
        raise ConfigError(
            f"sequence model {name!r}: the builder must take a DynamicsConfig ({error})"
        ) from error
    except ValueError:
        pass  # a builtin without a signature
    model = builder(config)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"sequence model {name!r} must be a torch.nn.Module, got {type(model).__name__}"
        )
    training = model.training
    model.eval()  # the probe must not use random numbers or update statistics
    try:
        with torch.no_grad():
            _probe(name, model, config.width)
    except _RaisedError:
        if not torch.cuda.is_available():
            raise
    finally:
        model.train(training)
    return model


def _probe(name: str, model: Any, width: int) -> None:
    for method in ("init_state", "forward", "step"):
        if not callable(getattr(model, method, None)):
            raise ConfigError(f"sequence model {name!r} has no method {method}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    window = torch.zeros(BATCH, STEPS, width, device=device)
    is_first = torch.zeros(BATCH, STEPS, dtype=torch.bool, device=device)

    def run(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            message = one_line(error)
            raise _RaisedError(
                f"sequence model {name!r}: {what} raised {type(error).__name__}: {message}"
            ) from error

    def check(what: str, result: Any, shape: tuple[int, ...]) -> None:
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ConfigError(f"sequence model {name!r}: {what} must return (outputs, state)")
        output, state = result
        if not isinstance(output, Tensor) or output.shape != shape:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(f"sequence model {name!r}: {what} must return {shape}, got {got}")
        if _shapes(name, what, state) != fresh:
            raise ConfigError(
                f"sequence model {name!r}: the state after {what} must have the shapes of "
                f"init_state, {fresh}, got {_shapes(name, what, state)}"
            )

    initial = run("init_state", lambda: model.init_state(BATCH))
    fresh = _shapes(name, "init_state", initial)
    whole = (BATCH, STEPS, width)
    check("forward", run("forward(x)", lambda: model(window)), whole)
    check("forward", run("forward(x, is_first)", lambda: model(window, is_first)), whole)
    carried = run("forward(x, is_first, state)", lambda: model(window, is_first, initial))
    check("forward", carried, whole)
    check("step", run("step(x, state)", lambda: model.step(window[:, 0], initial)), (BATCH, width))


def _shapes(name: str, what: str, state: Any) -> Any:
    """Return the shapes of a state, with its nesting."""
    if isinstance(state, tuple):
        return tuple(_shapes(name, what, item) for item in state)
    if not isinstance(state, Tensor):
        raise ConfigError(
            f"sequence model {name!r}: the state of {what} must be tensors in tuples (such as a "
            f"NamedTuple), got {type(state).__name__}"
        )
    if state.dim() == 0 or state.shape[0] != BATCH:
        raise ConfigError(
            f"sequence model {name!r}: each tensor of the state of {what} must have the batch "
            f"first, here {BATCH}; got {tuple(state.shape)}"
        )
    return tuple(state.shape)
