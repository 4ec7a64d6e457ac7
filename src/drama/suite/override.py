"""Settings replaced by their dotted names: from ``--set``, from a variant, from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drama.config import Config
from drama.errors import ConfigError
from drama.settings import LEAVES

OWN = ("preset", "seed", "steps", "env.id")
"""Settings that the spec itself decides, so that no variant may."""


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return ``config`` with settings replaced.

    Args:
        config: To start from.
        overrides: Dotted ``section.field`` to value, as in ``config.json``.

    Raises:
        ConfigError: There is no such setting (the nearest is named), the suite itself decides
            it, or the value does not fit.
    """
    overrides = dotted(overrides)
    for key in overrides:
        if key in OWN:
            raise ConfigError(f"{key} is for the suite to say, not for an override")
    changed = config.override(overrides)
    if not changed.evaluation.episodes:
        raise ConfigError("evaluation.episodes must be at least 1: a suite is made of evaluations")
    return changed


def parse_override(text: str) -> tuple[str, Any]:
    """Read ``section.field=value``; the value is JSON, or else a string.

    Raises:
        ConfigError: There is no ``=``, or the value is nested too deeply to be read.
    """
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise ConfigError(f"--set takes section.field=value, got {text!r}")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value.strip()
    except RecursionError as error:
        raise ConfigError(f"--set {key.strip()}: its value is nested too deeply") from error


def dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten sections, so that ``replay.sampler = ...`` may be bare in TOML; lists to tuples.

    An empty section stays: it sets nothing, and whoever wrote it is to be told.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + str(key).replace("-", "_")
        if isinstance(value, Mapping) and value and name not in LEAVES:
            found |= dotted(value, f"{name}.")
        else:
            found[name] = tuple(value) if isinstance(value, list) else value
    return found
