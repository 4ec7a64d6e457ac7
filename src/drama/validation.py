"""Sections of settings: frozen dataclasses that declare, check and normalise their fields.

Each field is declared by what a change of it alters:

    lr: float = learning(4e-5)            # what is learnt; fixed for the life of a run
    log_every: int = output(250)          # what is printed or written
    threads: int = speed(0, most=4096)    # speed and the last bits of sums
    frame_skip: int = task(4)             # the environment; no difference from a preset
    seed: int = identity(0)               # which run it is
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar, cast

from drama.errors import ConfigError
from drama.renamed import refuse_former
from drama.text import brief, did_you_mean

T = TypeVar("T")

Alters = Literal["identity", "task", "learning", "speed", "output"]


@dataclasses.dataclass(frozen=True)
class Declaration:
    """Properties of a setting, stored in the metadata of its dataclass field."""

    alters: Alters
    """What a change alters: the run's identity, its task, what is learnt, speed or output only."""
    resume: bool
    """Whether a resumed run may change it."""
    suite: bool = False
    """Whether a suite sets it, so that no variant may."""
    most: int | None = None
    """Largest value, far beyond use; a larger one would abort the process for lack of memory."""

    def metadata(self) -> dict[str, Any]:
        """Return metadata for `dataclasses.field`."""
        return {"declaration": self}


def identity(default: T) -> T:
    """Declare a setting that identifies a run, such as its seed; a suite sets it."""
    return _field(default, Declaration("identity", resume=False, suite=True))


def task(default: T, *, resume: bool = False, suite: bool = False, most: int | None = None) -> T:
    """Declare a setting that alters the task, as the environment's; a resumed run keeps it."""
    return _field(default, Declaration("task", resume, suite, most))


def learning(default: T, *, most: int | None = None) -> T:
    """Declare a setting that alters what an agent learns of a task; a resumed run keeps it."""
    return _field(default, Declaration("learning", resume=False, most=most))


def speed(default: T, *, resume: bool = True, most: int | None = None) -> T:
    """Declare a setting that alters speed, memory or rounding; a resumed run may change it."""
    return _field(default, Declaration("speed", resume, most=most))


def output(default: T, *, most: int | None = None) -> T:
    """Declare a setting that alters evaluation, logs or files; a resumed run may change it."""
    return _field(default, Declaration("output", resume=True, most=most))


def _field(default: T, declaration: Declaration) -> T:
    return dataclasses.field(default=default, metadata=declaration.metadata())


def require(condition: bool, message: str) -> None:
    """Raise a ConfigError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConfigError(message)


class Section:
    """Base of a section of settings, a frozen dataclass that may implement ``_check``."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        for field_name, hint in field_types(type(self)).items():
            value = getattr(self, field_name)
            exact = _convert(hint, value, f"{name}.{field_name}")
            if exact is not value:
                object.__setattr__(self, field_name, exact)
        _check_most(self, name)
        self._check()

    def _check(self) -> None:
        """Check ranges; types are already checked."""


def declarations(cls: type[Any], prefix: str = "") -> dict[str, Declaration]:
    """Return the declaration of every setting of a tree of sections by dotted name.

    Raises:
        TypeError: A setting is not declared.
    """
    found: dict[str, Declaration] = {}
    hints = field_types(cls)
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        if dataclasses.is_dataclass(hints[field.name]):
            found |= declarations(hints[field.name], f"{name}.")
            continue
        declaration = field.metadata.get("declaration")
        if not isinstance(declaration, Declaration):
            raise TypeError(f"{name} must be declared: identity, task, learning, speed or output")
        found[name] = declaration
    return found


def field_types(cls: type[Any]) -> dict[str, Any]:
    """Return the types of a dataclass's fields by name."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _check_most(section: Any, name: str) -> None:
    """Require that no setting of a section exceeds its declared ``most``."""
    for field in dataclasses.fields(section):
        declaration = field.metadata.get("declaration")
        if declaration is None or (most := declaration.most) is None:
            continue
        value = getattr(section, field.name)
        values = value if isinstance(value, tuple) else (value,)
        large = [v for v in values if v is not None and v > most]
        require(not large, f"{name}.{field.name} must be at most {most:,}, got {large[:1]}")


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
    """Return a copy of a tree of sections with the settings of these dotted names replaced.

    Raises:
        ConfigError: There is no such setting (the nearest is named), or a value does not fit.
    """
    known = dict(_fields(config))
    tree = dataclasses.asdict(config)  # type: ignore[call-overload]
    for path, value in settings.items():
        _put(tree, str(path).replace("-", "_"), value, known)
    return from_dict(type(config), tree)


def _fields(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every section and setting as (dotted name, value)."""
    for one in dataclasses.fields(section):
        name, value = f"{prefix}{one.name}", getattr(section, one.name)
        yield name, value
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{name}.")


def _put(tree: dict[str, Any], path: str, value: Any, known: Mapping[str, Any]) -> None:
    """Set ``path`` in the tree of settings; ``known`` maps valid names to present values."""
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
    refuse_former(path)
    # The keys of a setting that is itself a mapping are the user's.
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
        return tuple(_convert(args[0], item, path) for item in cast("list[object]", value))
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
    """Return a copy of a JSON value; refuse others, which ``config.json`` cannot hold."""
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
