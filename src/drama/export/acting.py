"""Export of the acting step: ``(obs, state, is_first) -> (action, state)`` as one file."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from drama.envs.adapt import adapter_of
from drama.envs.leaves import ImageAdapter
from drama.export.graph import Graph, require_onnx
from drama.export.modules import ActingStep, state_leaves
from drama.export.output import check_exportable, check_new, write_new
from drama.runtime import FORMAT
from drama.version import __version__

if TYPE_CHECKING:
    from drama.agent import Agent


def export_onnx(agent: Agent, path: str | Path) -> None:
    """Write the acting step as an ONNX file, which `drama.runtime.OnnxAgent` runs.

    Inputs are ``obs``, ``is_first`` and the state; outputs ``action`` and the next state, all of
    batch size 1. Actions are the most probable ones. Optional inputs sample instead: ``greedy``
    (false) and ``uniform`` (random numbers in [0, 1)).

    Args:
        agent: The agent, on any device.
        path: The file, which must not exist.

    Raises:
        RunDirError: The file exists, or its directory does not.
        ConfigError: The extra ``onnx`` is missing, or the model cannot be exported.
    """
    path = Path(path)
    check_new(path)
    check_exportable(agent)
    require_onnx()
    graph = acting_graph(agent)
    write_new(path, graph.onnx(describe_acting(agent)))


def export_torch(agent: Agent, path: str | Path) -> None:
    """Write the acting step as a program of `torch.export`.

    ``torch.export.load(path).module()`` runs it with PyTorch alone, without this package, and
    AOTInductor compiles it. TorchScript, the older format, is deprecated. Arguments are ``obs``,
    ``is_first``, ``uniform``, ``greedy`` and the tensors of the state.

    Args:
        agent: The agent.
        path: The file, which must not exist.

    Raises:
        RunDirError: The file exists, or its directory does not.
        ConfigError: The model cannot be exported.
    """
    path = Path(path)
    check_new(path)
    check_exportable(agent)
    file = io.BytesIO()
    metadata = json.dumps(describe_acting(agent))
    program = acting_graph(agent).decomposed()
    torch.export.save(program, file, extra_files={"drama.json": metadata})
    write_new(path, file.getvalue())


def acting_graph(agent: Agent) -> Graph:
    """Return the graph of the acting step."""
    module = ActingStep(agent.player)
    space = agent.observation_space
    total = module.numbers
    leaves = dict(state_leaves(module.state, "state"))
    inputs = {
        "obs": torch.from_numpy(np.zeros((1, *(space.shape or ())), space.dtype)),
        "is_first": torch.ones(1, dtype=torch.bool),
        "uniform": torch.full((total,), 0.5),
        "greedy": torch.ones(1, dtype=torch.bool),
        **leaves,
    }
    defaults = {"uniform": np.full(total, 0.5, np.float32), "greedy": np.ones(1, bool)}
    return Graph(module, inputs, ["action", *(f"next_{name}" for name in leaves)], defaults)


def describe_acting(agent: Agent) -> dict[str, Any]:
    """Return the metadata of an exported acting step, JSON-able."""
    module = ActingStep(agent.player)
    space = agent.observation_space
    return {
        "format": FORMAT,
        "drama": __version__,
        "torch": torch.__version__,
        "env": agent.config.env.id,
        "train_steps": agent.num_timesteps,
        "observation": {"shape": list(space.shape or ()), "dtype": str(space.dtype)},
        "raw_observation": _raw_observation(agent),
        "actions": {"count": agent.world_model.actions.count, "start": _first_action(agent)},
        "state": [
            {"name": name, "shape": list(tensor.shape), "dtype": _dtype(tensor)}
            for name, tensor in state_leaves(module.state, "state")
        ],
        "numbers": module.numbers,
        "lookahead": agent.player.config.lookahead,
        "greedy": True,
    }


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first_action(agent: Agent) -> int:
    """Return the environment's action that the agent's action 0 stands for."""
    adapter = adapter_of(agent.env)
    return 0 if adapter is None else int(adapter.adapt_action(0))


def _raw_observation(agent: Agent) -> dict[str, Any] | None:
    """Return what makes an `ObservationAdapter` again; None where observations come adapted."""
    adapter = adapter_of(agent.env)
    if adapter is None:
        return None
    _, leaf = adapter.adapt_observation.leaves[0]
    space = leaf.raw_space
    found: dict[str, Any] = {"shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(leaf, ImageAdapter):
        found |= {
            "low": _bounds(space.low),
            "high": _bounds(space.high),
            "image_size": leaf.leaf.shape[0] if leaf.is_resized else None,
            "channels_last": adapter_of(adapter.env) is not None,
        }
    return found


def _bounds(values: np.ndarray[Any, Any]) -> Any:
    """Return one number if all are equal, else all of them."""
    first = values.flat[0]
    return first.item() if (values == first).all() else values.tolist()
