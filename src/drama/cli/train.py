"""``drama train``: start a run, or continue one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import functools
import shlex
from pathlib import Path
from typing import Any, get_args

from drama import __version__, presets
from drama.agent import Agent, find_checkpoint
from drama.cli.common import Parser, err, out, parse_fields, signals
from drama.cli.evaluate import evaluate_and_report
from drama.config import AlgorithmName, Config, SamplerName
from drama.dynamics import check_registered, registered
from drama.errors import CheckpointError, ConfigError
from drama.training.checkpoint import CheckpointDir
from drama.training.device import pick_dtype
from drama.training.resume import compare
from drama.training.rundir import fresh_run_dir
from drama.training.trainer import Event

SHORT = {
    "env": ("env", "id"),
    "dynamics": ("world_model", "dynamics", "name"),
    "sampler": ("replay", "sampler"),
    "behaviour": ("behaviour", "algorithm"),
}
"""Options of one word, and the fields that they are short for."""


def train(args: list[str]) -> int:
    """``drama train``: start a run, or continue one."""
    if args and not args[0].startswith("-"):
        name, args = args[0], args[1:]
    else:
        name = None
    if name == "":
        raise ConfigError("the preset is empty; name one of " + ", ".join(presets.PRESETS))
    known, config_args = _split_train_args(args)
    if known.resume is not None:
        if name is not None or known.run_dir is not None:
            raise ConfigError("--resume takes the preset and the directory from the run itself")
        return _resume(Path(known.resume), known, config_args)
    if known.run_dir is not None and not known.run_dir.strip():
        raise ConfigError("--run-dir is empty; name a new directory")
    config = _parse_config(presets.preset(name or "xs"), known, config_args)
    agent = Agent(config=config)
    if known.run_dir is not None:
        return _learn(agent, Path(known.run_dir), config.steps)
    directory = fresh_run_dir(Path("runs"), config.env.id, config.preset, config.seed)
    try:
        return _learn(agent, directory, config.steps)
    finally:
        with contextlib.suppress(OSError):  # not empty, as a rule: something was written there
            directory.rmdir()


def _split_train_args(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take out the options that are not fields of the configuration, or short for one."""
    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run-dir")
    parser.add_argument("--resume")
    for name in SHORT:
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(args)


def _parse_config(default: Config, short: argparse.Namespace, args: list[str]) -> Config:
    """Apply the options of one word and those of ``--section.field VALUE`` to ``default``.

    Raises:
        ConfigError: One line about the first thing that is wrong.
    """
    asked = {name: value for name in SHORT if (value := getattr(short, name)) is not None}
    if "dynamics" in asked:
        check_registered(asked["dynamics"])
    for name, value in asked.items():
        default = _replace(default, SHORT[name], value)
    if any(a in ("-h", "--help") for a in args):
        out.print(
            "Beside the options below: --env ID, --dynamics NAME "
            f"({', '.join(registered())}), --sampler NAME ({', '.join(get_args(SamplerName))}), "
            f"--behaviour NAME ({', '.join(get_args(AlgorithmName))}), "
            "--run-dir DIR, --resume DIR\n"
        )
    _check_words(args)
    config = parse_fields(default, args, "drama train [PRESET]")
    for name, value in asked.items():
        found = functools.reduce(getattr, SHORT[name], config)
        if found != value:
            field = ".".join(SHORT[name]).replace("_", "-")
            raise ConfigError(f"--{name} {value} and --{field} {found}: which one?")
    return config


def _check_words(args: list[str]) -> None:
    """Name what a misspelt option of one word was meant to be; the parser of fields cannot know."""
    fields = (field.name.replace("_", "-") for field in dataclasses.fields(Config))
    known = [*SHORT, *fields, "run-dir", "resume", "help"]
    for arg in args:
        word = arg.removeprefix("--").partition("=")[0].replace("_", "-")
        if arg.startswith("--") and "." not in word and word not in known:
            near = difflib.get_close_matches(word, known, n=1)
            if near:
                raise ConfigError(f"unknown option --{word}; did you mean --{near[0]}?")


def _replace(section: Any, path: tuple[str, ...], value: object) -> Any:
    """Return ``section`` with the field at ``path`` within it replaced."""
    name, *rest = path
    if rest:
        value = _replace(getattr(section, name), tuple(rest), value)
    return dataclasses.replace(section, **{name: value})


def _resume(path: Path, short: argparse.Namespace, args: list[str]) -> int:
    checkpoint, run_dir = find_checkpoint(path)
    if run_dir is None or not checkpoint.has("loop"):
        raise ConfigError(
            f"{path} holds what plays but not the run it came from: nothing to resume"
        )
    saved = Config.from_json(checkpoint.text("config.json"))
    env = None
    if short.env is not None and ":" in short.env:  # it is compared with the run's when it is made
        env, short.env = short.env, None
    asked = _parse_config(saved, short, args)
    taken, refused = compare(saved, asked)
    if refused:
        kept = f" (could be taken: {', '.join(taken)})" if taken else ""
        raise ConfigError(
            f"--resume keeps the run's own settings; refused: {', '.join(refused)}{kept}"
        )
    if taken:
        err.print(f"changed for the rest of the run: {', '.join(taken)}")
    if asked.steps <= checkpoint.step:
        raise ConfigError(
            f"{run_dir} has made its {checkpoint.step:,} steps; ask for more with --steps N"
        )
    err.print(f"continuing {run_dir} from step {checkpoint.step:,}")
    agent = Agent.load(path, env, config=asked)
    return _learn(agent, run_dir, asked.steps - checkpoint.step)


def _learn(agent: Agent, run_dir: Path, steps: int) -> int:
    """Train with live progress; Ctrl-C ends it cleanly after the step in hand."""
    config = agent.config
    size = sum(p.numel() for p in agent.world_model.parameters()) / 1e6
    precision = str(pick_dtype(config.training.precision, agent.device)).removeprefix("torch.")
    err.print(
        f"drama {__version__}: preset {config.preset}, {config.env.id}, seed {config.seed}, "
        f"{size:.1f} M world-model parameters ({config.world_model.dynamics.name}), "
        f"{config.behaviour.algorithm}, {agent.device} {precision}"
    )
    interrupted = False

    def stop_if_interrupted(event: Event, payload: Any) -> bool:
        return not (event == "step" and interrupted)

    def on_signal(signum: int, frame: object) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True
        err.print("stopping after this step and saving; press Ctrl-C again to give up at once")

    with signals(on_signal):
        try:
            agent.learn(steps, run_dir=run_dir, progress_bar=True, listeners=[stop_if_interrupted])
        except KeyboardInterrupt:
            err.print(f"given up; {_what_next(run_dir, config.steps)}")
            return 130
    if interrupted:
        err.print(str(agent.time_split))
        saved = f"saved at step {CheckpointDir(run_dir).last().step:,}"
        err.print(f"{saved}; {_what_next(run_dir, config.steps)}")
        return 130
    if config.evaluation.episodes:
        evaluate_and_report(agent, run_dir, ("greedy",))
    out.print(str(agent.time_split))
    out.print(f"run: {run_dir}")
    return 0


def _what_next(run_dir: Path, steps: int) -> str:
    """Return what can be done with a run of so many steps that was stopped, judged by its files."""
    try:
        made = CheckpointDir(run_dir).last().step
    except CheckpointError:
        return f"there was no checkpoint yet, so {run_dir} holds nothing to continue"
    path = shlex.quote(str(run_dir))
    if made >= steps:
        return f"all steps are made, evaluate with: drama eval {path}"
    return f"continue from step {made:,} with: drama train --resume {path}"
