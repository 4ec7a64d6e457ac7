"""Text in messages: nearest names, one-line texts, counts, sizes and durations."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6
"""Least similarity (`difflib.SequenceMatcher.ratio`) of a suggested name."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = CUTOFF) -> str | None:
    """Return the known name most similar to ``name``, or None if none is similar.

    Case is ignored. The last part of a dotted name stands for the whole: ``lr`` suggests
    ``world_model.optim.lr``.

    Args:
        name: The name that was given.
        known: Valid names.
        cutoff: Least similarity, in [0, 1].
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
    """Return ``; did you mean NAME?``, or an empty string if no known name is similar."""
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {near}?"


def brief(value: object, most: int = 120) -> str:
    """Return ``repr(value)``, cut to ``most`` characters."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def one_line(value: object) -> str:
    """Return ``str(value)`` on one line: every run of whitespace becomes one space."""
    return " ".join(str(value).split())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def plural(count: int, noun: str) -> str:
    """Return ``1 run`` or ``1,234 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Return bytes as ``1.2 GB``, ``345 MB`` or ``6 kB`` (powers of 1000)."""
    if count >= 999.5e6:
        return f"{count / 1e9:,.1f} GB"
    if count >= 999.5e3:
        return f"{count / 1e6:.0f} MB"
    return f"{count / 1e3:.0f} kB"


def duration(seconds: float) -> str:
    """Return seconds with three digits in the unit that fits: ms, s, min, h or days."""
    if 0 < seconds < 0.9995:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.3g} h"
    return f"{seconds / 86400:,.1f} days"


def clock(seconds: float) -> str:
    """Return seconds as ``h:mm:ss`` or ``m:ss``."""
    seconds = round(seconds)
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"
