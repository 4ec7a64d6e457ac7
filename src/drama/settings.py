"""Properties of settings by dotted name, and differences between configurations."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from drama.config import Config
from drama.validation import Alters, declarations

DECLARATIONS = declarations(Config)
"""Declaration of every setting by its dotted name."""
MAPPINGS = tuple(
    name
    for name in DECLARATIONS
    if isinstance(functools.reduce(getattr, name.split("."), Config()), Mapping)
)
"""Settings that are mappings themselves."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree of sections as one mapping by dotted name."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key not in MAPPINGS:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def setting_differences(
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    alters: tuple[Alters, ...] = ("task", "learning"),
) -> tuple[str, ...]:
    """Return the settings of some kinds in which two ``config.json`` differ.

    Args:
        one: The configuration in question.
        other: The configuration to compare with.
        alters: Kinds that count; settings that this version does not have count always.

    Returns:
        ``section.field VALUE (not OTHER)`` for each, in the order of the fields.
    """
    mine, theirs = flat(one), flat(other)
    return tuple(
        f"{key} {shown(mine.get(key))} (not {shown(theirs.get(key))})"
        for key in dict.fromkeys((*mine, *theirs))
        if mine.get(key) != theirs.get(key)
        and (key not in DECLARATIONS or DECLARATIONS[key].alters in alters)
    )


def canonical(value: object) -> str:
    """Return the same text for equal values."""
    return json.dumps(value, sort_keys=True, default=str)


def shown(value: object) -> str:
    """Return a setting as text for a message."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
