"""The directory of a suite, and the status of each of its runs.

```
SUITE/
  suite.json                              spec, presets when it was created, version of drama
  <variant>/<game>/seed-<n>/              run directory
  <variant>/<game>/seed-<n>.log           output of its processes, all attempts
  <variant>/<game>/seed-<n>.failure.json  reason of the last failure; removed on success
```

`read_suite` alone decides which runs count as finished.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drama import presets
from drama.config import Config
from drama.errors import CheckpointError, ConfigError, RunDirError
from drama.files import read_json, write_json
from drama.suite.differences import differences
from drama.suite.spec import SuiteSpec, Variant, slug
from drama.suite.status import MODE, Status, inspect
from drama.version import __version__

MOST = 5
"""Maximum number of differences in an error message."""


@dataclass(frozen=True)
class Cell:
    """One run of a suite, as found on disk."""

    variant: Variant
    game: str
    """Gymnasium id."""
    seed: int
    path: Path
    """Run directory, existing or not."""
    status: Status
    """``missing``: not started. ``interrupted``: resumable. ``finished``: trained and evaluated.
    ``failed``: the last attempt ended with an error, or a file is damaged. ``foreign``: the
    directory holds something else and is never modified."""
    reason: str
    """Reason of the status; empty for ``finished`` and ``missing``."""
    config: Config
    """Configuration of the run."""
    step: int
    """Environment steps of the last checkpoint; 0 without one."""
    resumable: bool
    """Whether the suite may start or continue it."""

    @property
    def name(self) -> str:
        """Name in messages: ``variant/game/seed-0``."""
        return f"{self.variant.name}/{slug(self.game)}/seed-{self.seed}"

    @property
    def log(self) -> Path:
        """Output of its processes."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def failure(self) -> Path:
        """File with the reason of the last failure."""
        return self.path.with_name(f"{self.path.name}.failure.json")

    def evaluation(self) -> dict[str, Any]:
        """Return the greedy evaluation of a finished run from ``eval.json``.

        Raises:
            CheckpointError: The run is not finished.
        """
        if self.status != "finished":
            raise CheckpointError(f"{self.path} is not finished: {self.reason or self.status}")
        result: dict[str, Any] = read_json(self.path / "eval.json")[MODE]
        return result


@dataclass(frozen=True)
class SuiteState:
    """A suite and all of its runs."""

    directory: Path
    spec: SuiteSpec
    version: str
    """Version of drama that created it."""
    cells: tuple[Cell, ...]
    """Runs, ordered by variant, game and seed."""

    def of(self, *statuses: Status) -> tuple[Cell, ...]:
        """Return the runs with one of these statuses."""
        return tuple(cell for cell in self.cells if cell.status in statuses)

    def counts(self) -> dict[str, int]:
        """Return the number of runs by status."""
        return dict(collections.Counter(cell.status for cell in self.cells))

    def cell(self, variant: str, game: str, seed: int) -> Cell:
        """Return one run.

        Raises:
            KeyError: The suite has no such run.
        """
        for cell in self.cells:
            if (cell.variant.name, cell.game, cell.seed) == (variant, game, seed):
                return cell
        raise KeyError((variant, game, seed))


def run_path(directory: Path, variant: str, game: str, seed: int) -> Path:
    """Return the directory of one run of a suite."""
    return directory / variant / slug(game) / f"seed-{seed}"


def is_suite(directory: Path) -> bool:
    """Whether ``directory`` holds a suite.

    Raises:
        RunDirError: The directory cannot be read.
    """
    try:
        return (directory / "suite.json").is_file()
    except OSError as error:  # no permission, too long a name
        raise RunDirError(f"cannot read {directory}: {error.strerror}") from error


def check_vacant(directory: Path) -> None:
    """Check that a suite can be created in ``directory``, which need not exist.

    Raises:
        RunDirError: The directory is not empty or cannot be read.
    """
    try:
        if directory.exists() and {p.name for p in directory.iterdir()} - {".lock"}:
            raise RunDirError(f"{directory} is not empty and holds no suite; choose another")
    except RunDirError:
        raise
    except OSError as error:
        raise RunDirError(f"cannot make suite {directory}: {error.strerror}") from error


def begin_suite(directory: Path, spec: SuiteSpec) -> str | None:
    """Write ``suite.json``, or check the existing one.

    Args:
        directory: Directory of the suite; created if missing.
        spec: Runs requested: of an existing suite, all runs or a subset.

    Returns:
        The version of drama that created the suite, if it differs from this one.

    Raises:
        RunDirError: The directory holds another suite, or something else.
        ConfigError: ``suite.json`` cannot be read.
    """
    if is_suite(directory):
        found, version = read_spec(directory)
        if changed := _beyond(found, spec):
            more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
            raise RunDirError(
                f"{directory} holds another suite; requested now: {'; '.join(changed[:MOST])}{more}"
            )
        return None if version == __version__ else version
    check_vacant(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        used = sorted({variant.preset for variant in spec.variants})
        tree = {
            "drama": __version__,
            "spec": spec.to_dict(),
            # Recorded, so that a later version with other presets continues the same runs.
            "presets": {name: dataclasses.asdict(presets.preset(name)) for name in used},
        }
        write_json(directory / "suite.json", tree)
    except OSError as error:
        raise RunDirError(f"cannot make suite {directory}: {error.strerror}") from error
    return None


def _beyond(found: SuiteSpec, spec: SuiteSpec) -> list[str]:
    """Return how a spec differs from a subset of the suite's runs."""
    with contextlib.suppress(ConfigError):  # not a subset
        part = found.narrowed(
            games=spec.games, seeds=spec.seeds, variants=[v.name for v in spec.variants]
        )
        return differences(part, spec)
    return differences(found, spec)


def read_spec(directory: Path) -> tuple[SuiteSpec, str]:
    """Return the spec of the suite in ``directory``, and the version that created it.

    Raises:
        RunDirError: ``directory`` holds no suite.
        ConfigError: ``suite.json`` cannot be read.
    """
    path = directory / "suite.json"
    if not is_suite(directory):
        raise RunDirError(no_suite(directory))
    try:
        tree = read_json(path)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(tree, Mapping) or not {"drama", "spec"} <= tree.keys():
        raise ConfigError(f"{path} is damaged: it lacks required fields")
    try:
        return SuiteSpec.from_dict(tree["spec"]), str(tree["drama"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def no_suite(directory: Path) -> str:
    """Return why ``directory`` is not a suite, with the nearest suite as a suggestion."""
    if not os.path.lexists(directory):
        what = f"{directory} does not exist"
    elif not directory.is_dir():
        what = f"{directory} is a file, not a suite directory"
    else:
        what = f"{directory} is not a suite directory: it has no suite.json"
    # `drama suite run toy` uses suites/toy, so a user may request the report of "toy".
    guesses = [Path("suites") / directory.name, directory / "suites", directory.parent]
    near = None
    with contextlib.suppress(OSError):  # no permission
        if directory.is_dir():
            guesses += sorted(path for path in directory.iterdir() if path.is_dir())
        near = next((path for path in guesses if (path / "suite.json").is_file()), None)
    return what if near is None else f"{what}; did you mean {near}?"


def read_suite(directory: str | Path) -> SuiteState:
    """Inspect every run of a suite, without writing or locking.

    Args:
        directory: Directory of the suite.

    Raises:
        RunDirError: ``directory`` holds no suite.
        ConfigError: ``suite.json`` cannot be read.
    """
    directory = Path(directory)
    spec, version = read_spec(directory)
    return SuiteState(directory, spec, version, tuple(scan(directory, spec)))


def recorded_presets(directory: Path) -> dict[str, Config]:
    """Return the presets recorded in ``suite.json``, if this version can read them."""
    found: dict[str, Config] = {}
    try:
        tree = read_json(directory / "suite.json").get("presets", {})
        for name, preset in tree.items():
            with contextlib.suppress(ConfigError):  # a removed setting
                found[name] = Config.from_saved(preset)
    except (CheckpointError, AttributeError):
        pass
    return found


def scan(directory: Path, spec: SuiteSpec) -> list[Cell]:
    """Inspect every run of ``spec`` in ``directory``, which need not exist."""
    recorded = recorded_presets(directory)
    return [
        read_cell(directory, spec, variant, game, seed, recorded)
        for variant in spec.variants
        for game in spec.games
        for seed in spec.seeds
    ]


def read_cell(
    directory: Path,
    spec: SuiteSpec,
    variant: Variant,
    game: str,
    seed: int,
    recorded: Mapping[str, Config] | None = None,
) -> Cell:
    """Inspect one run; ``recorded`` avoids reading :func:`recorded_presets` again."""
    path = run_path(directory, variant.name, game, seed)
    recorded = recorded_presets(directory) if recorded is None else recorded
    config = spec.config(variant, game, seed, recorded.get(variant.preset))
    found = inspect(path, config)
    cell = Cell(
        variant, game, seed, path, found.status, found.reason, config, found.step, found.resumable
    )
    if cell.resumable and cell.status != "finished":
        reason = _failure(cell.failure)
        if reason is not None:
            return dataclasses.replace(cell, status="failed", reason=reason)
    return cell


def record_failure(cell: Cell, reason: str, code: int | None) -> None:
    """Write the failure file of an attempt.

    Args:
        cell: The run.
        reason: One line.
        code: Exit code of its process; negative for a signal, None without a process.
    """
    cell.failure.parent.mkdir(parents=True, exist_ok=True)
    write_json(cell.failure, {"reason": reason, "exit_code": code})


def _failure(path: Path) -> str | None:
    try:
        return str(read_json(path)["reason"])
    except (CheckpointError, KeyError, TypeError, OSError):
        return None
