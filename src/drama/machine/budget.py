"""Update ratios with which a run ends in a given time on this machine."""

from __future__ import annotations

import dataclasses
import math
import time

from drama.agent import Agent
from drama.config import Config, OptimConfig
from drama.errors import ConfigError
from drama.machine.costs import PresetCost, Unmeasured
from drama.machine.measurement import OutOfTime, measure
from drama.text import duration
from drama.training.device import process_settings
from drama.training.schedule import updates_due

NAMED_HOURS = {"afternoon": 3.0, "night": 10.0}
"""Budgets by name."""
RESERVE = 0.1
"""Share of the time for evaluation, checkpoints and slower moments."""
SECONDS = 20.0
"""Target duration of the measurement."""
DEADLINE = 60.0
"""Time after which the measurement is abandoned."""
MOST_UPDATES = 1.0
"""Largest number of updates of each kind per environment step: the paper's."""
WARMUP_SHARE = 0.05
"""Largest share of all updates over which a learning rate rises."""


def read_hours(text: str) -> float:
    """Return the hours that a number or a name in `NAMED_HOURS` stands for.

    Raises:
        ConfigError: It is neither, or not positive and finite.
    """
    if text in NAMED_HOURS:
        return NAMED_HOURS[text]
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours < math.inf:
        names = ", ".join(f"{name} ({value:g})" for name, value in NAMED_HOURS.items())
        raise ConfigError(f"--hours must be a positive number or one of {names}, got {text!r}")
    return hours


def measure_run(config: Config) -> PresetCost:
    """Measure environment steps, acting and updates of a configuration on this machine.

    Raises:
        ConfigError: It cannot be measured.
        EnvError: The environment cannot be made.
    """
    agent = Agent(config=config)
    try:
        with process_settings(agent.config.training, agent.device):
            now = time.perf_counter()
            cost = measure(config.preset, agent, now + SECONDS, now + DEADLINE)
    except OutOfTime:
        raise ConfigError(
            f"one update takes more than {DEADLINE:g} s on this machine: --hours cannot measure it"
        ) from None
    finally:
        agent.env.close()
    if isinstance(cost, Unmeasured):
        raise ConfigError(f"--hours cannot measure this configuration: {cost.error}")
    return cost


def within_hours(config: Config, hours: float, cost: PresetCost) -> tuple[Config, str]:
    """Choose update ratios with which a run of ``config.steps`` steps takes ``hours``.

    Both ratios change by the same factor, to at most the paper's 1. The warm-up of the learning
    rates is shortened to 5 % of the updates; the temperatures of DFS follow by themselves.

    Args:
        config: Settings; its ratios give the proportion of the two kinds of updates.
        hours: Wall time, including evaluation and checkpoints.
        cost: Result of `measure_run` for the configuration.

    Returns:
        The configuration, and what was chosen in one line.

    Raises:
        ConfigError: Environment steps and acting alone take longer, or both ratios are 0.
    """
    training = config.training
    ratios = (training.world_model_ratio, training.behaviour_ratio)
    if not any(ratios):
        raise ConfigError("--hours chooses update ratios, but both are 0")
    warm = min(training.warmup_steps, config.steps)
    acted = config.steps - warm
    without = config.steps * cost.env_seconds + acted * cost.acting_seconds
    left = 3600 * hours * (1 - RESERVE) - without
    seconds = [sum(update.seconds.values()) for update in (cost.world_model, cost.behaviour)]
    each = acted * sum(ratio * s for ratio, s in zip(ratios, seconds, strict=True))
    if left <= 0 or not acted:
        raise ConfigError(
            f"{config.steps:,} environment steps take {duration(without)} without any update: "
            f"raise --hours above {hours:g} or lower --steps"
        )
    factor = min(left / each, MOST_UPDATES / max(ratios))
    world_model_ratio, behaviour_ratio = (float(f"{ratio * factor:.3g}") for ratio in ratios)
    training = dataclasses.replace(
        training, world_model_ratio=world_model_ratio, behaviour_ratio=behaviour_ratio
    )
    updates = updates_due(training, config.steps)
    chosen = dataclasses.replace(
        config,
        training=training,
        world_model=dataclasses.replace(
            config.world_model,
            optim=_shorter_warmup(config.world_model.optim, updates["world_model"]),
        ),
        behaviour=dataclasses.replace(
            config.behaviour, optim=_shorter_warmup(config.behaviour.optim, updates["behaviour"])
        ),
    )
    expected = without + each * factor
    capped = " (the paper's ratio; more time is not needed)" if factor < left / each else ""
    return chosen, (
        f"--hours {hours:g}: {world_model_ratio:g} world-model and {behaviour_ratio:g} policy "
        f"updates per step{capped}; {updates['world_model']:,} and {updates['behaviour']:,} in "
        f"all, about {duration(expected)} and evaluation"
    )


def _shorter_warmup(optim: OptimConfig, updates: int) -> OptimConfig:
    warmup = min(optim.warmup, math.ceil(WARMUP_SHARE * updates))
    return dataclasses.replace(optim, warmup=warmup)
