"""Attribute lookup: lazy imports of a package, and constructors that instances refuse."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, overload

from drama.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


def lazy(
    package: str, modules: Mapping[str, Iterable[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` that import a package's names on first use.

    Args:
        package: ``__name__`` of the package.
        modules: Module to the names that it defines; names of ``package`` itself are submodules.
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            value: Any = importlib.import_module(f"{package}.{name}")
        else:
            value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names


class constructor(Generic[P]):
    """Class method that makes an instance and raises when called on an instance.

    As a plain class method, ``agent.load(path)`` would return another agent and leave ``agent``
    unchanged.

    Args:
        function: Takes the class, then the arguments; returns an instance of the class.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], Any]) -> None:
        self.__wrapped__ = function
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type[T]) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: T, owner: type[T]) -> Callable[P, NoReturn]: ...
    def __get__(self, instance: Any, owner: Any) -> Any:
        """Return the bound class method, or for an instance a function that raises."""
        function = self.__wrapped__
        if instance is None:
            return function.__get__(owner)  # a bound method that keeps the docstring

        @functools.wraps(function)
        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            shown = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
            call = f"{owner.__name__}.{function.__name__}({', '.join(shown)})"
            raise ConfigError(
                f"{function.__name__}() makes a new {owner.__name__} and would leave this one as "
                f"it is; write: agent = {call}"
            )

        return refuse
