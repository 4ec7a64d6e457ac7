"""Decides whether the code that a saved run names may be imported.

A run names the code that makes its environment. In a run from a stranger, ``evil:make_env`` would
execute the module ``evil``. Code named by a file is therefore imported only with the user's
consent: ``--trust-env`` (``trust_env=True``), the argument ``env=``, or an earlier run with the
same code on this account, which is listed in a file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from drama.errors import EnvError
from drama.importing import locate
from drama.text import brief

WRITERS = ("RecordVideo",)
"""Wrappers of Gymnasium that write files to paths in their arguments."""

REMEDY = (
    "add --trust-env (trust_env=True in Python) or give the environment (--env module:make_env, "
    "env=...)"
)


def code_named(env_id: str, wrappers: Iterable[str] = ()) -> list[str]:
    """Return the import paths that making an environment would import.

    Args:
        env_id: A Gymnasium id, ``module:Id-v0`` or ``module:make_env``.
        wrappers: As in ``env.wrappers``.
    """
    own = (wrapper for wrapper in wrappers if not _is_gymnasiums(wrapper))
    return [*([env_id] if ":" in env_id else []), *own]


def _is_gymnasiums(wrapper: str) -> bool:
    """Whether a wrapper is Gymnasium's own and writes no files; such wrappers need no trust."""
    module, _, name = wrapper.partition("(")[0].rpartition(":")
    if module != "gymnasium.wrappers" and not module.startswith("gymnasium.wrappers."):
        return False
    import gymnasium

    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    is_wrapper = isinstance(kind, type) and issubclass(kind, gymnasium.Wrapper)
    return is_wrapper and name not in WRITERS


def check(
    env_id: str,
    kwargs: Mapping[str, Any],
    wrappers: Iterable[str],
    *,
    trusted: bool,
    where: object,
    remedy: str = REMEDY,
) -> None:
    """Refuse code that a file names, unless the user trusts it.

    Args:
        env_id: As in ``env.id``.
        kwargs: As in ``env.kwargs``.
        wrappers: As in ``env.wrappers``.
        trusted: Whether the user trusts it in this call.
        where: The file or directory, for the message.
        remedy: How the user can trust it, for the message.

    Raises:
        EnvError: The file names code that the user has not trusted.
    """
    wrappers = tuple(wrappers)
    code = code_named(env_id, wrappers)
    if code and not trusted and _entry(env_id, kwargs, wrappers) not in _known():
        raise EnvError(
            f"{where} would import {', '.join(brief(path) for path in code)}, which no run made on "
            f"this account has: if you trust it, {remedy}"
        )


def remember(env_id: str, kwargs: Mapping[str, Any], wrappers: Iterable[str]) -> None:
    """Record that the user named this code; skipped if the file cannot be written."""
    wrappers = tuple(wrappers)
    entry = _entry(env_id, kwargs, wrappers)
    if code_named(env_id, wrappers) and entry not in _known():
        with contextlib.suppress(OSError):
            known_file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with known_file().open("a", encoding="utf-8") as file:
                file.write(entry + "\n")


def known_file() -> Path:
    """Return the file of trusted code: one line of JSON per environment."""
    state = os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "drama" / "trusted-environments"


def _entry(env_id: str, kwargs: Mapping[str, Any], wrappers: tuple[str, ...]) -> str:
    """Return one line of the file: names, arguments, and the files of the named packages."""
    modules = (path.partition("(")[0].rpartition(":")[0] for path in code_named(env_id, wrappers))
    files = [locate(module) for module in modules]
    return json.dumps([env_id, dict(kwargs), list(wrappers), files], sort_keys=True)


def _known() -> set[str]:
    try:
        return set(known_file().read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return set()
