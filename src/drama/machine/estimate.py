"""Wall time of a run, estimated before its first step."""

from __future__ import annotations

import copy
import dataclasses
import gc
import time
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from drama.machine.costs import PresetCost
from drama.machine.measurement import ROWS, OutOfTime, Trainable, measure
from drama.text import duration

if TYPE_CHECKING:
    from drama.training.trainer import Trainer

LONG_FLOPS = {"cpu": 1e14}
"""Operations above which a run may take hours, by device type."""
LONG_FLOPS_ELSEWHERE = 3e15
"""Operations above which a run may take hours on an accelerator."""
LEAST_FLOPS = 1e8
"""Operations equivalent to the fixed cost of one update."""
SECONDS = 3.0
"""Target duration of the measurement."""
DEADLINE = 8.0
"""Time after which the measurement is abandoned."""
WARN_HOURS = 24.0
"""Expected hours from which a warning is printed."""


class Blank(gym.Env[Any, Any]):
    """Environment with the agent's spaces: measuring must not step the agent's own."""

    def __init__(self, agent: Trainable) -> None:
        self.observation_space, self.action_space = agent.observation_space, agent.action_space
        observations = agent.world_model.observations
        self._obs = observations.from_columns(
            {leaf.column: np.zeros(leaf.shape, leaf.dtype) for leaf in observations.leaves}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a zero observation."""
        return self._obs, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return a zero observation and reward 0; episodes do not end."""
        return self._obs, 0.0, False, False, {}


def warn_if_long(agent: Trainable, trainer: Trainer, target: int) -> float | None:
    """Measure the cost of a step if the run may be long; warn if it takes days.

    Args:
        agent: The agent.
        trainer: Receives the warning.
        target: Last environment step of the run.

    Returns:
        Seconds of acting and updates per step; None if the run is short or nothing was measured.
    """
    steps = target - max(trainer.step, agent.config.training.warmup_steps)
    if steps <= 0 or not may_be_long(agent, steps) or (cost := measure_updates(agent)) is None:
        return None
    if (warning := long_run_warning(cost, trainer.step, target)) is not None:
        trainer.events.warn(warning)
    return cost.step_seconds


def may_be_long(agent: Trainable, steps: int) -> bool:
    """Whether ``steps`` steps of training may take hours, by their number of operations."""
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
    # A forward and a backward pass take six operations per weight and frame.
    each = sum(ratio * max(6.0 * weights * count, LEAST_FLOPS) for ratio, count in frames)
    return steps * each > LONG_FLOPS.get(agent.device.type, LONG_FLOPS_ELSEWHERE)


def measure_updates(agent: Trainable) -> PresetCost | None:
    """Measure acting and updates on a copy of the agent's models, in a few seconds.

    The agent's weights, statistics, random states and environment do not change.

    Returns:
        Cost without environment steps; None if the measurement failed.
    """
    c = agent.config
    # Compiling takes longer than the measurement, and the run allocates its own replay.
    training = dataclasses.replace(c.training, compile=False)
    longest = max(c.world_model.batch_length, c.behaviour.context)
    capacity = min(c.replay.capacity, max(ROWS, 2 * longest))
    replay = dataclasses.replace(c.replay, capacity=capacity)
    twin = copy.copy(agent)
    twin.config = dataclasses.replace(c, training=training, replay=replay)
    twin.env = Blank(agent)
    try:
        twin.world_model = copy.deepcopy(agent.world_model)
        twin.behaviour = copy.deepcopy(agent.behaviour)
    except (RuntimeError, TypeError):  # a registered sequence model may not support copies
        return None
    now = time.perf_counter()
    try:
        cost = measure(c.preset, twin, now + SECONDS, now + DEADLINE)
    except OutOfTime:
        return None
    finally:
        del twin
        gc.collect()  # a trainer contains reference cycles
    return cost if isinstance(cost, PresetCost) else None


def long_run_warning(cost: PresetCost, step: int, target: int) -> str | None:
    """Return a one-line warning if the run takes days, else None.

    Args:
        cost: Result of :func:`measure_updates`.
        step: Environment steps made so far.
        target: Last environment step of the run.
    """
    steps = target - max(step, cost.warmup_steps)
    seconds = steps * cost.step_seconds
    if seconds < 3600 * WARN_HOURS:
        return None
    return (
        f"this run takes about {duration(seconds)} on this machine; to shorten it, use a "
        "smaller preset, fewer steps, or a lower training.world_model_ratio and "
        "training.behaviour_ratio (`drama doctor` measures each preset)"
    )
