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
import fnmatch
import json
import math
import os
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from drama import presets
from drama.config import Config, from_dict
from drama.errors import CheckpointError, ConfigError, RunDirError
from drama.files import as_number, check_tensors, read_json, write_json
from drama.suite.spec import SuiteSpec, Variant, differences, slug
from drama.training.checkpoint import Checkpoint, CheckpointDir
from drama.training.resume import compare

Status = Literal["missing", "interrupted", "finished", "failed", "foreign"]

DEBRIS = {".lock", ".config.json.tmp"}
"""What a run that was killed while its directory was made may leave there."""
OWN_FILES = ("config.json", "run.json", ".lock", "*.jsonl", ".*.tmp")
"""Files that a run writes before its first checkpoint."""
OWN_DIRECTORIES = ("checkpoints", "replay", "tensorboard", "wandb")
"""Directories that a run makes before its first checkpoint."""
MOST = 5
"""Differences that a refusal tells."""
MODE = "greedy"
"""Evaluation that a run ends with, and that a suite is scored by."""


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
                found[name] = from_dict(Config, preset)
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
    status, reason, step, sound = _judge(path, config)
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


Verdict = tuple[Status, str, int, bool]
"""Status, reason, steps made, and whether the suite may begin or continue the run."""


def _judge(path: Path, wanted: Config) -> Verdict:
    """Judge a run directory by its own files."""
    if not os.path.lexists(path):
        return "missing", "", 0, True
    try:
        if not path.is_dir():
            what = "a symbolic link to no directory" if path.is_symlink() else "not a directory"
            return "foreign", f"{path} is {what}", 0, False
        if path.is_symlink() and not (path / "checkpoints" / "last").is_file():
            reason = f"{path} is a symbolic link to what holds no checkpoint; remove the link"
            return "foreign", reason, 0, False
        if not {p.name for p in path.iterdir()} - DEBRIS:
            return "missing", "", 0, True
        if not (path / "config.json").is_file():
            return "foreign", f"{path} has no config.json", 0, False
        saved = Config.from_json((path / "config.json").read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        return "foreign", f"{path / 'config.json'} cannot be read: {error}", 0, False
    except OSError as error:
        return "foreign", f"{path} cannot be read: {error.strerror}", 0, False
    if refused := compare(saved, wanted)[1]:
        return "foreign", f"{path} is another run: {', '.join(refused)}", 0, False
    checkpoints = CheckpointDir(path)
    try:
        if not os.path.lexists(checkpoints.path / "last"):
            if (why := worth_keeping(path)) is None:
                return "interrupted", "stopped before its first checkpoint", 0, True
            return "failed" if checkpoints.all() else "foreign", why, 0, False
        checkpoint = checkpoints.last()
        _check(checkpoint, path)
        made = Config.from_json(checkpoint.text("config.json"))
        evaluations = _evaluations(path / "eval.json")
    except (CheckpointError, ConfigError) as error:
        return "failed", str(error), 0, False
    except OSError as error:
        return "failed", f"{path} cannot be read: {error}", 0, False
    step = checkpoint.step
    if refused := compare(made, wanted)[1]:
        return "foreign", f"{checkpoint.path} is of another run: {', '.join(refused)}", step, False
    if not step:
        return "foreign", f"{checkpoint.path} has made no step: no suite wrote it", 0, False
    if step > wanted.steps:
        reason = f"{path} has made {step:,} steps; the suite asks for {wanted.steps:,}"
        return "foreign", reason, step, False
    if step < wanted.steps:
        return "interrupted", f"at step {step:,} of {wanted.steps:,}", step, True
    if lacking := _lacking(evaluations, wanted):
        return "interrupted", lacking, step, True
    return "finished", "", step, True


def worth_keeping(path: Path) -> str | None:
    """Say what a run directory without ``checkpoints/last`` holds that must not be deleted.

    Args:
        path: An existing directory.

    Returns:
        The reason, with what to do about it; None if a run that was killed before its first
        checkpoint left all that is there.

    Raises:
        OSError: It cannot be looked at.
    """
    checkpoints = CheckpointDir(path)
    last = checkpoints.path / "last"
    if complete := checkpoints.all():
        newest = complete[-1].name
        return (
            f"{last} is missing, so that {len(complete)} checkpoint{'s' * (len(complete) > 1)} "
            f"there cannot be used; mend it with: echo {newest} > {shlex.quote(str(last))}"
        )
    for found in sorted(path.iterdir()):
        names = OWN_DIRECTORIES if found.is_dir() else OWN_FILES
        if found.is_symlink() or not any(fnmatch.fnmatchcase(found.name, name) for name in names):
            return f"{path} has no checkpoint, but {found.name}, which is not deleted; move it away"
    if checkpoints.path.is_dir():
        for found in sorted(checkpoints.path.iterdir()):
            if not fnmatch.fnmatchcase(found.name, ".*.tmp"):
                return f"{found} is no whole checkpoint, and is not deleted; move it away"
    return None


def _check(checkpoint: Checkpoint, run_dir: Path) -> None:
    """Check that all files of a checkpoint are there, as long as they should be.

    Their hashes are checked when loaded: of a whole suite they would take minutes.
    """
    files = [checkpoint.path / name for name in checkpoint.manifest["files"]]
    files += [run_dir / "replay" / segment["file"] for segment in checkpoint.segments]
    for file in files:
        if file.suffix == ".safetensors":
            check_tensors(file)
        elif not file.is_file():
            raise CheckpointError(f"{file} is missing")
    if not checkpoint.has("loop"):
        raise CheckpointError(f"{run_dir} holds what plays but not the run it came from")


def _evaluations(path: Path) -> dict[str, Any] | None:
    """Read ``eval.json``; None if there is none."""
    if not path.exists():
        return None
    tree = read_json(path)
    try:
        for mode, result in tree.items():
            mean = as_number(result["mean"])
            found = [as_number(episode["return"]) for episode in result["episodes"]]
            returns = [ret for ret in found if ret is not None]
            if mean is None or not returns or len(returns) < len(found):
                raise ValueError
            if not isinstance(result["protocol"]["env"], dict):
                raise ValueError
            rounding = 1e-6 * max(1.0, *map(abs, returns))
            if not math.isclose(mean, statistics.fmean(returns), rel_tol=0.0, abs_tol=rounding):
                raise CheckpointError(f"{path} is damaged: {mode} has not the mean of its episodes")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: it is not an evaluation") from error
    evaluations: dict[str, Any] = tree
    return evaluations


def _lacking(evaluations: Mapping[str, Any] | None, wanted: Config) -> str:
    """Say what keeps ``eval.json`` from being the evaluation that the suite asks for."""
    if evaluations is None or MODE not in evaluations:
        return "trained, not evaluated yet"
    asked = wanted.evaluation
    protocol = {
        "train_steps": wanted.steps,
        "train_seed": wanted.seed,
        "episodes": asked.episodes,
        "num_envs": min(asked.num_envs, asked.episodes),
        "seed": asked.seed,
        "lookahead": wanted.behaviour.lookahead,
    }
    found = {"lookahead": 0, **evaluations[MODE]["protocol"]}  # older ones do not tell it
    for name, value in protocol.items():
        if found.get(name) != value:
            had = json.dumps(found.get(name))
            return f"evaluated with {name.replace('_', ' ')} {had}, the suite asks for {value}"
    return ""
