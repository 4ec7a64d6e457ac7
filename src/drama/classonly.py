"""A class method that an instance does not silently answer."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, TypeVar, overload

from drama.errors import ConfigError

P = ParamSpec("P")
T = TypeVar("T")


class constructor(Generic[P]):
    """Class method that makes an instance; called on an instance it raises.

    ``agent.load(path)`` as a class method would return another agent and leave ``agent`` as it is.

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
            return function.__get__(owner)  # a bound method, with the function's documentation

        @functools.wraps(function)
        def refuse(*args: Any, **kwargs: Any) -> NoReturn:
            shown = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
            call = f"{owner.__name__}.{function.__name__}({', '.join(shown)})"
            raise ConfigError(
                f"{function.__name__}() makes a new {owner.__name__} and would leave this one as "
                f"it is; write: agent = {call}"
            )

        return refuse
