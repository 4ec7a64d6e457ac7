"""Differences between two suites, in words."""

from __future__ import annotations

from typing import Any

from drama.suite.spec import SuiteSpec
from drama.suite.validation import listed


def differences(before: SuiteSpec, after: SuiteSpec) -> list[str]:
    """Return how ``after`` differs from ``before``; empty if they define the same runs."""
    found = []
    for name in ("name", "title"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found.append(f"{name} {new} (there: {old})")
    found += _steps(before, after)
    for name in ("games", "seeds"):
        found += _sets(name, getattr(before, name), getattr(after, name))
    old_variants = {variant.name: variant for variant in before.variants}
    new_variants = {variant.name: variant for variant in after.variants}
    found += _sets("variants", tuple(old_variants), tuple(new_variants))
    for name in old_variants.keys() & new_variants.keys():
        one, other = old_variants[name], new_variants[name]
        for key in ("label", "preset"):
            if getattr(one, key) != getattr(other, key):
                found.append(f"{name}: {key} {getattr(other, key)} (there: {getattr(one, key)})")
        for key in sorted(one.overrides.keys() | other.overrides.keys()):
            old, new = (side.overrides.get(key, "unset") for side in (one, other))
            if old != new:
                found.append(f"{name}: {key}={new} (there: {old})")
    return found


def _steps(before: SuiteSpec, after: SuiteSpec) -> list[str]:
    """Compare the steps of each game of both suites."""
    shared = [game for game in after.games if game in before.games]
    changed: dict[tuple[int | None, int | None], list[str]] = {}
    for game in shared:
        old, new = before.steps_of(game), after.steps_of(game)
        if old != new:
            changed.setdefault((old, new), []).append(game)
    return [
        f"steps {'' if games == shared else f'of {listed(games)} '}{new} (there: {old})"
        for (old, new), games in changed.items()
    ]


def _sets(name: str, before: tuple[Any, ...], after: tuple[Any, ...]) -> list[str]:
    if before == after:
        return []
    added = [item for item in after if item not in before]
    missing = [item for item in before if item not in after]
    parts = [f"more: {listed(added)}"] if added else []
    parts += [f"without: {listed(missing)}"] if missing else []
    return [f"{name} {', '.join(parts) or 'in another order'}"]
