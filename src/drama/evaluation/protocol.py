"""The protocol of an evaluation, and its comparison with that of the reference scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from drama.evaluation.scores import game_of
from drama.renamed import update_protocol

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
"""Environment settings of the published scores, in the form of a result's protocol. The authors'
environment takes no no-ops, see :data:`drama.report.protocol.STARTS`."""
NOT_SCORE = ("life_loss", "image_size")
"""Settings that do not change the meaning of a score: ``scored`` records whether lost lives ended
episodes, and the image size only affects the agent."""
STEP_LIMIT = 27_000
"""Agent steps after which an episode is truncated, unless the environment's limit is larger."""


def completed(mode: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the protocol of a result, with defaults for fields that old results lack.

    Args:
        mode: ``greedy`` or ``sampled``.
        protocol: ``protocol`` of a result in an ``eval.json`` of any version.
    """
    greedy = mode == "greedy"
    env = protocol["env"]
    return {
        "policy_context": "previous",
        "lookahead": 0,
        "latents": "mode" if greedy else "sampled",
        "actions": "argmax" if greedy else "sampled",
        "scored": "lives" if env.get("life_loss") else "episodes",
        "wrappers": [],
        "step_limit": step_limit(env),
        "truncated_by_limit": 0,
        **update_protocol(protocol),
    }


def step_limit(env: Mapping[str, Any]) -> int:
    """Return the default step limit of an evaluation's episodes.

    Args:
        env: Description by :func:`drama.envs.describe`.
    """
    return max(STEP_LIMIT, env.get("max_episode_steps") or 0)


def departures(mode: str, protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Return why a score must not be normalised by the reference scores of its game.

    Human-normalised scores are defined for whole games under the settings of :data:`ATARI100K`
    except :data:`NOT_SCORE`; normalised scores of built-in games for the registered game.

    Args:
        mode: ``greedy`` or ``sampled``.
        protocol: ``protocol`` of a result.

    Returns:
        One text per reason; empty if the score may be normalised.
    """
    p = completed(mode, protocol)
    env = p["env"]
    found = []
    wanted: dict[str, Any]
    if p["scored"] == "lives":
        found.append("lost lives were scored: no monitor in the environment reports whole games")
    if p["wrappers"]:
        found.append(f"the environment is wrapped in {', '.join(p['wrappers'])}")
    if game_of(str(env["id"])) is not None:
        if env.get("frame_skip") is None:
            return (*found, "its protocol is unknown: the environment was not made by id")
        wanted = {key: value for key, value in ATARI100K.items() if key not in NOT_SCORE}
    else:
        spec = gym.registry.get(str(env["id"]))
        wanted = {"max_episode_steps": None, "env_kwargs": {}}
        if spec is not None:
            wanted["max_episode_steps"] = spec.max_episode_steps
            # make_env records arguments given in addition to the registered ones.
            wanted["env_kwargs"] = dict(spec.kwargs) if env.get("env_kwargs") else {}
        wanted = {key: value for key, value in wanted.items() if key in env}
    for key, usual in wanted.items():
        if _text(env.get(key)) != _text(usual):
            name = key.replace("_", " ")
            found.append(f"{name} {_text(env.get(key))} instead of {_text(usual)}")
    if p["truncated_by_limit"]:
        found.append(f"episodes were truncated after {p['step_limit']:,} steps")
    return tuple(found)


def _text(value: object) -> str:
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if key != "render_mode"}
    return json.dumps(value, sort_keys=True, default=str)
