"""Settings that a resumed run may change."""

from __future__ import annotations

import dataclasses

from drama.config import Config
from drama.settings import DECLARATIONS, flat


def compare(saved: Config, requested: Config) -> tuple[list[str], list[str]]:
    """Return the differing settings that a resumed run may change, and the others, as text.

    Args:
        saved: Configuration of the run.
        requested: Configuration to resume it with.
    """
    before, after = flat(dataclasses.asdict(saved)), flat(dataclasses.asdict(requested))
    accepted: list[str] = []
    refused: list[str] = []
    ppo = "ppo" in (saved.behaviour.algorithm, requested.behaviour.algorithm)
    for key, value in after.items():
        if value == before[key]:
            continue
        if key.startswith("behaviour.ppo.") and not ppo:
            continue  # no other algorithm reads them
        text = f"{key}={value} (the run has {before[key]})"
        (accepted if DECLARATIONS[key].resume else refused).append(text)
    return accepted, refused
