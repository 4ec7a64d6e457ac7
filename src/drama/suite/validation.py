"""Validation of suite files: each function raises a ConfigError that names the path."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from drama.errors import ConfigError
from drama.text import did_you_mean

T = TypeVar("T")


def fields_of(
    cls: type, tree: object, path: str, optional: tuple[str, ...] = ("title", "steps")
) -> Mapping[str, Any]:
    """Return ``tree`` if it has exactly the fields of ``cls``, except optional ones."""
    tree = table_at(tree, path)
    known = [f.name for f in dataclasses.fields(cls)]
    for name in tree:
        if name not in known:
            hint = did_you_mean(str(name), known) or f"; fields are {listed(known)}"
            raise ConfigError(f"{path} has no field {name!r}{hint}")
    for name in known:
        if name not in tree and name not in optional:
            raise ConfigError(f"{path} lacks the field {name!r}")
    return tree


def table_at(value: object, path: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} must be a table, got {value!r}")
    return value


def items_at(value: object, path: str) -> Sequence[Any]:
    """Return ``value`` if it is a list."""
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{path} must be a list, got {value!r}")
    return value


def typed(kind: type[T], value: object, path: str) -> T:
    """Return ``value`` if it is of type ``kind``, a string or an integer."""
    if not isinstance(value, kind) or isinstance(value, bool):
        word = "a string" if kind is str else "an integer"
        raise ConfigError(f"{path} must be {word}, got {value!r}")
    return value


def steps_by_game(steps: Mapping[str, object], games: Sequence[str]) -> dict[str, int]:
    """Return a number of steps for each of ``games``, in their order."""
    for game in steps:
        if game not in games:
            hint = did_you_mean(str(game), games) or f"; it has {listed(games)}"
            raise ConfigError(f"steps names {game!r}, which is no game of the suite{hint}")
    if lacking := [game for game in games if game not in steps]:
        raise ConfigError(f"steps has no number for {listed(lacking)}")
    found = {game: typed(int, steps[game], f"steps of {game}") for game in games}
    for game, count in found.items():
        if count < 1:
            raise ConfigError(f"steps of {game} must be positive, got {count}")
    return found


def distinct(word: str, items: Sequence[T], key: Callable[[T], object]) -> None:
    """Check that there is at least one item and that keys are distinct."""
    if not items:
        raise ConfigError(f"a suite needs at least one {word}")
    seen: dict[object, T] = {}
    for item in items:
        if key(item) in seen:
            one, two = (getattr(x, "name", x) for x in (seen[key(item)], item))
            raise ConfigError(f"{word} {two!r} would share its directory with {one!r}")
        seen[key(item)] = item


def nearest(word: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is known; the error suggests the nearest name or lists all."""
    if name in (known := list(known)):
        return name
    hint = did_you_mean(name, known) or f"; it has {listed(known)}"
    raise ConfigError(f"the suite has no {word} {name!r}{hint}")


def listed(items: Iterable[Any]) -> str:
    """Return items separated by commas."""
    return ", ".join(map(str, items))


def as_toml(value: Any) -> str:
    """Return a JSON value as TOML, objects as inline tables."""
    if value is None:
        raise ConfigError("TOML has no null value; keep this suite as JSON")
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, Mapping):
        pairs = (f"{as_toml(key)} = {as_toml(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    # TOML reads JSON strings and numbers, and both keep floats and integers apart.
    return text
