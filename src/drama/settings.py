"""Differences between configurations, by the settings that decide what is learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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


def setting_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Say in which settings that decide what is learnt two ``config.json`` differ.

    Args:
        one: The configuration in question.
        other: What it is compared with.

    Returns:
        ``section.field VALUE (not OTHER)`` for each, in the order of the fields.
    """
    mine, theirs = flat(dict(one)), flat(dict(other))
    return tuple(
        f"{key} {shown(mine.get(key))} (not {shown(theirs.get(key))})"
        for key in dict.fromkeys((*mine, *theirs))
        if mine.get(key) != theirs.get(key) and not key.startswith(INDIFFERENT)
    )


INDIFFERENT = (
    "seed",
    "preset",
    "device",
    "env.id",
    "evaluation.",
    "training.precision",
    "training.threads",
    "training.keep_memory",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.tensorboard",
    "training.wandb",
    "training.cuda_graphs",
    "training.compile",
    "replay.device",
    "world_model.dynamics.backend",
    "world_model.dynamics.chunk_size",
)
"""Settings that name a run, or change its speed and its files only."""


def shown(value: object) -> str:
    """Return a setting as text for a message."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
