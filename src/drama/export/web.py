"""Export of a dream as a static web page: models, starts, runtime and the page itself.

```
DIR/
  index.html, *.js, style.css, icon.svg   the page, from ``web/``
  dream.json                              sizes, names of actions and state tensors, starts
  encode.onnx, step.onnx                  see `drama.export.modules`
  starts.bin                              observations of the starts, one after another
  ort/                                    ONNX Runtime for browsers
```
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from drama.errors import ConfigError
from drama.export.controls import action_names, idle_action, steps_per_second
from drama.export.graph import Graph, require_onnx
from drama.export.modules import DreamStep, Encode, state_leaves
from drama.export.onnxruntime_web import runtime_files
from drama.export.output import check_exportable, check_new, new_directory
from drama.export.starts import Start, find_starts
from drama.presets import label
from drama.runtime import FORMAT
from drama.version import __version__

if TYPE_CHECKING:
    from drama.agent import Agent

STARTS = 12
"""Starts on the page, by default."""


def export_web(
    agent: Agent,
    path: str | Path,
    *,
    run: str | Path | None = None,
    runtime: str | Path | None = None,
    starts: int = STARTS,
    progress: Callable[[str], None] = lambda _: None,
) -> None:
    """Write a folder of static files that lets people play the agent's dream in a browser.

    Args:
        agent: The agent.
        path: The folder, which must not exist or be empty.
        run: Run directory or checkpoint of the agent, whose replay gives the starts. None plays
            some episodes for them.
        runtime: Archive or folder of ``onnxruntime-web``; None fetches it once.
        starts: Starts to choose from, at least 1.
        progress: Called with what is being done.

    Raises:
        RunDirError: The folder exists and is not empty.
        ConfigError: The extra ``onnx`` is missing, the runtime cannot be had, or the model cannot
            be exported.
        CheckpointError: The replay is damaged.
    """
    path = Path(path)
    check_new(path)
    check_exportable(agent)
    if starts < 1:
        raise ConfigError(f"starts must be at least 1, got {starts}")
    require_onnx()
    progress("runtime of the page")
    pieces = {f"ort/{name}": data for name, data in runtime_files(runtime).items()}
    progress("starts")
    found = find_starts(agent, None if run is None else Path(run), starts)
    pieces["starts.bin"] = b"".join(_little_endian(start) for start in found)
    pieces["dream.json"] = json.dumps(describe_dream(agent, found), allow_nan=False).encode()
    progress("encoder")
    pieces["encode.onnx"] = encoder_graph(agent).onnx(_origin(agent))
    progress("step of the dream")
    pieces["step.onnx"] = step_graph(agent).onnx(_origin(agent))
    for source in (files("drama.export") / "web").iterdir():
        pieces[source.name] = source.read_bytes()
    with new_directory(path) as folder:
        (folder / "ort").mkdir()
        for name, data in pieces.items():
            (folder / name).write_bytes(data)


def encoder_graph(agent: Agent) -> Graph:
    """Return the graph from an observation to a sample of its latent."""
    space = agent.observation_space
    inputs = {
        "obs": torch.from_numpy(np.zeros((1, *(space.shape or ())), space.dtype)),
        "uniform": torch.full((1, agent.world_model.latent_variables, 1), 0.5),
    }
    return Graph(Encode(agent.player), inputs, ["stoch"])


def step_graph(agent: Agent) -> Graph:
    """Return the graph of one step of the dream."""
    module = DreamStep(agent.player)
    state = dict(state_leaves(module.state, "state"))
    inputs = {
        "action": agent.world_model.actions.to_tensor([0], torch.device("cpu")),
        "uniform": torch.full((1, agent.world_model.latent_variables, 1), 0.5),
        "temperature": torch.ones(1),
        "observed": torch.zeros(1, agent.world_model.stoch_size),
        "observe": torch.zeros(1, dtype=torch.bool),
        "is_first": torch.zeros(1, dtype=torch.bool),
        **state,
    }
    outputs = ["obs", "reward", "termination", "policy", "value"]
    return Graph(module, inputs, [*outputs, *(f"next_{name}" for name in state)])


def describe_dream(agent: Agent, starts: list[Start]) -> dict[str, Any]:
    """Return what the page reads first, JSON-able."""
    space = agent.observation_space
    shape = space.shape or ()
    picture = len(shape) == 3
    names = action_names(agent.env, agent.world_model.actions.count)
    state = state_leaves(DreamStep(agent.player).state, "state")
    return {
        **_origin(agent),
        "observation": {
            "shape": list(shape),
            "dtype": str(space.dtype),
            "palette": palette(shape[-1]) if picture else None,
        },
        "actions": {"names": names, "idle": idle_action(names)},
        "latent": {
            "variables": agent.world_model.latent_variables,
            "classes": agent.world_model.config.latent_classes,
        },
        "state": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": str(tensor.dtype).removeprefix("torch."),
            }
            for name, tensor in state
        ],
        "steps_per_second": steps_per_second(agent.env, picture),
        "starts": [
            {"label": s.label, "observations": len(s.obs), "actions": s.action.tolist()}
            for s in starts
        ],
    }


def palette(channels: int) -> list[list[float]] | None:
    """Return the colour of each channel in 0..255, as `drama.envs.as_rgb` has it; None for RGB."""
    from drama.envs import as_rgb

    if channels == 3:
        return None
    single = np.eye(channels, dtype=np.uint8)[None] * np.uint8(255)  # (1, C, C)
    return [[float(x) for x in colour] for colour in as_rgb(single)[0]]


def _origin(agent: Agent) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "drama": __version__,
        "env": agent.config.env.id,
        "preset": label(agent.config),
        "train_steps": agent.num_timesteps,
        "dynamics": agent.world_model.config.dynamics.name,
        "parameters": sum(p.numel() for p in agent.world_model.parameters()),
    }


def _little_endian(start: Start) -> bytes:
    obs = np.ascontiguousarray(start.obs)
    return (obs if sys.byteorder == "little" else obs.byteswap()).tobytes()
