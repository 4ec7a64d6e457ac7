"""Which settings of a run may differ when it is continued."""

from __future__ import annotations

import dataclasses
from typing import Any

from drama.config import Config

CHANGEABLE = ("steps", "device", "training.", "evaluation.", "world_model.dynamics.backend")
"""Settings that may differ when a run is continued: they do not alter what was learnt so far."""
FIXED_TRAINING = (
    "training.warmup_steps",
    "training.warmup_hold",
    "training.world_model_ratio",
    "training.behaviour_ratio",
    "training.overlap",
)
"""Exceptions: these decide which updates are due, and from which rows, so they stay."""


LEAVES = ("env.kwargs",)
"""Settings that are mappings themselves."""


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of sections as one mapping with dotted names."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key not in LEAVES:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def compare(saved: Config, asked: Config) -> tuple[list[str], list[str]]:
    """Return the differing settings that may change, and those that may not, as text.

    Args:
        saved: What the run was made with.
        asked: What it is wanted with now.
    """
    before, after = flat(dataclasses.asdict(saved)), flat(dataclasses.asdict(asked))
    taken: list[str] = []
    refused: list[str] = []
    for key, value in after.items():
        if value == before[key]:
            continue
        free = key.startswith(CHANGEABLE) and key not in FIXED_TRAINING
        text = f"{key}={value} (the run has {before[key]})"
        (taken if free else refused).append(text)
    return taken, refused
