"""The trainer's state as tensors and JSON: everything that decides what happens next.

Beside the replay's rows, which `replay/storage.py` keeps, there are three groups of tensors:
``model`` (weights and buffers), ``optimiser`` (moments) and ``loop`` (random states, the acting
state, the actions taken so far, replay counters).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import Behaviour, make_behaviour
from drama.config import Config
from drama.dynamics import map_state
from drama.dynamics.base import is_built_in
from drama.envs import describe
from drama.errors import CheckpointError
from drama.files import tensor_like
from drama.training.checkpoint import Checkpoint, CheckpointDir, write_checkpoint
from drama.types import Action
from drama.world_model import WorldModel

if TYPE_CHECKING:
    from drama.training.trainer import Trainer


def take(trainer: Trainer) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Return the state of ``trainer``: tensors by group, and JSON-able scalars."""
    optimiser: dict[str, Tensor] = {}
    scalars: dict[str, Any] = {}
    for name, part in trainer.optimisers.items():
        moments, scalars[name] = part.state()
        optimiser |= {f"{name}.{key}": t for key, t in moments.items()}
    loop: dict[str, Tensor] = {
        f"generator.{name}": g.get_state() for name, g in trainer.generators.items()
    }
    map_state(_collector(loop, "player"), trainer.player_state)
    replay = trainer.replay.state()
    loop |= replay["loop"]
    loop["actions"] = trainer.world_model.actions.pack(trainer.stream.actions)
    if trainer.stream.obs is not None:
        loop["obs"] = torch.from_numpy(np.array(trainer.stream.obs))
    state = {
        "step": trainer.step,
        "steps_before": trainer.steps_before,
        "episodes": trainer.episodes,
        "updates": dict(trainer.updates),
        "stream": trainer.stream.position(),
        **replay["state"],
        **trainer.world_model.actions.state(),
        "obs_shape": list(trainer.replay.columns["obs"].shape[1:]),
        "env": describe(trainer.stream.env),
        "threads": torch.get_num_threads(),
        "numpy": trainer.rng.bit_generator.state,
        "meter": trainer.meter.state(),
        "optimisers": scalars,
    }
    model = model_tensors(trainer.world_model, trainer.behaviour)
    return {"model": model, "optimiser": optimiser, "loop": loop}, state


def model_tensors(world_model: WorldModel, behaviour: Behaviour) -> dict[str, Tensor]:
    """Weights and buffers of world model and behaviour under prefixed names."""
    parts = (("world_model", world_model), ("behaviour", behaviour))
    return {f"{name}.{key}": t for name, part in parts for key, t in part.state_dict().items()}


def write_untrained(
    run_dir: Path,
    config: Config,
    world_model: WorldModel,
    behaviour: Behaviour,
    env: gym.Env[Any, Any],
) -> None:
    """Write a checkpoint of an agent that has not learnt yet: its weights alone."""
    checkpoints = CheckpointDir(run_dir)
    write_checkpoint(
        checkpoints.at(0),
        step=0,
        config=config.to_json(),
        state={
            "step": 0,
            **world_model.actions.state(),
            "obs_shape": list(env.observation_space.shape or ()),
            "env": describe(env),
        },
        tensors={"model": model_tensors(world_model, behaviour)},
        segments=[],
        logs={"metrics": 0, "episodes": 0},
    )
    checkpoints.publish(0)


def steps_before(state: dict[str, Any]) -> int:
    """Return how many steps an agent had made before those of the run that a state is of."""
    return int(state.get("steps_before", 0))  # the oldest checkpoints do not say


def restore(
    trainer: Trainer,
    state: dict[str, Any],
    loop: dict[str, Tensor],
    optimiser: dict[str, Tensor],
) -> None:
    """Put back all but the model and the replay.

    Raises:
        CheckpointError: A tensor is missing or does not fit.
        KeyError: A field of ``state`` is missing.
    """
    trainer.step, trainer.episodes = state["step"], state["episodes"]
    trainer.steps_before = steps_before(state)
    for name, part in trainer.optimisers.items():
        prefix = f"{name}."
        moments = {k.removeprefix(prefix): t for k, t in optimiser.items() if k.startswith(prefix)}
        part.load_state(moments, state["optimisers"][name])
    for name, generator in trainer.generators.items():
        like = torch.empty(0, dtype=torch.uint8)
        key = f"generator.{name}"
        rows = len(loop[key]) if key in loop and loop[key].dim() == 1 else None
        _restore_generator(trainer, name, generator, tensor_like(loop, key, like, rows=rows))
    try:
        trainer.rng.bit_generator.state = state["numpy"]
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(f"the saved random state is damaged: {error}") from error
    trainer.player_state = map_state(
        _restorer(loop, "player", trainer.device), trainer.player.init_state(1)
    )
    trainer.meter.load_state(state["meter"], trainer.device)
    trainer.updates = dict(state["updates"])


def _restore_generator(
    trainer: Trainer, name: str, generator: torch.Generator, saved: Tensor
) -> None:
    """Put a random state back, or begin a new one where another kind of device wrote it."""
    if saved.shape == generator.get_state().shape:
        try:
            generator.set_state(saved)
        except RuntimeError as error:
            raise CheckpointError(f"the saved random state of {name} is damaged") from error
        return
    place = list(trainer.generators).index(name)
    seeds = np.random.SeedSequence([trainer.config.seed, trainer.step, place])
    generator.manual_seed(int(seeds.generate_state(1, dtype=np.uint64)[0] >> 1))
    trainer.note(
        f"the random state of {name} was saved on another kind of device: it begins anew, so the "
        "run will not be bit-for-bit the same"
    )


def check_fits(checkpoint: Checkpoint, config: Config, state: Mapping[str, Any]) -> None:
    """Compare the shapes of the saved weights with those of a configuration's, before any is made.

    A sequence model of another package is left to the loading itself: what it builds is not known.

    Raises:
        CheckpointError: They differ.
    """
    if not is_built_in(config.world_model.dynamics.name):
        return
    c, shape = config.world_model, tuple(state["obs_shape"])
    actions = ActionSpace.from_state(state)
    with torch.device("meta"):
        model = WorldModel(c, shape, actions)
        behaviour = make_behaviour(config.behaviour, c.stoch_size + c.dynamics.width, actions)
    needed = {k: tuple(t.shape) for k, t in model_tensors(model, behaviour).items()}
    found = checkpoint.shapes("model")
    for name in sorted(needed.keys() | found.keys()):
        if needed.get(name) != found.get(name):
            raise CheckpointError(
                f"{checkpoint.path} does not fit its configuration: {name:.80} is "
                f"{found.get(name, 'missing')}, the settings make it {needed.get(name, 'none')}"
            )


def saved_actions(loop: dict[str, Tensor], space: ActionSpace) -> list[Action]:
    """Return the actions taken since the last seeded reset.

    Raises:
        CheckpointError: They are missing, or an action is none of the environment's.
    """
    like = space.pack([])
    rows = loop["actions"].numel() if "actions" in loop else None
    return space.unpack(tensor_like(loop, "actions", like, rows=rows))


def _collector(into: dict[str, Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """A function for ``map_state`` that files each tensor under ``name.<n>``."""
    count = 0

    def collect(tensor: Tensor) -> Tensor:
        nonlocal count
        into[f"{name}.{count}"] = tensor
        count += 1
        return tensor

    return collect


def _restorer(
    saved: dict[str, Tensor], name: str, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The inverse of `_collector`: returns the filed tensors in the same order."""
    count = 0

    def restore(tensor: Tensor) -> Tensor:
        nonlocal count
        found = tensor_like(saved, f"{name}.{count}", tensor)
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"the saved tensor {name}.{count} is not finite")
        count += 1
        return found.to(device)

    return restore
