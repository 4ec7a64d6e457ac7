"""Text in messages: nearest names, one-line texts, counts, sizes and durations."""

from __future__ import annotations

import pytest

from drama.errors import ConfigError
from drama.evaluation import published
from drama.text import (
    brief,
    clock,
    did_you_mean,
    duration,
    first_line,
    nearest,
    one_line,
    plural,
    size,
)

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
def test_nearest_name_if_any(name: str, near: str | None) -> None:
    assert nearest(name, NAMES) == near
    assert did_you_mean(name, NAMES) == ("" if near is None else f"; did you mean {near}?")


def test_unknown_game_without_a_near_one_lists_all() -> None:
    with pytest.raises(ConfigError, match="'Pongg'; did you mean Pong"):
        published(game="Pongg")
    with pytest.raises(ConfigError, match="unknown method 'zzz'; choose from Random, Human, "):
        published(method="zzz")


def test_similarity_has_a_cutoff() -> None:
    assert nearest("sed", NAMES, cutoff=0.9) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3599.6, "1:00:00"),
        (7384, "2:03:04"),
    ],
)
def test_clock_format(seconds: float, text: str) -> None:
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.00123, "1.23 ms"),
        (0.9996, "1 s"),
        (12.345, "12.3 s"),
        (90, "1.5 min"),
        (3600, "1 h"),
        (3600 * 47.9, "47.9 h"),
        (3600 * 48, "2.0 days"),
        (86400 * 1234.5, "1,234.5 days"),
    ],
)
def test_duration_format(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 kB"),
        (5_400, "5 kB"),
        (999_600, "1 MB"),
        (345.4e6, "345 MB"),
        (999.6e6, "1.0 GB"),
        (1234.5e9, "1,234.5 GB"),
    ],
)
def test_size_format(count: float, text: str) -> None:
    assert size(count) == text


def test_counts_agree_with_their_noun() -> None:
    texts = [plural(count, "run") for count in (0, 1, 2, 1234)]
    assert texts == ["0 runs", "1 run", "2 runs", "1,234 runs"]


def test_texts_are_cut_and_joined_to_one_line() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"
    assert brief("x" * 200, 10) == "'xxxxxx..."
