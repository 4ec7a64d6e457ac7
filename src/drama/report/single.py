"""One run directory in the place of a suite."""

from __future__ import annotations

from pathlib import Path

from drama.config import Config
from drama.errors import RunDirError
from drama.report.runs import Run, read_run
from drama.suite import Cell, Variant
from drama.suite.layout import is_suite
from drama.suite.status import inspect


def is_run(directory: Path) -> bool:
    """Whether ``directory`` is a run directory and not a suite.

    Raises:
        RunDirError: It cannot be read.
    """
    if is_suite(directory):
        return False
    return (directory / "config.json").is_file()


def read_single(directory: Path) -> Run:
    """Read a run directory as the only run of a suite; its variant is its preset.

    Raises:
        RunDirError: Its ``config.json`` is no configuration.
    """
    try:
        config = Config.from_json((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirError(f"{directory / 'config.json'} cannot be read: {error}") from error
    found = inspect(directory, config)
    cell = Cell(
        variant=Variant("run", "run", "quick"),
        game=config.env.id,
        seed=config.seed,
        path=directory,
        status=found.status,
        reason=found.reason,
        config=config,
        step=found.step,
        resumable=found.resumable,
    )
    return read_run(cell, config.preset or "run")
