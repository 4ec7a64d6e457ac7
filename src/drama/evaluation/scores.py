"""Published Atari100k scores, and the human-normalised score built on them.

The numbers ship with the package in ``data/atari100k_published.csv``, one row per method, game
and seed, each with where it was read. Random and human references are those printed in the Drama
paper's Table 1, so they are rounded to whole points (random Pong -21, not -20.7): aggregates
differ a little from those of papers that normalise with one decimal more.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from drama.errors import ConfigError
from drama.text import brief, nearest

_RANDOM = "Random"
_HUMAN = "Human"

# ``ALE/Pong-v5``, ``PongNoFrameskip-v4``, ``Pong-ramDeterministic-v4``: everything but the name.
_ENV_ID = re.compile(
    r"^(?:(?:ale_py:)?ALE/)?(?P<name>[^/]+?)(?:-ram)?(?:NoFrameskip|Deterministic)?(?:-v\d+)?$",
    re.IGNORECASE,
)


class PublishedScore(NamedTuple):
    """One published number: the raw (not normalised) game score of one method on one game."""

    method: str
    """Name of the method, e.g. ``"Drama-XS"``; ``"Random"`` and ``"Human"`` are among them."""
    game: str
    """Game as this table spells it, e.g. ``"BankHeist"``."""
    seed: int | None
    """Index of the training run; None for a mean over runs. The rows of EfficientZero all carry
    0 but are means too: its authors released no single runs."""
    score: float
    """Mean return per episode, in game points."""
    source: str
    """Where the number was read."""


@lru_cache(maxsize=1)
def _table() -> tuple[PublishedScore, ...]:
    file = resources.files("drama.evaluation").joinpath("data").joinpath("atari100k_published.csv")
    return tuple(
        PublishedScore(
            method=row["method"],
            game=row["game"],
            seed=None if row["seed"] == "mean" else int(row["seed"]),
            score=float(row["score"]),
            source=row["source"],
        )
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    )


def _key(name: str) -> str:
    """Return letters and digits only, so that ``Q*bert`` and ``Kung Fu Master`` match."""
    return "".join(character for character in name.casefold() if character.isalnum())


@lru_cache(maxsize=1)
def _games_by_key() -> dict[str, str]:
    return {_key(row.game): row.game for row in _table()}


@lru_cache(maxsize=1)
def _methods_by_key() -> dict[str, str]:
    return {_key(row.method): row.method for row in _table()}


@lru_cache(maxsize=2)
def _reference(method: str) -> dict[str, float]:
    return {row.game: row.score for row in _table() if row.method == method}


def _unknown(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    by_key = {_key(candidate): candidate for candidate in known}
    near = nearest(_key(name), by_key)
    if near is None:
        hint = f"choose from {', '.join(by_key.values())}"
    else:
        hint = f"did you mean {by_key[near]}?"
    return ConfigError(f"unknown {kind} {brief(name)}; {hint}")


def _game(game: str) -> str:
    found = game_of(game)
    if found is None:
        raise _unknown("Atari100k game", game, games())
    return found


def _method(method: str) -> str:
    found = _methods_by_key().get(_key(method))
    if found is None:
        raise _unknown("method", method, methods())
    return found


def games() -> tuple[str, ...]:
    """Return the 26 games of the Atari100k benchmark, in alphabetical order."""
    return tuple(sorted(_games_by_key().values()))


def methods() -> tuple[str, ...]:
    """Return all methods with published scores, references first."""
    return tuple(_methods_by_key().values())


def game_of(env_id: str) -> str | None:
    """Return the Atari100k game of an environment id or title.

    Args:
        env_id: A Gymnasium id (``"ALE/BankHeist-v5"``, ``"PongNoFrameskip-v4"``), a ROM name
            (``"bank_heist"``) or a title (``"Private Eye"``, ``"Q*bert"``); case, spaces and
            punctuation do not matter.

    Returns:
        The game as spelled by `games`, or None for other games and for namespaces other than
        ``ALE``.
    """
    match = _ENV_ID.match(env_id.strip())
    return None if match is None else _games_by_key().get(_key(match["name"]))


def random_score(game: str) -> float:
    """Return the score of the uniformly random policy, in game points.

    Args:
        game: A game in any spelling accepted by `game_of`.

    Raises:
        ConfigError: It is not one of the 26 games.
    """
    return _reference(_RANDOM)[_game(game)]


def human_score(game: str) -> float:
    """Return the score of the human reference player, in game points.

    Args:
        game: A game in any spelling accepted by `game_of`.

    Raises:
        ConfigError: It is not one of the 26 games.
    """
    return _reference(_HUMAN)[_game(game)]


def normalised_score(game: str, score: float) -> float:
    """Return the human-normalised score ``(score - random) / (human - random)``.

    Args:
        game: A game in any spelling accepted by `game_of`.
        score: Mean return per episode, in game points.

    Returns:
        0 for the random policy, 1 for the human reference; unbounded.

    Raises:
        ConfigError: It is not one of the 26 games.
    """
    name = _game(game)
    floor = _reference(_RANDOM)[name]
    return (score - floor) / (_reference(_HUMAN)[name] - floor)


def published(method: str | None = None, game: str | None = None) -> list[PublishedScore]:
    """Return the published scores, all of them or those of one method, one game, or both.

    Args:
        method: A name in `methods`, in any case; None for all methods.
        game: A game in any spelling accepted by `game_of`; None for all games.

    Returns:
        One row per method, game and seed, in the order of the table.

    Raises:
        ConfigError: Method or game is unknown; the message suggests the nearest name.
    """
    only_method = None if method is None else _method(method)
    only_game = None if game is None else _game(game)
    return [
        row
        for row in _table()
        if (only_method is None or row.method == only_method)
        and (only_game is None or row.game == only_game)
    ]


def published_runs(method: str) -> dict[str, list[float]]:
    """Return the normalised published scores of a method, by game.

    Args:
        method: A name in `methods`.

    Returns:
        One score per released run, or one mean per game if the authors released only means
        (see :func:`has_single_runs`).

    Raises:
        ConfigError: The method is unknown.
    """
    found: dict[str, list[float]] = {}
    for row in published(method):
        found.setdefault(row.game, []).append(normalised_score(row.game, row.score))
    return found


def has_single_runs(method: str) -> bool:
    """Whether a published method has scores of single runs.

    With means only, the IQM is computed from means, which vary less than runs, and there are no
    intervals.

    Args:
        method: A name in `methods`.

    Raises:
        ConfigError: The method is unknown.
    """
    return any(len(values) > 1 for values in published_runs(method).values())
