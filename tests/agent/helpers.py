"""The environment of the tests, as an id and as a factory; states without logs."""

from __future__ import annotations

from typing import Any

from tests.training.faulty_envs import Walk, env_id

WALK = env_id(Walk)


def walk() -> Walk:
    return Walk()


def without_logs(*ends: dict[str, Any]) -> list[dict[str, Any]]:
    return [{k: v for k, v in end.items() if k not in ("metrics", "episodes")} for end in ends]
