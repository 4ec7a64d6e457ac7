"""Evaluation protocol and settings of a suite's runs in words, and departures from the paper's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from drama import presets
from drama.errors import ConfigError
from drama.evaluation import ATARI100K, completed, game_of
from drama.report.runs import game_name
from drama.report.summary import Summary, Variant
from drama.settings import canonical, shown

ATARI100K_STEPS = 100_000
STARTS = (
    "The authors' environment has the same seed at every reset and takes no no-ops, so all their "
    "games start alike; here the games of an evaluation start differently."
)
"""Note of every comparison with published scores."""


def protocol_notes(summary: Summary) -> list[str]:
    """Return sentences on the protocol of every variant and its departures from published ones."""
    notes = []
    for variant in summary.variants:
        if not variant.runs:
            continue
        p = variant.protocol
        said = (
            f"{variant.name}: {summary.mode} evaluation, {p.get('episodes')} {p['scored']} after "
            f"{steps_of(variant)} environment steps, latents {p['latents']}, "
            f"actions {p['actions']}, policy latent {p.get('policy_latent')}"
        )
        if p.get("policy_context") == "current":
            said += ", policy context current (null-action output)"
        if p.get("lookahead"):
            said += f", one-step lookahead with {p['lookahead']} samples per action"
        if p.get("frame_skip") is not None:
            said += (
                f", frame skip {p['frame_skip']}, up to {p.get('noop_max')} no-ops, sticky "
                f"actions {p.get('sticky_actions')}, "
                f"{'all 18 actions' if p.get('full_action_space') else 'minimal action set'}"
            )
        elif p.get("sticky_actions") is not None:
            said += f", sticky actions {p['sticky_actions']}"
        if p["wrappers"]:
            said += f", wrapped in {', '.join(p['wrappers'])}"
        notes.append(said + ".")
        notes += not_normalised(variant)
    return notes + differences_between(summary) + differences_from_published(summary)


def not_normalised(variant: Variant) -> list[str]:
    """Return a sentence for each game of a variant without a normalised score, with the reason."""
    reasons = {env_id: variant.not_normalised(env_id) for env_id in variant.runs}
    return [
        f"{variant.name} has no normalised score of {game_of(env_id) or env_id}: {'; '.join(why)}."
        for env_id, why in reasons.items()
        if why
    ]


def differences_between(summary: Summary) -> list[str]:
    """Return the differences in protocol of each variant from the first, in games of both."""
    ready = [variant for variant in summary.variants if variant.runs]
    notes = []
    for variant in ready[1:]:
        found: dict[str, None] = {}
        for env_id in variant.runs.keys() & ready[0].runs.keys():
            usual = _measure(ready[0], env_id)
            for key, value in _measure(variant, env_id).items():
                if canonical(value) != canonical(usual[key]):
                    name = key.replace("_", " ")
                    found[f"{name} {shown(value)} instead of {shown(usual[key])}"] = None
        if found:
            what = f"{variant.name} was evaluated under another protocol than {ready[0].name}: "
            notes.append(what + "; ".join(sorted(found)) + ".")
    return notes


def _measure(variant: Variant, env_id: str) -> dict[str, Any]:
    """Return the part of a variant's protocol in a game that its scores depend on."""
    p = completed(variant.mode, variant.runs[env_id][0].evaluation[variant.mode]["protocol"])
    return {key: p.get(key) for key in _MEASURE} | {key: p["env"].get(key) for key in ATARI100K}


_MEASURE = (
    "train_steps",
    "episodes",
    "scored",
    "wrappers",
    "latents",
    "policy_latent",
    "policy_context",
    "lookahead",
    "step_limit",
)
"""Fields of a result's protocol that its score depends on."""


def differences_from_published(summary: Summary) -> list[str]:
    """Return the departures of each variant's protocol and settings from the published ones.

    Args:
        summary: Of any suite; unless every game is of Atari100k, the result is empty.
    """
    if not summary.atari:
        return []
    notes = []
    for variant in summary.variants:
        if not variant.runs:
            continue
        found = _departures(variant)
        notes.append(
            f"{variant.name} differs from the protocol of the paper's scores: "
            + "; ".join(found)
            + "."
            if found
            else f"{variant.name} was measured under the protocol of the published scores as far "
            "as it is recorded; their number of evaluation episodes varies."
        )
    return [*notes, *([STARTS] if notes else [])]


def steps_of(variant: Variant) -> str:
    """Return the environment steps of a variant, with the games of each number if they differ."""
    groups = _by_steps(variant)
    if len(groups) == 1:
        return _thousands(next(iter(groups)))
    return ", ".join(f"{_thousands(steps)} ({_games(found)})" for steps, found in groups.items())


def cut_short(variant: Variant) -> dict[int, str]:
    """Return in which Atari games a variant stopped before the benchmark's 100 000 steps.

    Returns:
        `` in GAMES`` by number of steps; an empty text if these are all games of the variant.
    """
    return {
        steps: _where(atari, variant)
        for steps, found in _by_steps(variant).items()
        if steps is not None and steps < ATARI100K_STEPS
        if (atari := [env_id for env_id in found if game_of(env_id)])
    }


def _by_steps(variant: Variant) -> dict[int | None, list[str]]:
    """Return the games of a variant by their number of steps."""
    groups: dict[int | None, list[str]] = {}
    for env_id, steps in variant.steps.items():
        groups.setdefault(steps, []).append(env_id)
    return groups


def _where(env_ids: Collection[str], variant: Variant) -> str:
    """Return `` in GAMES``, or nothing for all games of a variant."""
    return "" if len(env_ids) == len(variant.runs) else f" in {_games(env_ids)}"


def _games(env_ids: Iterable[str]) -> str:
    return ", ".join(map(game_name, env_ids))


def _departures(variant: Variant) -> list[str]:
    found = []
    p = variant.protocol
    for steps, env_ids in _by_steps(variant).items():
        if steps != ATARI100K_STEPS:
            where = _where(env_ids, variant)
            found.append(f"{_thousands(steps)} environment steps instead of 100,000{where}")
    for key, usual in ATARI100K.items():
        values = {
            canonical(run.evaluation[variant.mode]["protocol"]["env"].get(key))
            for runs in variant.runs.values()
            for run in runs
        }
        for value in sorted(values - {canonical(usual)}):
            found.append(f"{key.replace('_', ' ')} {value} instead of {canonical(usual)}")
    if p["latents"] != "sampled":
        found.append(f"latents {p['latents']} instead of sampled")
    if p["actions"] != "argmax":
        found.append(f"actions {p['actions']} instead of argmax")
    # The runs of a variant differ in game, seed and steps only.
    config = next(iter(variant.runs.values()))[0].config
    name = str(config.get("preset"))
    changed = _changed_settings(config, name)
    if name != "xs":
        label = f"{name}*" if changed else name
        found.append(f"preset {label} instead of the paper's configuration (xs)")
    found += changed
    used, own = p["lookahead"], config.get("behaviour", {}).get("lookahead", 0)
    if used != own:
        found.append(f"evaluated with lookahead {used} instead of the run's {own}")
    return found


def _changed_settings(config: Mapping[str, Any], name: str) -> list[str]:
    """Return the settings that a variant changed from its preset."""
    try:
        return list(presets.changed_settings(config, name))
    except ConfigError:
        return ["its preset is not one of this package"]


def _thousands(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"
