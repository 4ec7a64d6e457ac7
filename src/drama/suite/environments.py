"""Environments of a suite's unfinished runs, and whether they can be made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from drama.config import EnvConfig
from drama.envs.source import env_source
from drama.errors import EnvError
from drama.suite.layout import Cell


def environments(cells: Sequence[Cell]) -> list[EnvConfig]:
    """Return the environments of the runs that are to be made."""
    return [cell.config.env for cell in cells if cell.status != "finished"]


def check_games(cells: Sequence[Cell]) -> None:
    """Make each environment that is to be run: an unknown id must fail before the first run.

    Raises:
        EnvError: A game cannot be made; the message says how to run the others.
    """
    checked: list[EnvConfig] = []
    failed: dict[str, EnvError] = {}
    for config in environments([cell for cell in cells if cell.resumable]):
        if config not in checked:
            checked.append(config)
            try:
                env_source(config.id, config).copy(0, life_loss=False).close()
            except EnvError as error:
                failed.setdefault(config.id, error)
    if failed:
        first = next(iter(failed.values()))
        fine = [game for game in dict.fromkeys(c.id for c in checked) if game not in failed]
        others = f"; to run the others: --games {shlex.join(fine)}" if fine else ""
        raise EnvError(f"{first}{others}") from first
