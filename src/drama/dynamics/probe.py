"""Whether a sequence model from elsewhere keeps to the protocol, asked before it learns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from drama.dynamics.config import DynamicsConfig
from drama.errors import ConfigError
from drama.text import one_line

ROWS, STEPS = 2, 3


class _RaisedError(ConfigError):
    """The model itself raised."""


def build_foreign(name: str, builder: Callable[..., Any], config: DynamicsConfig) -> nn.Module:
    """Call a builder that is none of this package's, and try what it returns on a few zeros.

    The four laws are not checked: see ``examples/custom_dynamics.py`` for that. Where there is a
    GPU, a model that raises here may be one that runs on nothing else, and is taken as it is.

    Raises:
        ConfigError: The builder takes no configuration, or what it builds has other methods,
            shapes or states than :class:`drama.dynamics.SequenceModel` says.
    """
    try:
        inspect.signature(builder).bind(config)
    except TypeError as error:
        raise ConfigError(
            f"sequence model {name!r}: what is registered must take a DynamicsConfig ({error})"
        ) from error
    except ValueError:
        pass  # a builtin without a signature: it will say what is wrong by itself
    model = builder(config)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"sequence model {name!r} must be a torch.nn.Module, got {type(model).__name__}"
        )
    training = model.training
    model.eval()  # no dropout: a probe draws no random number and moves no statistic
    try:
        with torch.no_grad():
            _try(name, model, config.width)
    except _RaisedError:
        if not torch.cuda.is_available():
            raise
    finally:
        model.train(training)
    return model


def _try(name: str, model: Any, width: int) -> None:
    for method in ("init_state", "forward", "step"):
        if not callable(getattr(model, method, None)):
            raise ConfigError(f"sequence model {name!r} has no method {method}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    window = torch.zeros(ROWS, STEPS, width, device=device)
    is_first = torch.zeros(ROWS, STEPS, dtype=torch.bool, device=device)

    def ask(what: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            said = one_line(error)
            raise _RaisedError(
                f"sequence model {name!r}: {what} raised {type(error).__name__}: {said}"
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
                f"init_state's {fresh}, got {_shapes(name, what, state)}"
            )

    begun = ask("init_state", lambda: model.init_state(ROWS))
    fresh = _shapes(name, "init_state", begun)
    whole = (ROWS, STEPS, width)
    check("forward", ask("forward(x)", lambda: model(window)), whole)
    check("forward", ask("forward(x, is_first)", lambda: model(window, is_first)), whole)
    carried = ask("forward(x, is_first, state)", lambda: model(window, is_first, begun))
    check("forward", carried, whole)
    check("step", ask("step(x, state)", lambda: model.step(window[:, 0], begun)), (ROWS, width))


def _shapes(name: str, what: str, state: Any) -> Any:
    """Return the shapes in a state, nested as it is."""
    if isinstance(state, tuple):
        return tuple(_shapes(name, what, item) for item in state)
    if not isinstance(state, Tensor):
        raise ConfigError(
            f"sequence model {name!r}: the state of {what} must be tensors in tuples (such as a "
            f"NamedTuple), got {type(state).__name__}"
        )
    if state.dim() == 0 or state.shape[0] != ROWS:
        raise ConfigError(
            f"sequence model {name!r}: each tensor of the state of {what} must have the batch "
            f"first, {ROWS} here; got {tuple(state.shape)}"
        )
    return tuple(state.shape)
