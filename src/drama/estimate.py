"""Wall time of a run, estimated before its first step."""

from __future__ import annotations

import copy
import dataclasses
import gc
import time
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from drama.costs import PresetCost
from drama.text import duration

if TYPE_CHECKING:
    from drama.agent import Agent

LONG_FLOPS = {"cpu": 1e14}
"""Work from which on a run may take hours, by type of device."""
LONG_FLOPS_ELSEWHERE = 3e15
"""The same on an accelerator."""
LEAST_FLOPS = 1e8
"""Work that takes as long as the fixed cost of an update."""
SECONDS = 3.0
"""Time in which updates are measured, if possible."""
DEADLINE = 8.0
"""Time after which the measurement is given up."""
WARN_HOURS = 24.0
"""Expected hours from which on a run is warned about."""


class Blank(gym.Env[Any, Any]):
    """Environment of the same spaces in place of the agent's own, which is not to be stepped."""

    def __init__(self, agent: Agent) -> None:
        self.observation_space, self.action_space = agent.observation_space, agent.action_space
        self._obs = np.zeros(self.observation_space.shape or (), self.observation_space.dtype)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return an empty observation."""
        return self._obs, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return another; episodes do not end."""
        return self._obs, 0.0, False, False, {}


def may_be_long(agent: Agent, steps: int) -> bool:
    """Whether ``steps`` environment steps of training may take hours, by a count of operations."""
    c = agent.config
    models = (agent.world_model, agent.behaviour)
    weights = sum(p.numel() for model in models for p in model.parameters())
    frames = (
        (c.training.world_model_ratio, c.world_model.batch_size * c.world_model.batch_length),
        (
            c.training.behaviour_ratio,
            c.behaviour.batch_size * (c.behaviour.context + c.behaviour.horizon),
        ),
    )
    # A forward and a backward pass are six operations for each weight and frame.
    each = sum(ratio * max(6.0 * weights * count, LEAST_FLOPS) for ratio, count in frames)
    return steps * each > LONG_FLOPS.get(agent.device.type, LONG_FLOPS_ELSEWHERE)


def measure_updates(agent: Agent) -> PresetCost | None:
    """Measure acting and updates on a copy of the agent's models, in a few seconds.

    Weights, statistics, random states and the environment of the agent stay as they are.

    Returns:
        The cost, without that of the environment; None if it could not be measured.
    """
    from drama.calibration import ROWS, OutOfTime, measure

    c = agent.config
    # Compiling takes longer than a measurement may, and the ring of the run takes its own memory.
    training = dataclasses.replace(c.training, compile=False)
    rows = max(ROWS, 2 * c.world_model.batch_length, 2 * c.behaviour.context)
    ring = dataclasses.replace(c.replay, capacity=min(c.replay.capacity, rows))
    twin = copy.copy(agent)
    twin.config = dataclasses.replace(c, training=training, replay=ring)
    twin.env = Blank(agent)
    try:
        twin.world_model = copy.deepcopy(agent.world_model)
        twin.behaviour = copy.deepcopy(agent.behaviour)
    except (RuntimeError, TypeError):  # a sequence model from elsewhere may not allow it
        return None
    now = time.perf_counter()
    try:
        cost = measure(c.preset, twin, now + SECONDS, now + DEADLINE)
    except OutOfTime:
        return None
    finally:
        del twin
        gc.collect()  # a trainer refers to itself
    return cost if isinstance(cost, PresetCost) else None


def long_run_warning(cost: PresetCost, step: int, target: int) -> str | None:
    """Return one line about a run that takes days, None for any other.

    Args:
        cost: From :func:`measure_updates`.
        step: Environment steps made so far.
        target: Step at which the run ends.
    """
    steps = target - max(step, cost.warmup_steps)
    seconds = steps * cost.step_seconds
    if seconds < 3600 * WARN_HOURS:
        return None
    return (
        f"this run takes about {duration(seconds)} on this machine: a smaller preset, lower "
        "training.world_model_ratio and training.behaviour_ratio or fewer steps shorten it; "
        "`drama doctor` measures each preset here"
    )
