"""What a run directory's own files say of it: is it a suite's run, is it sound, is it finished?

Nothing is written. A suite leaves alone what is not sound; the reason says what to do about it.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import shlex
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from drama.config import Config
from drama.errors import CheckpointError, ConfigError
from drama.evaluation.protocol import completed, step_limit
from drama.files import as_number, check_tensors, read_json
from drama.text import plural
from drama.training.checkpoint import Checkpoint, CheckpointDir
from drama.training.resume import compare

Status = Literal["missing", "interrupted", "finished", "failed", "foreign"]
Verdict = tuple[Status, str, int, bool]
"""Status, reason, steps made, and whether the suite may begin or continue the run."""

DEBRIS = {".lock", ".config.json.tmp"}
"""What a run that was killed while its directory was made may leave there."""
OWN_FILES = ("config.json", "run.json", ".lock", "*.jsonl", ".*.tmp")
"""Files that a run writes before its first checkpoint."""
OWN_DIRECTORIES = ("checkpoints", "replay", "tensorboard", "wandb")
"""Directories that a run makes before its first checkpoint."""
MODE = "greedy"
"""Evaluation that a run ends with, and that a suite is scored by."""


def judge(path: Path, wanted: Config) -> Verdict:
    """Judge a run directory by its own files.

    Args:
        path: Of the run, whether anything lies there or not.
        wanted: What the suite would make the run with.
    """
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
            f"{last} is missing, so {plural(len(complete), 'complete checkpoint')} cannot be used; "
            f"repair it with: echo {newest} > {shlex.quote(str(last))}"
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
        "latents": asked.latents,
    }
    found = completed(MODE, evaluations[MODE]["protocol"])
    if asked.max_episode_steps is not None:
        protocol["step_limit"] = asked.max_episode_steps
    elif found["step_limit"] != (usual := step_limit(found["env"])):
        protocol["step_limit"] = usual
    for name, value in protocol.items():
        if found.get(name) != value:
            had = json.dumps(found.get(name))
            return f"evaluated with {name.replace('_', ' ')} {had}, the suite asks for {value}"
    return ""
