"""Nearest names: what a mistyped word was probably meant to be, and nothing where none is near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6
"""Least similarity (`difflib.SequenceMatcher.ratio`) of a name that is suggested."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = CUTOFF) -> str | None:
    """Return the known name nearest to ``name``, or None if none is near.

    Case is ignored. The last part of a dotted name stands for the whole: ``lr`` is near to
    ``world_model.optim.lr``.
    """
    by_key: dict[str, str] = {}
    for candidate in known:
        by_key.setdefault(candidate.casefold(), candidate)
    key = name.casefold()
    found = difflib.get_close_matches(key, by_key, n=1, cutoff=cutoff)
    if "." not in key:
        found = [one for one in by_key if one.rpartition(".")[2] == key][:1] or found
    return by_key[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean NAME?``, or nothing if no known name is near."""
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {near}?"
