"""Which settings of a run may differ when it is continued."""

from __future__ import annotations

import dataclasses

from drama.config import Config
from drama.settings import flat as flat

CHANGEABLE = ("steps", "device", "training.", "evaluation.", "world_model.dynamics.backend")
"""Settings that may differ when a run is continued: they do not alter what was learnt so far."""
FIXED_TRAINING = (
    "training.warmup_steps",
    "training.random_action_repeat",
    "training.world_model_ratio",
    "training.behaviour_ratio",
    "training.overlap",
)
"""Exceptions: these decide which updates are due, and from which rows, so they stay."""


def compare(saved: Config, asked: Config) -> tuple[list[str], list[str]]:
    """Return the differing settings that may change, and those that may not, as text.

    Args:
        saved: What the run was made with.
        asked: What it is wanted with now.
    """
    before, after = flat(dataclasses.asdict(saved)), flat(dataclasses.asdict(asked))
    taken: list[str] = []
    refused: list[str] = []
    ppo = "ppo" in (saved.behaviour.algorithm, asked.behaviour.algorithm)
    for key, value in after.items():
        if value == before[key]:
            continue
        if key.startswith("behaviour.ppo.") and not ppo:
            continue  # no other algorithm reads them
        free = key.startswith(CHANGEABLE) and key not in FIXED_TRAINING
        text = f"{key}={value} (the run has {before[key]})"
        (taken if free else refused).append(text)
    return taken, refused
