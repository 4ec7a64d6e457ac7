"""Import paths as text: ``module:attribute``, and calls such as ``module:Class(size=4)``."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import os
import sys
from collections.abc import Mapping
from typing import Any

from drama.errors import ConfigError

_search_here = False


def search_here() -> None:
    """Search the working directory for modules named by the user, as ``python -m`` does.

    For commands. ``sys.path`` is extended when such a module is first imported.
    """
    global _search_here
    _search_here = True


def import_named(module: str) -> Any:
    """Import a module named by the user.

    Raises:
        ModuleNotFoundError: It does not exist.
    """
    here = os.getcwd()
    if _search_here and here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(module)


def locate(module: str) -> str | None:
    """Return the file of a module's top-level package, without importing it.

    None if the package does not exist or has no file.
    """
    top = module.partition(".")[0]
    if top in sys.modules:
        return getattr(sys.modules[top], "__file__", None)
    here = [os.getcwd()] if _search_here else []
    spec = importlib.machinery.PathFinder.find_spec(top, [*here, *sys.path])
    return None if spec is None else spec.origin


def attribute(path: str) -> Any:
    """Return the object at ``module:attribute``; the attribute may have dots.

    Raises:
        ImportError: The module does not exist.
        AttributeError: The module lacks the attribute.
    """
    module, _, name = path.rpartition(":")
    return functools.reduce(getattr, name.split("."), import_named(module))


def path_of(target: Any) -> str:
    """Return ``module:qualname`` of a class or function, whether or not it can be imported."""
    kind = target if hasattr(target, "__qualname__") else type(target)
    return f"{kind.__module__}:{kind.__qualname__}"


def is_importable(target: Any) -> bool:
    """Whether another process can import a class or function by its path.

    Definitions in a script (``__main__``), local ones and lambdas cannot be imported.
    """
    path = path_of(target)
    if path.startswith("__main__:") or "<" in path:
        return False
    try:
        return attribute(path) is target
    except (ImportError, AttributeError):
        return False


def is_literal(value: Any) -> bool:
    """Whether ``repr(value)`` is a Python literal that evaluates to an equal value."""
    try:
        again = ast.literal_eval(repr(value))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return type(again) is type(value) and bool(again == value)


def call_text(path: str, arguments: Mapping[str, Any] | None) -> str:
    """Return ``path(name=value, ...)``; ``...`` stands for unknown arguments and non-literals."""
    if arguments is None:
        return f"{path}(...)"
    texts = (f"{k}={v!r}" if is_literal(v) else f"{k}=..." for k, v in arguments.items())
    return f"{path}({', '.join(texts)})" if arguments else path


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """Return path and arguments of ``module:Class`` or ``module:Class(name=value, ...)``.

    Raises:
        ConfigError: The text is not of this form.
    """
    path, bracket, rest = text.strip().partition("(")
    module, _, name = path.rpartition(":")
    dotted = (*module.split("."), *name.split("."))
    arguments: dict[str, Any] = {}
    try:
        if not all(part.isidentifier() for part in dotted):
            raise ValueError("no import path")
        if bracket:
            call = ast.parse(f"f({rest}", mode="eval").body
            if not isinstance(call, ast.Call) or call.args:
                raise ValueError("no call with named arguments")
            for keyword in call.keywords:
                if keyword.arg is None:
                    raise ValueError("no named argument")
                arguments[keyword.arg] = ast.literal_eval(keyword.value)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ConfigError(
            "a wrapper is written module:Class or 'module:Class(size=4)', with import path and "
            f"literal arguments, got {text!r}"
        ) from error
    return path, arguments
