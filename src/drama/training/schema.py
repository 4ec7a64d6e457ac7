"""Schema of the JSON files of a checkpoint, checked before they are used.

Hashes find accidents only: whoever changes a file can recompute them. So every name that becomes a
path must match a pattern, every number that becomes a size has bounds, and every field that
training reads has its type.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from drama.errors import CheckpointError
from drama.files import MOST_COUNT

MOST_ACTIONS = 2**20
MOST_VALUES = 2**31
"""Entries of one observation."""
MOST_SEGMENTS = 10**6

SEGMENT = re.compile(r"([0-9]{12,16})-([0-9]{12,16})\.safetensors")
"""Name of a replay segment: its first transition, and the one after its last."""
FILES = re.compile(r"(model|optimiser|loop)\.safetensors|(state|config)\.json")
HASH = re.compile(r"[0-9a-f]{64}")
LOGS = ("metrics", "episodes")

Check = Callable[[Any], bool]


def whole(low: int = 0, high: int = MOST_COUNT) -> Check:
    """Whether a value is an integer in ``[low, high]``."""
    return lambda x: isinstance(x, int) and not isinstance(x, bool) and low <= x <= high


def _flag(x: Any) -> bool:
    return isinstance(x, bool)


def _number(x: Any) -> bool:
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        return False
    return abs(x) < MOST_COUNT if isinstance(x, int) else math.isfinite(x)


def _float32(x: Any) -> bool:
    return _number(x) and abs(x) < 3.4e38


def _matches(pattern: re.Pattern[str]) -> Check:
    return lambda x: isinstance(x, str) and pattern.fullmatch(x) is not None


def _list(item: Check, most: int) -> Check:
    return lambda x: isinstance(x, list) and len(x) <= most and all(map(item, x))


def _maybe(check: Check) -> Check:
    return lambda x: x is None or check(x)


def _text(x: Any) -> bool:
    return isinstance(x, str) and len(x) <= 1000


def _fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    known = {**required, **(optional or {})}

    def check(x: Any) -> bool:
        return (
            isinstance(x, dict)
            and required.keys() <= x.keys()
            and all(known[name](value) for name, value in x.items() if name in known)
        )

    return check


def _segments(x: Any) -> bool:
    if not isinstance(x, list) or len(x) > MOST_SEGMENTS:
        return False
    shape = _fields({"start": whole(), "stop": whole(), "sha256": _matches(HASH), "file": _text})
    if not all(map(shape, x)):
        return False
    for segment in x:
        name = SEGMENT.fullmatch(segment["file"])
        if name is None or segment["start"] >= segment["stop"]:
            return False
        if (int(name[1]), int(name[2])) != (segment["start"], segment["stop"]):
            return False
    return True


def _files(x: Any) -> bool:
    return (
        isinstance(x, dict)
        and {"model.safetensors", "state.json", "config.json"} <= x.keys()
        and all(map(_matches(FILES), x))
        and all(map(_matches(HASH), x.values()))
    )


def _logs(x: Any) -> bool:
    return isinstance(x, dict) and all(k in LOGS and whole()(v) for k, v in x.items())


MANIFEST: Mapping[str, Check] = {
    "step": whole(),
    "files": _files,
    "replay": _segments,
    "logs": _logs,
}

_WORD, _STATE = whole(high=2**32 - 1), whole(high=2**128 - 1)
_GENERATOR = _fields(
    {
        "bit_generator": lambda x: x == "PCG64",
        "state": _fields({"state": _STATE, "inc": _STATE}),
        "has_uint32": whole(high=1),
        "uinteger": _WORD,
    }
)
_METER = _fields({"keys": _list(_text, 1000), "count": whole(), "sums": _list(_number, 1000)})
_STREAM = _fields(
    {},
    {
        "seed": _maybe(whole(high=2**63 - 1)),
        "is_first": _flag,
        "needs_reset": _flag,
        "return": _number,
        "length": whole(),
    },
)


POSITION = ("is_first", "needs_reset", "return", "length")
"""Fields of the stream's position needed to resume; the oldest versions wrote no seed."""
SCALARS = ("updates", "mean_lr")
"""Fields of each optimiser needed to resume."""


def _meter(x: Any) -> bool:
    # A run that stopped at NaN keeps its last good checkpoint, so sums are finite.
    return _list(_METER, 1000)(x) and all(len(group["sums"]) == len(group["keys"]) for group in x)


def _obs_shape(x: Any) -> bool:
    shape = _list(whole(1, MOST_VALUES), 3)(x) and len(x) in (1, 3)  # a vector or a picture
    return shape and math.prod(x) <= MOST_VALUES


def _obs_leaves(x: Any) -> bool:
    fields = {
        "name": lambda name: isinstance(name, str) and len(name) <= 1000,
        "kind": lambda kind: kind in ("image", "vector", "one-hot"),
        "shape": lambda shape: _list(whole(1, MOST_VALUES), 3)(shape) and len(shape) in (1, 3),
        "classes": _list(whole(1, MOST_VALUES), MOST_VALUES),
    }
    if not (_list(_fields(fields), 1000)(x) and x):
        return False
    names = {leaf["name"] for leaf in x}
    fits = all(
        len(leaf["shape"]) == (3 if leaf["kind"] == "image" else 1)
        and len(leaf["classes"]) == (leaf["shape"][0] if leaf["kind"] == "one-hot" else 0)
        and len(leaf["classes"]) * max(leaf["classes"], default=0) <= MOST_VALUES
        for leaf in x
    )
    unique = len(names) == len(x) and ("" not in names or len(x) == 1)
    return fits and unique and sum(math.prod(leaf["shape"]) for leaf in x) <= MOST_VALUES


ACTING: Mapping[str, Check] = {
    "step": whole(),
    "num_actions": whole(2, MOST_ACTIONS),
}
"""Fields of ``state.json`` that acting needs, besides the observations."""
OBSERVATIONS: Mapping[str, Check] = {"obs_shape": _obs_shape, "obs_leaves": _obs_leaves}
"""Fields that describe the observations, of which a checkpoint has one."""

LEARNING: Mapping[str, Check] = {
    "episodes": whole(),
    "updates": _fields({"world_model": whole(), "behaviour": whole()}),
    "stream": _STREAM,
    "replay_total": whole(),
    "threads": whole(1, 2**20),
    "numpy": _GENERATOR,
    "meter": _meter,
    "optimisers": _fields(
        {
            name: _fields({}, {"updates": whole(), "mean_lr": _float32})
            for name in ("world_model", "behaviour")
        }
    ),
}
"""Fields of ``state.json`` that resuming needs."""


def check_manifest(tree: Any, where: object) -> None:
    """Check a manifest of the present format.

    Raises:
        CheckpointError: A field is missing or invalid.
    """
    _check(tree, MANIFEST, where)


def check_state(tree: Any, where: object, *, learning: bool) -> None:
    """Check a ``state.json``.

    Args:
        tree: Its content.
        where: How messages call it.
        learning: Whether the checkpoint can be resumed.

    Raises:
        CheckpointError: A field is invalid, or one that acting needs is missing; earlier versions
            wrote fewer fields.
    """
    _check(tree, ACTING, where)
    described = {name: check for name, check in OBSERVATIONS.items() if name in tree}
    _check(tree, described or OBSERVATIONS, where)
    optional: dict[str, Check] = {
        "steps_before": whole(),
        "env": lambda x: isinstance(x, dict) and len(x) <= 100,
    }
    present = {**LEARNING, **optional} if learning else optional
    _check(tree, {name: check for name, check in present.items() if name in tree}, where)


def check_resumable(tree: Mapping[str, Any], where: object) -> None:
    """Check that a ``state.json`` has every field that resuming needs.

    Raises:
        CheckpointError: One is missing.
    """
    lacking = [name for name in LEARNING if name not in tree]
    lacking += [f"stream.{name}" for name in POSITION if name not in tree.get("stream", POSITION)]
    for kind, scalars in tree.get("optimisers", {}).items():
        lacking += [f"optimisers.{kind}.{name}" for name in SCALARS if name not in scalars]
    if lacking:
        raise CheckpointError(
            f"{where} lacks {lacking[0]!r}: another version of drama wrote it. It can be "
            "evaluated, but not continued"
        )


def _check(tree: Any, fields: Mapping[str, Check], where: object) -> None:
    if not isinstance(tree, dict):
        raise CheckpointError(f"{where} is damaged: it is no JSON object")
    for name, check in fields.items():
        if name not in tree:
            raise CheckpointError(f"{where} is damaged: it lacks {name!r}")
        if not check(tree[name]):
            raise CheckpointError(f"{where} is damaged: {name!r} is not what this version writes")
