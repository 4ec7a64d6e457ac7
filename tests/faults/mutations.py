"""Mutated run directories of an attacker: one value changed, all hashes valid."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    2,
    2**31,
    10**9 + 1,
    2**53 + 1,
    2**63,
    10**400,
    -0.5,
    0.5,
    1e-300,
    1e300,
    float("inf"),
    float("nan"),
    "",
    "0",
    "../../escape",
    "/tmp/escape",
    "a\x00b",
    "=1+1",
    "\u202e",
    "x" * 5000,
    [],
    [[]],
    [1, 2, 3],
    {},
    {"a": {"b": []}},
)
TENSORS: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = (
    lambda t: t[None],
    lambda t: t.flatten()[:0],
    lambda t: t.flatten(),
    lambda t: torch.cat([t.flatten(), t.flatten()]),
    lambda t: t.double() if t.is_floating_point() else t.float(),
    lambda t: t.to(torch.int8),
    lambda t: t.bool(),
    lambda t: torch.full_like(t, float("nan")) if t.is_floating_point() else t,
    lambda t: torch.full_like(t, float("inf")) if t.is_floating_point() else torch.full_like(t, 7),
    lambda t: torch.full_like(t, -1) if t.dtype not in (torch.bool, torch.uint8) else ~t,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every position in a JSON tree except the root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)) and len(value) <= 40:
            yield from places(value, (*path, key))


def mutate_tree(tree: Any, rng: random.Random) -> tuple[Any, str]:
    """Replace, drop or add one value of a JSON tree."""
    tree = copy.deepcopy(tree)
    path = rng.choice(list(places(tree)))
    branch = tree
    for key in path[:-1]:
        branch = branch[key]
    name = ".".join(map(str, path))
    way = rng.random()
    if way < 0.15:
        del branch[path[-1]]
        return tree, f"{name} dropped"
    if way < 0.2 and isinstance(branch, dict):
        branch[f"{path[-1]}2"] = branch[path[-1]]
        return tree, f"{name} twice"
    value = rng.choice(VALUES)
    branch[path[-1]] = value
    return tree, f"{name} = {str(value)[:40]}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seal(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with a valid digest."""
    body = {name: value for name, value in manifest.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**body, "digest": digest}, indent=2)
    (checkpoint / "manifest.json").write_text(text)


def rehash(run: Path, checkpoint: Path) -> dict[str, Any]:
    """Rewrite a checkpoint's manifest with the present hashes of its files."""
    manifest: dict[str, Any] = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"] = {name: _digest(checkpoint / name) for name in manifest["files"]}
    for segment in manifest["replay"]:
        segment["sha256"] = _digest(run / "replay" / segment["file"])
    return manifest


def mutate(run: Path, rng: random.Random) -> str:
    """Change one value in a run directory, keep the hashes valid; return a description."""
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "last").read_text().strip()
    kind = rng.choice(
        ("manifest", "state", "config", "state", "config", "model", "optimiser", "loop", "replay")
    )
    if kind == "manifest":
        tree, what = mutate_tree(rehash(run, checkpoint), rng)
        seal(checkpoint, tree)
        return f"manifest.json: {what}"
    if kind in ("state", "config"):
        path = checkpoint / f"{kind}.json"
        tree, what = mutate_tree(json.loads(path.read_text()), rng)
        path.write_text(json.dumps(tree))
    else:
        segments = sorted((run / "replay").iterdir())
        path = rng.choice(segments) if kind == "replay" else checkpoint / f"{kind}.safetensors"
        tensors = safetensors.torch.load_file(path)
        name = rng.choice(sorted(tensors))
        tensor = tensors.pop(name)
        what = f"{name} dropped"
        way = rng.random()
        if way > 0.2:
            index = rng.randrange(len(TENSORS))
            tensors[name], what = TENSORS[index](tensor).contiguous(), f"{name} changed by {index}"
        elif way > 0.1:
            tensors["x" * 300], what = tensor, f"{name} renamed"
        safetensors.torch.save_file(tensors, str(path))
    seal(checkpoint, rehash(run, checkpoint))
    return f"{path.name}: {what}"


def copy_run(source: Path, target: Path) -> Path:
    """A fresh copy of a run directory."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))
