"""The directory of a suite, and what state each of its runs is in.

```
SUITE/
  suite.json                              the spec, its presets as they were, this package's version
  <variant>/<game>/seed-<n>/              an ordinary run directory
  <variant>/<game>/seed-<n>.log           what its processes printed, one attempt after the other
  <variant>/<game>/seed-<n>.failure.json  why the last attempt failed; gone once it succeeds
```

`read_suite` is the only place that decides which runs count as finished.
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
from drama.suite.spec import SuiteSpec, Variant, differences, slug
from drama.suite.verdict import MODE, Status, judge

MOST = 5
"""Differences that a refusal tells."""


@dataclass(frozen=True)
class Cell:
    """One run of a suite, as it is found on disk."""

    variant: Variant
    game: str
    """Gymnasium id."""
    seed: int
    path: Path
    """Its run directory, whether there is one or not."""
    status: Status
    """``missing``: not begun. ``interrupted``: sound, to be continued. ``finished``: trained and
    evaluated. ``failed``: its last attempt ended with an error, or a file of it is damaged.
    ``foreign``: something else lies there; it is never touched."""
    reason: str
    """Why, in a few words; empty for a finished run and one not begun."""
    config: Config
    """What it is, or would be, made with."""
    step: int
    """Environment steps that its last checkpoint has made; 0 without one."""
    sound: bool
    """Whether a call of the suite may begin or continue it."""

    @property
    def name(self) -> str:
        """How messages call it: ``variant/game/seed-0``."""
        return f"{self.variant.name}/{slug(self.game)}/seed-{self.seed}"

    @property
    def log(self) -> Path:
        """What its processes printed."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def failure(self) -> Path:
        """Why its last attempt failed."""
        return self.path.with_name(f"{self.path.name}.failure.json")

    def evaluation(self) -> dict[str, Any]:
        """Return the greedy evaluation of a finished run, as ``eval.json`` has it.

        Raises:
            CheckpointError: The run is not finished.
        """
        if self.status != "finished":
            raise CheckpointError(f"{self.path} is not finished: {self.reason or self.status}")
        result: dict[str, Any] = read_json(self.path / "eval.json")[MODE]
        return result


@dataclass(frozen=True)
class SuiteState:
    """A suite and every run of it."""

    directory: Path
    spec: SuiteSpec
    version: str
    """Version of this package that began it."""
    cells: tuple[Cell, ...]
    """Variant by variant, game by game, seed by seed."""

    def of(self, *statuses: Status) -> tuple[Cell, ...]:
        """Return the runs in these states."""
        return tuple(cell for cell in self.cells if cell.status in statuses)

    def counts(self) -> dict[str, int]:
        """Return the number of runs in each state that occurs."""
        return dict(collections.Counter(cell.status for cell in self.cells))

    def cell(self, variant: str, game: str, seed: int) -> Cell:
        """Return one run.

        Raises:
            KeyError: The suite has none like it.
        """
        for cell in self.cells:
            if (cell.variant.name, cell.game, cell.seed) == (variant, game, seed):
                return cell
        raise KeyError((variant, game, seed))


def run_path(directory: Path, variant: str, game: str, seed: int) -> Path:
    """Return the directory of one run of a suite."""
    return directory / variant / slug(game) / f"seed-{seed}"


def is_suite(directory: Path) -> bool:
    """Whether a suite was begun in ``directory``.

    Raises:
        RunDirError: It cannot be looked at.
    """
    try:
        return (directory / "suite.json").is_file()
    except OSError as error:  # no permission, too long a name
        raise RunDirError(f"cannot look into {directory}: {error.strerror}") from error


def check_vacant(directory: Path) -> None:
    """Check that a suite may be begun in ``directory``, which need not exist.

    Raises:
        RunDirError: Something lies there already, or it cannot be looked at.
    """
    try:
        if directory.exists() and {p.name for p in directory.iterdir()} - {".lock"}:
            raise RunDirError(f"{directory} is not empty and holds no suite; choose another")
    except RunDirError:
        raise
    except OSError as error:
        raise RunDirError(f"cannot make suite {directory}: {error.strerror}") from error


def begin_suite(directory: Path, spec: SuiteSpec) -> str | None:
    """Write ``suite.json``, or check the one that is there.

    Args:
        directory: Made if it does not exist.
        spec: What is to be run there: if a suite was begun, all of it or some of its runs.

    Returns:
        The version that began the suite, if it is another one than this.

    Raises:
        RunDirError: The directory holds another suite, or something else.
        ConfigError: Its ``suite.json`` cannot be read.
    """
    from drama import __version__

    if is_suite(directory):
        found, version = read_spec(directory)
        if changed := _beyond(found, spec):
            more = f" and {len(changed) - MOST} more" if len(changed) > MOST else ""
            raise RunDirError(
                f"{directory} holds another suite; asked for now: {'; '.join(changed[:MOST])}{more}"
            )
        return None if version == __version__ else version
    check_vacant(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        used = sorted({variant.preset for variant in spec.variants})
        tree = {
            "drama": __version__,
            "spec": spec.to_dict(),
            # As they are now: a later version may change one, but not what this suite compares.
            "presets": {name: dataclasses.asdict(presets.preset(name)) for name in used},
        }
        write_json(directory / "suite.json", tree)
    except OSError as error:
        raise RunDirError(f"cannot make suite {directory}: {error.strerror}") from error
    return None


def _beyond(found: SuiteSpec, spec: SuiteSpec) -> list[str]:
    """How a spec differs from the runs of a suite, other than by leaving some of them out."""
    with contextlib.suppress(ConfigError):  # it asks for what the suite has not
        part = found.narrowed(
            games=spec.games, seeds=spec.seeds, variants=[v.name for v in spec.variants]
        )
        return differences(part, spec)
    return differences(found, spec)


def read_spec(directory: Path) -> tuple[SuiteSpec, str]:
    """Return the spec of the suite in ``directory``, and the version that began it.

    Raises:
        RunDirError: It is not the directory of a suite.
        ConfigError: Its ``suite.json`` cannot be read.
    """
    path = directory / "suite.json"
    if not is_suite(directory):
        raise RunDirError(no_suite(directory))
    try:
        tree = read_json(path)
    except CheckpointError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(tree, Mapping) or not {"drama", "spec"} <= tree.keys():
        raise ConfigError(f"{path} is damaged: it lacks its fields")
    try:
        return SuiteSpec.from_dict(tree["spec"]), str(tree["drama"])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def no_suite(directory: Path) -> str:
    """Say what is wrong with a directory that is not a suite's, and what may have been meant."""
    if not os.path.lexists(directory):
        what = f"there is no {directory}"
    elif not directory.is_dir():
        what = f"{directory} is a file, not the directory of a suite"
    else:
        what = f"{directory} is not the directory of a suite: it has no suite.json"
    # `drama suite run toy` works in suites/toy, so somebody may ask for the report of "toy".
    guesses = [Path("suites") / directory.name, directory / "suites", directory.parent]
    near = None
    with contextlib.suppress(OSError):  # it may not be looked at
        if directory.is_dir():
            guesses += sorted(path for path in directory.iterdir() if path.is_dir())
        near = next((path for path in guesses if (path / "suite.json").is_file()), None)
    return what if near is None else f"{what}; did you mean {near}?"


def read_suite(directory: str | Path) -> SuiteState:
    """Look at every run of a suite. Nothing is written, nothing is locked.

    Args:
        directory: Of the suite.

    Raises:
        RunDirError: It is not the directory of a suite.
        ConfigError: Its ``suite.json`` cannot be read.
    """
    directory = Path(directory)
    spec, version = read_spec(directory)
    return SuiteState(directory, spec, version, tuple(look(directory, spec)))


def recorded_presets(directory: Path) -> dict[str, Config]:
    """Return the presets as they were when a suite was begun, as far as this version knows them."""
    found: dict[str, Config] = {}
    try:
        tree = read_json(directory / "suite.json").get("presets", {})
        for name, preset in tree.items():
            with contextlib.suppress(ConfigError):  # a setting that is no more
                found[name] = Config.from_saved(preset)
    except (CheckpointError, AttributeError):
        pass
    return found


def look(directory: Path, spec: SuiteSpec) -> list[Cell]:
    """Return every run that ``spec`` has in ``directory``, which need not exist."""
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
    """Look at one run; ``recorded`` is what :func:`recorded_presets` gave, if that was asked."""
    path = run_path(directory, variant.name, game, seed)
    recorded = recorded_presets(directory) if recorded is None else recorded
    config = spec.config(variant, game, seed, recorded.get(variant.preset))
    status, reason, step, sound = judge(path, config)
    cell = Cell(variant, game, seed, path, status, reason, config, step, sound)
    if sound and status != "finished" and (why := _failure(cell.failure)) is not None:
        return Cell(variant, game, seed, path, "failed", why, config, step, sound)
    return cell


def record_failure(cell: Cell, reason: str, code: int | None) -> None:
    """Write down why an attempt failed.

    Args:
        cell: The run.
        reason: In one line.
        code: Exit code of its process; negative for a signal, None if there was none.
    """
    cell.failure.parent.mkdir(parents=True, exist_ok=True)
    write_json(cell.failure, {"reason": reason, "exit_code": code})


def _failure(path: Path) -> str | None:
    try:
        return str(read_json(path)["reason"])
    except (CheckpointError, KeyError, TypeError, OSError):
        return None
