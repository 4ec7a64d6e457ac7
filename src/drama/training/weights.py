"""World model and behaviour: building them, and their weights in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import Behaviour, make_behaviour
from drama.config import Config
from drama.dynamics.base import is_built_in
from drama.errors import CheckpointError
from drama.text import one_line
from drama.training.checkpoint import Checkpoint
from drama.world_model import WorldModel


def build_models(
    config: Config, obs_shape: tuple[int, ...], actions: ActionSpace
) -> tuple[WorldModel, Behaviour]:
    """Return new models on the default device, from the default generator.

    Raises:
        ConfigError: The sizes do not fit the observations.
    """
    world_model = WorldModel(config.world_model, obs_shape, actions)
    features = world_model.stoch_size + config.world_model.dynamics.width
    return world_model, make_behaviour(config.behaviour, features, actions)


def new_models(
    config: Config, obs_shape: tuple[int, ...], actions: ActionSpace, device: torch.device
) -> tuple[WorldModel, Behaviour]:
    """Return models seeded by ``config.seed``, in evaluation mode, whatever the global seed is."""
    with torch.random.fork_rng(devices=[]):  # the caller's random state is left alone
        torch.default_generator.manual_seed(config.seed)  # models are built on the CPU
        world_model, behaviour = build_models(config, obs_shape, actions)
    return world_model.to(device).eval(), behaviour.to(device).eval()


def model_tensors(world_model: WorldModel, behaviour: Behaviour) -> dict[str, Tensor]:
    """Return weights and buffers under prefixed names."""
    parts = (("world_model", world_model), ("behaviour", behaviour))
    return {f"{name}.{key}": t for name, part in parts for key, t in part.state_dict().items()}


def load_weights(checkpoint: Checkpoint, world_model: WorldModel, behaviour: Behaviour) -> None:
    """Read the weights of a checkpoint into the models.

    Raises:
        CheckpointError: The file is damaged, does not fit, or holds NaN or Inf.
    """
    tensors = checkpoint.tensors("model")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{checkpoint.path}: weight {name!r:.80} is NaN or Inf")
    for prefix, part in (("world_model.", world_model), ("behaviour.", behaviour)):
        own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        try:
            part.load_state_dict(own)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.path} does not fit its configuration: {one_line(error)}"
            ) from error


def check_fits(checkpoint: Checkpoint, config: Config, state: Mapping[str, Any]) -> None:
    """Compare the shapes of saved weights with those of a configuration, without allocating them.

    A sequence model of another package is skipped: what it builds is unknown.

    Args:
        checkpoint: Holds the weights.
        config: The configuration.
        state: The checkpoint's ``state.json``.

    Raises:
        CheckpointError: They differ.
    """
    if not is_built_in(config.world_model.dynamics.name):
        return
    with torch.device("meta"):
        models = build_models(config, tuple(state["obs_shape"]), ActionSpace.from_state(state))
    needed = {k: tuple(t.shape) for k, t in model_tensors(*models).items()}
    found = checkpoint.shapes("model")
    for name in sorted(needed.keys() | found.keys()):
        if needed.get(name) != found.get(name):
            raise CheckpointError(
                f"{checkpoint.path} does not fit its configuration: {name:.80} is "
                f"{found.get(name, 'missing')}, the settings make it {needed.get(name, 'none')}"
            )
