"""The three functions that training spends its time in, compiled on request.

Functions are compiled, never modules: names of weights, checkpoints and everything that is not
called from here stay as they are. Each is one graph without a break, called with shapes that do
not change.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from drama.behaviour import Behaviour, Imagination
from drama.behaviour.imagined import ImaginedStep
from drama.errors import ConfigError
from drama.world_model import WorldModel

F = TypeVar("F", bound=Callable[..., Any])


class Compiled(NamedTuple):
    """Compiled counterparts of the functions that an update calls."""

    world_model_loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    """`WorldModel.loss`."""
    behaviour_loss: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    """`Behaviour.loss`."""
    imagined_step: Callable[..., ImaginedStep]
    """`Imagination.imagined_step`."""


def compile_functions(
    world_model: WorldModel, behaviour: Behaviour, imagination: Imagination
) -> Compiled:
    """Compile the functions that dominate training time with `torch.compile`.

    Compilation happens at the first call of each, in about a minute altogether. A graph break is
    an error, since the run would be slow.

    Raises:
        ConfigError: The machine lacks what `torch.compile` needs.
    """
    device = next(world_model.parameters()).device
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("training.compile needs Triton on CUDA, which is not installed")
    names = os.environ.get("CXX", "").split()[:1] or ["c++", "g++", "clang++", "cl"]
    if not any(shutil.which(name) for name in names):
        raise ConfigError(
            f"training.compile needs a C++ compiler, and none was found (tried {', '.join(names)})"
        )
    return Compiled(
        _compile(world_model.loss),
        _compile(behaviour.loss),
        _compile(imagination.imagined_step),
    )


def _compile(function: F) -> F:
    compiled: F = torch.compile(function, fullgraph=True, dynamic=False)  # type: ignore[assignment]
    return compiled
