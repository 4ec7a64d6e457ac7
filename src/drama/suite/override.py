"""Overrides of settings by dotted name: from ``--set``, from a variant, from Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from drama.config import Config
from drama.errors import ConfigError
from drama.settings import DECLARATIONS, MAPPINGS


def override(config: Config, overrides: Mapping[str, Any]) -> Config:
    """Return ``config`` with settings replaced.

    Args:
        config: Base configuration.
        overrides: Dotted ``section.field`` to value, as in ``config.json``.

    Raises:
        ConfigError: A setting does not exist (the nearest is named) or is set by the suite, or a
            value does not fit.
    """
    overrides = dotted(overrides)
    for key in overrides:
        if key in DECLARATIONS and DECLARATIONS[key].suite:
            raise ConfigError(f"{key} is set by the suite, not by an override")
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

    An empty section stays, to be refused with a message.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + str(key).replace("-", "_")
        if isinstance(value, Mapping) and value and name not in MAPPINGS:
            found |= dotted(value, f"{name}.")
        else:
            found[name] = tuple(value) if isinstance(value, list) else value
    return found
