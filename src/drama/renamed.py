"""Renamed and removed settings: saved files still load, and messages name the present names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from drama.errors import ConfigError
from drama.text import brief

RENAMED = {
    "behaviour.policy_memory": "behaviour.policy_context",
    "training.warmup_hold": "training.random_action_repeat",
}
"""Former dotted name of each renamed setting to its name; both belong to the same section."""
RENAMED_VALUES = {"replay.sampler": {"dfs-learnt": "dfs-trained"}}
"""Setting to its renamed values: former value to value."""


class Removed(NamedTuple):
    """A setting that was removed."""

    value: object
    """Its former default, which the code now always has: the only value that still loads."""
    last: str
    """Last version that had it."""


REMOVED = {
    "behaviour.ppo.advantage_scale": Removed("returns", "0.1.0"),
    "behaviour.start_at_episode_starts": Removed(True, "0.1.0"),
    "behaviour.unimix": Removed(0.0, "0.1.0"),
    "behaviour.zero_init_heads": Removed(True, "0.1.0"),
    "replay.replacement": Removed(False, "0.1.0"),
    "world_model.zero_init_heads": Removed(True, "0.1.0"),
}
"""Each removed setting by its dotted name."""


def update_names(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a saved file under their present names, without removed ones.

    Args:
        tree: Settings by dotted name, or nested by section, as in a ``config.json`` or a TOML file.
        prefix: Dotted name of the section that ``tree`` is, with a dot at its end.

    Raises:
        ConfigError: A setting is given under its former and its present name, or a removed one
            has another value than its default.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, Mapping) and value:
            value = update_names(value, f"{path}.")
            if not value:  # a section with removed settings only
                continue
        elif isinstance(value, str):
            value = RENAMED_VALUES.get(path, {}).get(value, value)
        if path in REMOVED:
            if value != REMOVED[path].value:
                last = REMOVED[path].last
                raise ConfigError(f"{_removal(path)}; version {last} reads {brief(value)}")
            continue
        if path in RENAMED:
            key = RENAMED[path].removeprefix(prefix)
            if key in tree:
                raise ConfigError(f"{path} is the former name of {RENAMED[path]}: give only one")
        found[key] = value
    return found


def update_protocol(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol of a saved evaluation with the present names of settings as keys."""
    names = {_last(old): _last(new) for old, new in RENAMED.items()}
    return {names.get(key, key): value for key, value in protocol.items()}


def present_name(name: str) -> str | None:
    """Return the present name of a setting if ``name``, dotted or its last part, is a former one.

    Args:
        name: In Python's or the command line's spelling.
    """
    key = name.replace("-", "_")
    return next((new for old, new in RENAMED.items() if key in (old, _last(old))), None)


def refuse_former(name: str, value: object = None) -> None:
    """Refuse a setting that was removed, or is given under a former name or with a former value.

    Args:
        name: Of the setting, dotted; ``section.no-field`` is the option that turns one off.
        value: Of the setting.

    Raises:
        ConfigError: It names the present name, if there is one.
    """
    section, _, last = name.replace("-", "_").rpartition(".")
    for path in (f"{section}.{last}", f"{section}.{last.removeprefix('no_')}"):
        if path in REMOVED:
            raise ConfigError(_removal(path))
    if (new := present_name(name)) is not None:
        raise ConfigError(f"{name} is now called {new}")
    values = RENAMED_VALUES.get(name.replace("-", "_"), {})
    if isinstance(value, str) and value in values:
        raise ConfigError(f"{name} {value} is now called {values[value]}")


def _removal(path: str) -> str:
    """Return since when a setting is removed, and its value now."""
    value, last = REMOVED[path]
    return f"{path} was removed after version {last} and is always {value} now"


def _last(name: str) -> str:
    return name.rpartition(".")[2]
