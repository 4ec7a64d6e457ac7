"""Frozen dataclasses whose fields are checked, and made exact, however they are built."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from drama.errors import ConfigError
from drama.renamed import refuse_former
from drama.text import brief, did_you_mean

T = TypeVar("T")


def require(condition: bool, message: str) -> None:
    """Raise a ConfigError that says ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


class Checked:
    """Base of a section of settings, a frozen dataclass that may implement ``_check``."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field_name, hint in field_types(type(self)).items():
            value = getattr(self, field_name)
            exact = _convert(hint, value, f"{name}.{field_name}")
            if exact is not value:
                object.__setattr__(self, field_name, exact)
        check_sizes(self, name)
        self._check()

    most: ClassVar[Mapping[str, int]] = {}
    """Largest value of settings that decide how much memory or time something takes: far beyond
    what is of use, and below what ends in an abort of the process."""

    def _check(self) -> None:
        """Check ranges; the types are right by now."""


def field_types(cls: type[Any]) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def check_sizes(section: Any, name: str) -> None:
    """Require that no setting of a section is larger than its ``most``."""
    for field, most in section.most.items():
        value = getattr(section, field)
        values = value if isinstance(value, tuple) else (value,)
        large = [v for v in values if v is not None and v > most]
        require(not large, f"{name}.{field} must be at most {most:,}, got {large[:1]}")


def positive(section: str, **values: float) -> None:
    """Require that each of a section's named values is above 0."""
    for name, value in values.items():
        require(value > 0, f"{section}.{name} must be positive, got {value}")


def fraction(section: str, **values: float) -> None:
    """Require that each of a section's named values lies in [0, 1]."""
    for name, value in values.items():
        require(0 <= value <= 1, f"{section}.{name} must lie in [0, 1], got {value}")


def from_dict(cls: type[T], tree: object, path: str = "config") -> T:
    """Build dataclass ``cls`` from nested dictionaries, checking names and types.

    Raises:
        ConfigError: Naming the field, with the nearest known name where there is one.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must be an object, got {type(tree).__name__}")
    hints = field_types(cls)
    for name in tree:
        if name not in hints:
            raise ConfigError(f"{path} has no field {name!r}{did_you_mean(str(name), hints)}")
    values = {name: _convert(hints[name], value, f"{path}.{name}") for name, value in tree.items()}
    return cls(**values)


def replaced(config: T, settings: Mapping[str, Any]) -> T:
    """Return a tree of dataclasses with settings replaced by their dotted names.

    Raises:
        ConfigError: There is no such setting (the nearest is named), or a value does not fit.
    """
    known = dict(_fields(config))
    tree = dataclasses.asdict(config)  # type: ignore[call-overload]
    for path, value in settings.items():
        _put(tree, str(path).replace("-", "_"), value, known)
    return from_dict(type(config), tree)


def _fields(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every section and setting by its dotted name, with its value."""
    for one in dataclasses.fields(section):
        name, value = f"{prefix}{one.name}", getattr(section, one.name)
        yield name, value
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{name}.")


def _put(tree: dict[str, Any], path: str, value: Any, known: Mapping[str, Any]) -> None:
    """Set what is called ``path`` in the tree of settings; ``known`` holds what there is."""
    *sections, name = path.split(".")
    above = ".".join(sections)
    section = known.get(path)
    if dataclasses.is_dataclass(section):
        if isinstance(value, type(section)):
            value = {f.name: getattr(value, f.name) for f in dataclasses.fields(section)}
        fits = isinstance(value, Mapping) and len(value) > 0
        require(fits, f"{path} is a section: name a setting of it, got {brief(value)}")
        for key, inner in value.items():
            _put(tree, f"{path}.{key}".replace("-", "_"), inner, known)
        return
    refuse_former(path, value)
    # A setting may itself be a mapping, whose keys are the user's.
    if path not in known and not isinstance(known.get(above), Mapping):
        settings = [key for key, found in known.items() if not dataclasses.is_dataclass(found)]
        raise ConfigError(f"there is no setting {path!r}{did_you_mean(path, settings)}")
    branch = tree
    for part in sections:
        branch = branch[part]
    branch[name] = value


def _convert(hint: Any, value: object, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [arg for arg in args if arg is not type(None)]
        return _convert(inner, value, path)
    if origin is Literal:
        fits = any(value == arg and type(value) is type(arg) for arg in args)
        require(fits, f"{path} must be one of {', '.join(map(str, args))}, got {brief(value)}")
        return value
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{path} must be a list, got {brief(value)}")
        return tuple(_convert(args[0], item, path) for item in typing.cast("list[object]", value))
    if origin is Mapping:
        require(isinstance(value, Mapping), f"{path} must be an object, got {brief(value)}")
        return _json(value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 2**1000, f"{path} is too large")
        value = float(value)
    if isinstance(value, float):
        require(math.isfinite(value), f"{path} must be finite, got {value}")
    fits = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(fits, f"{path} must be of type {hint.__name__}, got {brief(value)}")
    return value


def _json(value: Any, path: str) -> Any:
    """Return a copy of a value that JSON can hold, so that it survives ``config.json``."""
    if isinstance(value, Mapping):
        for key in value:
            require(isinstance(key, str), f"{path} has the key {key!r}, which is not a string")
        return {key: _json(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_json(item, path) for item in value]
    require(
        value is None or type(value) in (bool, int, float, str),
        f"{path} must be a JSON value (number, string, boolean, null, list, object), "
        f"got {brief(value)}",
    )
    require(
        not isinstance(value, float) or math.isfinite(value), f"{path} must be finite, got {value}"
    )
    return value
