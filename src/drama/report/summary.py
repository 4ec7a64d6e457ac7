"""Which runs may be averaged together, and what comes out if they are.

Runs are averaged only where they were measured under the same protocol. Where the runs of a
variant disagree, most of them decide and the others are named and left out. Aggregates over games
compare methods on the same games only: there is one :class:`Block` for each set of games that some
variant has finished.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drama.evaluation import completed, departures, game_of, scores
from drama.evaluation.aggregate import (
    Aggregate,
    Improvement,
    aggregate,
    has_single_runs,
    probability_of_improvement,
    published_runs,
)
from drama.report.protocol import canonical, setting_differences, shown
from drama.report.runs import Run, by_variant, game_name, reference_of

Mode = Literal["greedy", "sampled"]
PAPER = "Drama paper, Table 1"
"""Source of the published columns of the first table."""
OURS = "Drama-XS"
"""Published method that this package reproduces."""
_TRAINED = (
    "train_steps",
    "episodes",
    "latents",
    "actions",
    "policy_latent",
    "policy_context",
    "lookahead",
    "scored",
    "wrappers",
)
"""Fields of a result's protocol that all runs of a variant must agree in."""
_FAMILY = ("frame_skip", "noop_max", "sticky_actions", "full_action_space", "life_loss")
"""Fields of the environment's that all its games of one family must agree in."""
_LIMIT = ("step_limit",)
"""Field of a result's protocol that follows the limit of a game: its runs must agree in it."""
_OWN = ("id", "env_kwargs", "image_size", "observation_shape", "max_episode_steps", "num_actions")
"""Fields of the environment's that belong to a game: its runs must agree in them."""


@dataclass(frozen=True)
class LeftOut:
    """A run that is in no average although it has finished, and why."""

    run: Run
    reason: str


@dataclass(frozen=True)
class Variant:
    """Finished runs of one variant that were measured alike."""

    name: str
    runs: Mapping[str, tuple[Run, ...]]
    """By environment id, in the order of the suite; only where there is at least one."""
    protocol: Mapping[str, Any]
    """What all of them were measured under; empty without runs."""
    left_out: tuple[LeftOut, ...]
    mode: Mode

    @property
    def steps(self) -> int | None:
        """Environment steps that the evaluated agents had made; None without runs."""
        steps = self.protocol.get("train_steps")
        return int(steps) if steps is not None else None

    def scores(self, env_id: str) -> list[float]:
        """Mean evaluation return of each run of a game, by seed; raw, not normalised."""
        return [float(run.evaluation[self.mode]["mean"]) for run in self.runs.get(env_id, ())]

    def normalised(self, env_ids: Iterable[str]) -> dict[str, list[float]]:
        """Normalised scores by game, where they were measured as the reference was."""
        found: dict[str, list[float]] = {}
        for env_id in env_ids:
            reference = reference_of(env_id)
            if reference is not None and self.has_normalised(env_id):
                found[env_id] = [reference.normalise(score) for score in self.scores(env_id)]
        return found

    def has_normalised(self, env_id: str) -> bool:
        """Whether there are normalised scores of a game."""
        return env_id in self.runs and not self.not_normalised(env_id)

    def not_normalised(self, env_id: str) -> tuple[str, ...]:
        """Say why the scores of a game are not normalised although there is a reference."""
        if reference_of(env_id) is None:
            return ()
        protocols = [run.evaluation[self.mode]["protocol"] for run in self.runs.get(env_id, ())]
        found = dict.fromkeys(why for p in protocols for why in departures(self.mode, p))
        return tuple(found)


@dataclass(frozen=True)
class Row:
    """Aggregates of one method in a block."""

    method: str
    """How it is called here: see :func:`published_label`."""
    numbers: Aggregate
    kind: Literal["variant", "runs", "means"]
    """A variant of the suite, a published method whose single runs are known, or one of which
    only means are."""


@dataclass(frozen=True)
class Block:
    """Methods compared over the same games."""

    env_ids: tuple[str, ...]
    reference: str
    """``human`` or ``optimum``."""
    rows: tuple[Row, ...]

    def variant(self, name: str) -> Row | None:
        """Return the row of a variant, if it has finished all these games."""
        return next((r for r in self.rows if r.kind == "variant" and r.method == name), None)

    def published(self, label: str) -> Row | None:
        """Return the row of a published method."""
        return next((r for r in self.rows if r.kind != "variant" and r.method == label), None)


@dataclass(frozen=True)
class Pair:
    """Whether one method beats another, over the games that both have."""

    method: str
    other: str
    improvement: Improvement


@dataclass(frozen=True)
class Summary:
    """All that a report says, before it is said."""

    directory: Path
    name: str
    runs: tuple[Run, ...]
    env_ids: tuple[str, ...]
    """Games of the suite, in its order."""
    mode: Mode
    variants: tuple[Variant, ...]
    """In the order of the suite; the first is what the others are compared with."""
    published: Mapping[str, str]
    """Published methods shown beside the variants, each with its label; none unless every game is
    of Atari100k."""
    blocks: tuple[Block, ...]
    pairs: tuple[Pair, ...]
    differences: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """For each variant but the first, the settings in which it departs from the first."""

    @property
    def atari(self) -> bool:
        """Whether every game is one of Atari100k."""
        return bool(self.env_ids) and all(game_of(env_id) for env_id in self.env_ids)

    @property
    def finished(self) -> int:
        """Number of finished runs, evaluated or not."""
        return sum(run.status == "finished" for run in self.runs)


def summarise(
    directory: Path, name: str, runs: Sequence[Run], *, mode: Mode = "greedy", seed: int = 0
) -> Summary:
    """Decide what may be averaged, and average it.

    Args:
        directory: Of the suite.
        name: Of the suite.
        runs: Every cell, the missing ones included.
        mode: Which evaluation counts.
        seed: Of the bootstrap.
    """
    env_ids = tuple(dict.fromkeys(run.env_id for run in runs))
    groups = by_variant(runs)
    variants = tuple(_variant(name, group, env_ids, mode) for name, group in groups.items())
    atari = bool(env_ids) and all(game_of(env_id) for env_id in env_ids)
    names = [variant.name for variant in variants]
    published = {m: published_label(m, names) for m in _paper_methods()} if atari else {}
    return Summary(
        directory=directory,
        name=name,
        runs=tuple(runs),
        env_ids=env_ids,
        mode=mode,
        variants=variants,
        published=published,
        blocks=_blocks(variants, env_ids, atari, seed),
        pairs=_pairs(variants, env_ids, atari, seed),
        differences=_differences(groups),
    )


def published_label(method: str, variants: Iterable[str]) -> str:
    """Return how a published method is called beside the variants of a suite.

    Args:
        method: Its name in the table of published scores.
        variants: Names of the variants: ``PPO`` may be one of them too.
    """
    taken = {_letters(name) for name in variants}
    return f"{method} (published)" if _letters(method) in taken else method


def _variant(name: str, runs: Sequence[Run], env_ids: Sequence[str], mode: Mode) -> Variant:
    left_out: list[LeftOut] = []
    candidates = []
    for run in runs:
        if run.status != "finished":
            continue
        if mode in run.evaluation:
            candidates.append(run)
        else:
            command = f"drama eval {shlex.quote(str(run.path))}"
            left_out.append(LeftOut(run, f"no {mode} evaluation: {command}"))
    agreed, odd = _majority(candidates, lambda run: _stamp(run, mode, _TRAINED))
    left_out += odd
    families = dict.fromkeys(_family(env_id) for env_id in env_ids)
    alike: list[Run] = []
    for family in families:
        mine = [run for run in agreed if _family(run.env_id) == family]
        same, odd = _majority(mine, lambda run: _stamp(run, mode, _TRAINED, _FAMILY))
        alike += same
        left_out += odd
    kept: dict[str, tuple[Run, ...]] = {}
    for env_id in env_ids:
        mine = [run for run in alike if run.env_id == env_id]
        same, odd = _majority(mine, lambda run: _stamp(run, mode, _TRAINED + _LIMIT, _OWN))
        left_out += odd
        if same:
            kept[env_id] = tuple(sorted(same, key=lambda run: run.seed))
    first = next(iter(kept.values()), ())
    protocol = _stamp(first[0], mode, _TRAINED, _FAMILY) if first else {}
    return Variant(name, kept, protocol, tuple(left_out), mode)


def _majority(runs: Sequence[Run], protocol: Any) -> tuple[list[Run], list[LeftOut]]:
    """Split runs into those under the most common protocol and the others.

    Between equally common ones the longer training decides, then the order.
    """
    if not runs:
        return [], []
    stamps = [protocol(run) for run in runs]
    keys = [canonical(stamp) for stamp in stamps]
    counts = Counter(keys)
    best = max(
        range(len(runs)),
        key=lambda i: (counts[keys[i]], stamps[i].get("train_steps") or 0, -i),
    )
    kept = [run for run, key in zip(runs, keys, strict=True) if key == keys[best]]
    odd = [
        LeftOut(run, "measured under another protocol: " + _contrast(stamp, stamps[best]))
        for run, key, stamp in zip(runs, keys, stamps, strict=True)
        if key != keys[best]
    ]
    return kept, odd


def _stamp(run: Run, mode: Mode, trained: Iterable[str], env: Iterable[str] = ()) -> dict[str, Any]:
    """Some fields of a result's protocol and of its environment's."""
    protocol = completed(mode, run.evaluation[mode]["protocol"])
    return {key: protocol.get(key) for key in trained} | {
        key: protocol["env"].get(key) for key in env
    }


def _family(env_id: str) -> str:
    """Environments that a protocol is meant for: the namespace, as ``ALE``."""
    return env_id.rpartition("/")[0]


def _contrast(stamp: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {shown(stamp[key])} (the others {shown(usual[key])})"
        for key in stamp
        if canonical(stamp[key]) != canonical(usual[key])
    )


def _paper_methods() -> tuple[str, ...]:
    found = dict.fromkeys(row.method for row in scores.published() if row.source == PAPER)
    return tuple(method for method in found if method not in ("Random", "Human"))


def _blocks(
    variants: Sequence[Variant], env_ids: Sequence[str], atari: bool, seed: int
) -> tuple[Block, ...]:
    references = {env_id: reference_of(env_id) for env_id in env_ids}
    blocks: list[Block] = []
    for kind in ("human", "optimum"):
        comparable = [e for e in env_ids if (r := references[e]) is not None and r.name == kind]
        # One block for each set of games that a variant has finished, each only once.
        sets = dict.fromkeys(
            tuple(env_id for env_id in comparable if variant.has_normalised(env_id))
            for variant in variants
        )
        for games in sets:
            if games:
                blocks.append(_block(games, kind, variants, atari, seed))
    return tuple(blocks)


def _block(
    games: tuple[str, ...], kind: str, variants: Sequence[Variant], atari: bool, seed: int
) -> Block:
    rows = [
        Row(variant.name, aggregate(variant.normalised(games), seed=seed), "variant")
        for variant in variants
        if all(variant.has_normalised(env_id) for env_id in games)
    ]
    if atari:
        for method in scores.methods():
            if method in ("Random", "Human"):
                continue
            runs = _published(method, games)
            single = has_single_runs(method)
            label = published_label(method, (variant.name for variant in variants))
            rows.append(Row(label, aggregate(runs, seed=seed), "runs" if single else "means"))
    return Block(games, kind, tuple(rows))


def _published(method: str, env_ids: Iterable[str]) -> dict[str, list[float]]:
    runs = published_runs(method)
    return {env_id: runs[game_name(env_id)] for env_id in env_ids}


def _pairs(
    variants: Sequence[Variant], env_ids: Sequence[str], atari: bool, seed: int
) -> tuple[Pair, ...]:
    """The first variant that has runs against each other one, and against published runs."""
    ready = [variant for variant in variants if variant.runs]
    if not ready:
        return ()
    first = ready[0]
    mine = {env_id: first.scores(env_id) for env_id in first.runs}
    pairs = []
    for other in ready[1:]:
        theirs = {env_id: other.scores(env_id) for env_id in other.runs}
        if mine.keys() & theirs.keys():
            found = probability_of_improvement(mine, theirs, seed=seed)
            pairs.append(Pair(first.name, other.name, found))
    if atari:
        normalised = first.normalised(env_ids)
        for method in scores.methods():
            if normalised and has_single_runs(method):
                found = probability_of_improvement(
                    normalised, _published(method, normalised), seed=seed
                )
                label = published_label(method, (variant.name for variant in variants))
                pairs.append(Pair(first.name, label, found))
    return tuple(pairs)


def _differences(groups: Mapping[str, Sequence[Run]]) -> dict[str, tuple[str, ...]]:
    configs = {
        name: next((run.config for run in runs if run.config), None)
        for name, runs in groups.items()
    }
    names = list(configs)
    base = configs[names[0]] if names else None
    if base is None:
        return {}
    return {
        name: setting_differences(config, base)
        for name in names[1:]
        if (config := configs[name]) is not None
    }


def _letters(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


__all__ = [
    "Block",
    "LeftOut",
    "Mode",
    "Pair",
    "Row",
    "Summary",
    "Variant",
    "published_label",
    "summarise",
]
