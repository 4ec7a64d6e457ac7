"""How runs were measured and set, in words, and where that differs from published scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drama import presets
from drama.errors import ConfigError
from drama.evaluation import game_of
from drama.settings import setting_differences as setting_differences
from drama.settings import shown as shown

if TYPE_CHECKING:
    from drama.report.summary import Summary, Variant

ATARI100K = {
    "frame_skip": 4,
    "noop_max": 30,
    "sticky_actions": 0.0,
    "full_action_space": False,
    "life_loss": False,
    "image_size": [64, 64],
    "max_episode_steps": 27_000,
    "env_kwargs": {},
}
"""What the published scores of the first table were measured under, as `drama` stamps it."""
ATARI100K_STEPS = 100_000


def protocol_notes(summary: Summary) -> list[str]:
    """Say plainly how the runs were measured, and where that differs from published scores."""
    notes = []
    for variant in summary.variants:
        if not variant.runs:
            continue
        p = variant.protocol
        said = (
            f"{variant.name}: {summary.mode} evaluation, {p.get('episodes')} episodes after "
            f"{_thousands(p.get('train_steps'))} environment steps, policy latent "
            f"{p.get('policy_latent')}"
        )
        if p.get("policy_memory") == "current":
            said += ", which sees what the latent calls to mind"
        if p.get("lookahead"):
            said += f", improved by {p['lookahead']} futures of each action"
        if p.get("frame_skip") is not None:
            said += (
                f", frame skip {p['frame_skip']}, up to {p.get('noop_max')} no-ops, sticky "
                f"actions {p.get('sticky_actions')}, "
                f"{'all 18 actions' if p.get('full_action_space') else 'minimal action set'}"
            )
        elif p.get("sticky_actions") is not None:
            said += f", sticky actions {p['sticky_actions']}"
        notes.append(said + ".")
    return notes + differences_from_published(summary)


def differences_from_published(summary: Summary) -> list[str]:
    """Say where each variant's protocol or settings are not those of the published scores.

    Args:
        summary: Of any suite; unless every game is of Atari100k, there is nothing to say.
    """
    if not summary.atari:
        return []
    notes = []
    for variant in summary.variants:
        if not variant.runs:
            continue
        found = _departures(variant)
        notes.append(
            f"{variant.name} differs from what the paper's scores were measured with: "
            + "; ".join(found)
            + "."
            if found
            else f"{variant.name} was measured under the protocol of the published scores as far "
            "as it is stamped; how many evaluation episodes those took differs between them."
        )
    return notes


def cut_short(variant: Variant) -> bool:
    """Whether a variant on Atari stopped before the benchmark's 100 000 steps."""
    atari = any(game_of(env_id) for env_id in variant.runs)
    return atari and variant.steps is not None and variant.steps < ATARI100K_STEPS


def _departures(variant: Variant) -> list[str]:
    found = []
    steps = variant.steps
    if steps != ATARI100K_STEPS:
        found.append(f"{_thousands(steps)} environment steps instead of 100,000")
    for key, usual in ATARI100K.items():
        values = {
            canonical(run.evaluation[variant.mode]["protocol"]["env"].get(key))
            for runs in variant.runs.values()
            for run in runs
        }
        for value in sorted(values - {canonical(usual)}):
            found.append(f"{key.replace('_', ' ')} {value} instead of {canonical(usual)}")
    # Its runs differ in game and seed alone.
    config = next(iter(variant.runs.values()))[0].config
    name = str(config.get("preset"))
    changed = _changed_settings(config, name)
    if name != "xs":
        label = f"{name}*" if changed else name
        found.append(f"preset {label} instead of the paper's configuration (xs)")
    found += changed
    asked, own = (p.get("lookahead", 0) for p in (variant.protocol, config.get("behaviour", {})))
    if asked != own:
        found.append(f"evaluated with lookahead {asked} instead of the run's {own}")
    return found


def _changed_settings(config: Mapping[str, Any], name: str) -> list[str]:
    """Settings that were changed from the preset, most of which are the point of a variant."""
    try:
        return list(presets.changed_settings(config, name))
    except ConfigError:
        return ["its preset is not one of this package"]


def canonical(value: object) -> str:
    """The same text for values that are equal."""
    return json.dumps(value, sort_keys=True, default=str)


def _thousands(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "an unknown number of"
