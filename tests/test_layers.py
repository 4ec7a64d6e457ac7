"""Imports go downwards: each module imports its own layer or lower ones, and none in a cycle."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src"

LAYERS: tuple[tuple[str, ...], ...] = (
    ("version", "errors", "types"),
    ("text", "files", "importing", "attributes", "renamed"),
    ("trust", "validation", "registry"),
    ("ops", "ssm"),
    ("actions", "observations"),
    ("training.config",),
    ("dynamics.config", "envs.config", "replay.config"),
    ("world_model.config",),
    ("behaviour.config",),
    ("evaluation.config",),
    ("config",),
    ("settings",),
    ("presets", "dynamics"),
    ("world_model", "envs"),
    ("behaviour", "replay", "runtime"),
    ("evaluation", "training", "machine.costs"),
    ("machine.measurement", "machine.estimate", "loading", "predicting"),
    ("agent",),
    ("machine", "play"),
    ("export",),
    ("suite",),
    ("report",),
    ("cli",),
    ("__main__", ""),
)
"""Packages and modules of `drama`, lowest layer first; the most specific name of a module counts.

The empty name is the package itself, which re-exports names for users; no module imports it.
"""


def modules() -> dict[str, Path]:
    """Every module of the package by its name below `drama`."""
    found = {}
    for path in sorted((SOURCE / "drama").rglob("*.py")):
        parts = path.relative_to(SOURCE / "drama").with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[str]:
    """Modules of the package that a module imports.

    Imports inside functions and under TYPE_CHECKING count too: a reader has to know the module.
    Those of a package's `__init__` from its own modules are re-exports and do not count.
    """
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            targets = [
                full if below(full := f"{node.module}.{alias.name}") in MODULES else node.module
                for alias in node.names
                if node.module is not None
            ]
        else:
            continue
        for target in targets:
            if target is None or target.split(".")[0] != "drama":
                continue
            inner = below(target)
            reexport = MODULES[name].name == "__init__.py" and inner.startswith(f"{name}.")
            if not reexport:
                yield inner


def below(name: str) -> str:
    """Name of a module below `drama`."""
    return name.removeprefix("drama").removeprefix(".")


@functools.cache
def layer(name: str) -> int:
    """Layer of a module, by the longest listed name that it is or lies in."""
    ranks = {listed: rank for rank, row in enumerate(LAYERS) for listed in row}
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if (listed := ".".join(parts[:length])) in ranks:
            return ranks[listed]
    raise AssertionError(f"{name} is in no layer")


def test_every_layer_exists() -> None:
    for name in (listed for row in LAYERS for listed in row):
        assert name in MODULES, name


def test_no_module_imports_upwards() -> None:
    upwards = [
        f"{name} imports {target or 'drama'}"
        for name in MODULES
        if name
        for target in imports(name)
        if layer(target) > layer(name)
    ]
    assert upwards == []


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = {name: {t for t in imports(name) if t != name} for name in MODULES}
    while free := {name for name, targets in graph.items() if not targets & graph.keys()}:
        for name in free:
            del graph[name]
    # What is left lies in a cycle or above one; drop what nothing left imports.
    while top := graph.keys() - {target for targets in graph.values() for target in targets}:
        for name in top:
            del graph[name]
    assert sorted(graph) == []
