"""Status of a run directory, from its files: ours or foreign, resumable, finished.

Nothing is written. A suite skips runs that are not resumable; the reason says how to repair them.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from drama.config import Config
from drama.errors import CheckpointError, ConfigError
from drama.evaluation.protocol import completed, step_limit
from drama.files import as_number, check_tensors, read_json
from drama.training.checkpoint import Checkpoint, CheckpointDir
from drama.training.resume import compare

Status = Literal["missing", "interrupted", "finished", "failed", "foreign"]

DEBRIS = {".lock", ".config.json.tmp"}
"""Files left by a run that was killed while creating its directory."""
OWN_FILES = ("config.json", "run.json", ".lock", "*.jsonl", ".*.tmp")
"""Files of a run before its first checkpoint."""
OWN_DIRECTORIES = ("checkpoints", "replay", "tensorboard", "wandb")
"""Directories of a run before its first checkpoint."""
MODE = "greedy"
"""Evaluation at the end of a run, which scores the suite."""


class RunStatus(NamedTuple):
    """Status of a run directory."""

    status: Status
    reason: str
    """One line; empty for ``missing`` and ``finished``."""
    step: int
    """Environment steps of the last checkpoint; 0 without one."""
    resumable: bool
    """Whether the suite may start or continue the run."""


def inspect(path: Path, wanted: Config) -> RunStatus:
    """Inspect a run directory.

    Args:
        path: Run directory, existing or not.
        wanted: Configuration of the run in the suite.
    """
    if not os.path.lexists(path):
        return RunStatus("missing", "", 0, True)
    try:
        if not path.is_dir():
            what = "a broken symbolic link" if path.is_symlink() else "not a directory"
            return RunStatus("foreign", f"{path} is {what}", 0, False)
        if path.is_symlink() and not (path / "checkpoints" / "last").is_file():
            reason = f"{path} is a symbolic link to a directory without checkpoint; remove the link"
            return RunStatus("foreign", reason, 0, False)
        if not {p.name for p in path.iterdir()} - DEBRIS:
            return RunStatus("missing", "", 0, True)
        if not (path / "config.json").is_file():
            return RunStatus("foreign", f"{path} has no config.json", 0, False)
        saved = Config.from_json((path / "config.json").read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        return RunStatus("foreign", f"{path / 'config.json'} cannot be read: {error}", 0, False)
    except OSError as error:
        return RunStatus("foreign", f"{path} cannot be read: {error.strerror}", 0, False)
    if refused := compare(saved, wanted)[1]:
        return RunStatus("foreign", f"{path} is another run: {', '.join(refused)}", 0, False)
    checkpoints = CheckpointDir(path)
    try:
        if not os.path.lexists(checkpoints.path / "last"):
            if (why := worth_keeping(path)) is None:
                return RunStatus("interrupted", "stopped before its first checkpoint", 0, True)
            return RunStatus("failed" if checkpoints.all() else "foreign", why, 0, False)
        checkpoint = checkpoints.last()
        _check(checkpoint, path)
        made = Config.from_json(checkpoint.text("config.json"))
        evaluations = _evaluations(path / "eval.json")
    except (CheckpointError, ConfigError) as error:
        return RunStatus("failed", str(error), 0, False)
    except OSError as error:
        return RunStatus("failed", f"{path} cannot be read: {error}", 0, False)
    step = checkpoint.step
    if refused := compare(made, wanted)[1]:
        reason = f"{checkpoint.path} belongs to another run: {', '.join(refused)}"
        return RunStatus("foreign", reason, step, False)
    if not step:
        return RunStatus("foreign", f"{checkpoint.path} is at step 0: no suite wrote it", 0, False)
    if step > wanted.steps:
        reason = f"{path} is at step {step:,}, beyond the suite's {wanted.steps:,}"
        return RunStatus("foreign", reason, step, False)
    if step < wanted.steps:
        return RunStatus("interrupted", f"at step {step:,} of {wanted.steps:,}", step, True)
    if lacking := _lacking(evaluations, wanted):
        return RunStatus("interrupted", lacking, step, True)
    return RunStatus("finished", "", step, True)


def worth_keeping(path: Path) -> str | None:
    """Return why a run directory without ``checkpoints/last`` must not be deleted.

    Args:
        path: An existing directory.

    Returns:
        The reason and how to repair it; None if all files are those of a run that was killed
        before its first checkpoint.

    Raises:
        OSError: The directory cannot be read.
    """
    checkpoints = CheckpointDir(path)
    if (why := checkpoints.missing_last()) is not None:
        return why
    for found in sorted(path.iterdir()):
        names = OWN_DIRECTORIES if found.is_dir() else OWN_FILES
        if found.is_symlink() or not any(fnmatch.fnmatchcase(found.name, name) for name in names):
            return f"{path} has no checkpoint, but {found.name}, which is kept; move it away"
    if checkpoints.path.is_dir():
        for found in sorted(checkpoints.path.iterdir()):
            if not fnmatch.fnmatchcase(found.name, ".*.tmp"):
                return f"{found} is an incomplete checkpoint, which is kept; move it away"
    return None


def _check(checkpoint: Checkpoint, run_dir: Path) -> None:
    """Check that all files of a checkpoint exist and have their full length.

    Hashes are checked on loading: for a whole suite that takes minutes.
    """
    files = [checkpoint.path / name for name in checkpoint.manifest["files"]]
    files += [run_dir / "replay" / segment["file"] for segment in checkpoint.segments]
    for file in files:
        if file.suffix == ".safetensors":
            check_tensors(file)
        elif not file.is_file():
            raise CheckpointError(f"{file} is missing")
    if not checkpoint.has("loop"):
        raise CheckpointError(f"{run_dir} holds an agent saved for playing only")


def _evaluations(path: Path) -> dict[str, Any] | None:
    """Read ``eval.json``; None if it is missing."""
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
                raise CheckpointError(f"{path} is damaged: {mode} mean and episodes differ")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: it is not an evaluation") from error
    evaluations: dict[str, Any] = tree
    return evaluations


def _lacking(evaluations: Mapping[str, Any] | None, wanted: Config) -> str:
    """Return how ``eval.json`` differs from the requested evaluation; empty if it does not."""
    if evaluations is None or MODE not in evaluations:
        return "trained, not yet evaluated"
    requested = wanted.evaluation
    protocol = {
        "train_steps": wanted.steps,
        "train_seed": wanted.seed,
        "episodes": requested.episodes,
        "num_envs": min(requested.num_envs, requested.episodes),
        "seed": requested.seed,
        "lookahead": wanted.behaviour.lookahead,
        "latents": requested.latents,
    }
    found = completed(MODE, evaluations[MODE]["protocol"])
    if requested.max_episode_steps is not None:
        protocol["step_limit"] = requested.max_episode_steps
    elif found["step_limit"] != (usual := step_limit(found["env"])):
        protocol["step_limit"] = usual
    for name, value in protocol.items():
        if found.get(name) != value:
            had = json.dumps(found.get(name))
            return f"evaluated with {name.replace('_', ' ')} {had}, requested: {value}"
    return ""
