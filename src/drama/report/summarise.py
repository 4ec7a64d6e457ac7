"""From the runs of a suite to its :class:`~drama.report.summary.Summary`.

Runs are averaged only if they were measured under the same protocol. Where the runs of a variant
differ, the most common protocol is kept; the other runs are named and excluded. Aggregates compare
methods on the same games: there is one block for each set of games that some variant finished.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drama.envs.families import family_settings
from drama.evaluation import (
    aggregate,
    completed,
    game_of,
    has_single_runs,
    probability_of_improvement,
    published_runs,
    scores,
)
from drama.report.runs import Run, by_variant, game_name, reference_of
from drama.report.summary import (
    Block,
    LeftOut,
    Mode,
    Pair,
    Row,
    Summary,
    Variant,
    train_steps,
)
from drama.settings import canonical, setting_differences, shown

PAPER = "Drama paper, Table 1"
"""Source of the published columns of the score table."""
_TRAINED = (
    "episodes",
    "latents",
    "actions",
    "policy_latent",
    "policy_context",
    "lookahead",
    "scored",
    "wrappers",
)
"""Protocol fields that must be equal in all runs of a variant."""
_FAMILY = tuple(family_settings())
"""Environment fields that must be equal in all games of one family."""
_GAME = ("train_steps", "step_limit")
"""Protocol fields that must be equal in all runs of a game."""
_OWN = ("id", "env_kwargs", "image_size", "observation_shape", "max_episode_steps", "num_actions")
"""Environment fields that must be equal in all runs of a game."""


def summarise(
    directory: Path, name: str, runs: Sequence[Run], *, mode: Mode = "greedy", seed: int = 0
) -> Summary:
    """Select comparable runs and aggregate them.

    Args:
        directory: Directory of the suite.
        name: Name of the suite.
        runs: All runs of the suite, including missing ones.
        mode: Evaluation to report.
        seed: Seed of the bootstrap.
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
    """Return the display name of a published method, distinct from the variants' names.

    Args:
        method: Name in the table of published scores.
        variants: Names of the suite's variants, such as ``PPO``.
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
    agreed, odd = _majority(candidates, mode, _TRAINED)
    left_out += odd
    families = dict.fromkeys(_family(env_id) for env_id in env_ids)
    alike: list[Run] = []
    for family in families:
        mine = [run for run in agreed if _family(run.env_id) == family]
        same, odd = _majority(mine, mode, _TRAINED, _FAMILY)
        alike += same
        left_out += odd
    kept: dict[str, tuple[Run, ...]] = {}
    for env_id in env_ids:
        mine = [run for run in alike if run.env_id == env_id]
        same, odd = _majority(mine, mode, _GAME + _TRAINED, _OWN)
        left_out += odd
        if same:
            kept[env_id] = tuple(sorted(same, key=lambda run: run.seed))
    first = next(iter(kept.values()), ())
    protocol = _stamp(first[0], mode, _TRAINED, _FAMILY) if first else {}
    return Variant(name, kept, protocol, tuple(left_out), mode)


def _majority(
    runs: Sequence[Run], mode: Mode, trained: Iterable[str], env: Iterable[str] = ()
) -> tuple[list[Run], list[LeftOut]]:
    """Split runs into those under the most common values of some fields and the others.

    Ties go to the longer training, then to the first run.
    """
    if not runs:
        return [], []
    stamps = [_stamp(run, mode, trained, env) for run in runs]
    keys = [canonical(stamp) for stamp in stamps]
    counts = Counter(keys)
    best = max(
        range(len(runs)),
        key=lambda i: (counts[keys[i]], train_steps(runs[i], mode) or 0, -i),
    )
    kept = [run for run, key in zip(runs, keys, strict=True) if key == keys[best]]
    odd = [
        LeftOut(run, "evaluated under another protocol: " + _contrast(stamp, stamps[best]))
        for run, key, stamp in zip(runs, keys, stamps, strict=True)
        if key != keys[best]
    ]
    return kept, odd


def _stamp(run: Run, mode: Mode, trained: Iterable[str], env: Iterable[str] = ()) -> dict[str, Any]:
    """Return some fields of a result's protocol and of its environment."""
    protocol = completed(mode, run.evaluation[mode]["protocol"])
    return {key: protocol.get(key) for key in trained} | {
        key: protocol["env"].get(key) for key in env
    }


def _family(env_id: str) -> str:
    """Return the namespace of an environment id, such as ``ALE``."""
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
        # One block per distinct set of games that some variant finished.
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
    """Compare the first variant with runs to each other variant and to published runs."""
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
