"""Nearest names: what is near is suggested, nonsense is not answered with nonsense."""

from __future__ import annotations

import pytest

from drama.errors import ConfigError
from drama.evaluation import published
from drama.hints import did_you_mean, nearest

NAMES = ("training.warmup_steps", "world_model.optim.lr", "behaviour.optim.lr", "seed")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("training.warmup_step", "training.warmup_steps"),
        ("Training.Warmup_Steps", "training.warmup_steps"),
        ("warmup_steps", "training.warmup_steps"),
        ("lr", "world_model.optim.lr"),
        ("sed", "seed"),
        ("zzz", None),
        ("", None),
    ],
)
def test_the_nearest_name_if_any(name: str, near: str | None) -> None:
    assert nearest(name, NAMES) == near
    assert did_you_mean(name, NAMES) == ("" if near is None else f"; did you mean {near}?")


def test_an_unknown_game_far_from_all_is_answered_with_all() -> None:
    with pytest.raises(ConfigError, match="'Pongg'; the nearest known one is 'Pong'"):
        published(game="Pongg")
    with pytest.raises(ConfigError, match="unknown method 'zzz'; known are Random, Human, "):
        published(method="zzz")
