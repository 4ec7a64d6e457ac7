"""When updates are due, and whether a run makes enough of them to learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from drama.config import Config, TrainingConfig

if TYPE_CHECKING:
    from drama.replay import Purpose

NAMES: dict[Purpose, str] = {"world_model": "world model", "behaviour": "policy"}
"""Part trained by each kind of update."""


def updates_due(training: TrainingConfig, step: int) -> dict[Purpose, int]:
    """Return the updates of each kind that are due once ``step`` environment steps are made."""
    trained = max(0, step - training.warmup_steps)
    return {
        "world_model": int(trained * training.world_model_ratio),
        "behaviour": int(trained * training.behaviour_ratio),
    }


def shortfall(config: Config, until: int) -> str | None:
    """Explain why a run of ``until`` environment steps learns nothing or little.

    Little is fewer updates than the warm-up of the learning rate.

    Returns:
        One line, or None if every update rate is positive and there are enough updates.
    """
    due = updates_due(config.training, until)
    without = [kind for kind, count in due.items() if not count]
    if len(without) == len(due):
        return f"nothing will be learnt: {why_no_update(config, until, without[0])}"
    if without:
        reason = why_no_update(config, until, without[0])
        return f"the {NAMES[without[0]]} will not be trained: {reason}"
    rises: dict[Purpose, int] = {
        "world_model": config.world_model.optim.warmup,
        "behaviour": config.behaviour.optim.warmup,
    }
    few = [
        f"{due[kind]:,} updates of the {NAMES[kind]} (its learning rate rises over {rise:,})"
        for kind, rise in rises.items()
        if due[kind] < rise
    ]
    if few:
        return f"little will be learnt: by step {until:,} there are only {' and '.join(few)}"
    return None


def unlearnt(config: Config, step: int, updates: Mapping[Purpose, int]) -> str | None:
    """Explain which models were never updated by environment step ``step``; None if all were."""
    without = [kind for kind, count in updates.items() if not count]
    if not without:
        return None
    reason = why_no_update(config, step, without[0])
    if len(without) == len(updates):
        return f"nothing was learnt: {reason}"
    return f"the {NAMES[without[0]]} was not trained: {reason}"


def why_no_update(config: Config, until: int, kind: Purpose) -> str:
    """Explain why no update of a kind is due by step ``until``."""
    training = config.training
    ratios = {"world_model": training.world_model_ratio, "behaviour": training.behaviour_ratio}
    if not any(ratios.values()):
        return "training.world_model_ratio and training.behaviour_ratio are 0"
    if not ratios[kind]:
        return f"training.{kind}_ratio is 0"
    if until <= training.warmup_steps:
        return (
            f"the warm-up of random actions takes {training.warmup_steps:,} steps "
            f"(training.warmup_steps), training ends at step {until:,}"
        )
    return (
        f"after the warm-up of {training.warmup_steps:,} steps training.{kind}_ratio "
        f"{ratios[kind]:g} makes no update by step {until:,}"
    )
