"""``drama train``: start or continue a run."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from drama import presets
from drama.agent import Agent
from drama.cli.common import err, out, signals, status
from drama.cli.evaluate import evaluate_and_report
from drama.cli.options import base, parse, report_choices, split
from drama.config import Config
from drama.envs.source import env_source
from drama.errors import CheckpointError, ConfigError
from drama.machine.budget import measure_run, read_hours, within_hours
from drama.training.checkpoint import CheckpointDir, find_checkpoint
from drama.training.device import pick_dtype
from drama.training.events import Event
from drama.training.resume import compare
from drama.training.rundir import fresh_run_dir, suite_of
from drama.version import __version__


def train(args: list[str]) -> int:
    """``drama train``: start or continue a run."""
    options, fields = split(args)
    if options.resume is not None:
        if (options.preset, options.run_dir, options.config) != (None, None, None):
            raise ConfigError("--resume uses the run's own preset, settings and directory")
        if options.hours is not None:
            raise ConfigError(
                "--hours chooses the ratios of a new run; --resume takes "
                "--training.world-model-ratio and --training.behaviour-ratio"
            )
        return _resume(Path(options.resume), options, fields)
    if options.run_dir is not None and not options.run_dir.strip():
        raise ConfigError("--run-dir is empty; name a new directory")
    if options.trust_env and options.config is None:
        raise ConfigError("--trust-env needs --resume or --config; code named by --env is trusted")
    start = base(options, fields)
    hours = None if options.hours is None else read_hours(options.hours)
    config = parse(start.config, options, fields)
    report_choices(start, config, options, fields)
    if hours is not None:
        with status() as show:
            show(f"measuring preset {presets.label(config)} for --hours {hours:g}")
            cost = measure_run(config)
        config, choice = within_hours(config, hours, cost)
        err.print(choice)
    if options.print_config:
        print(config.to_json(), end="")
        return 0
    agent = Agent(config=config)
    if options.run_dir is not None:
        return _learn(agent, Path(options.run_dir), config.steps)
    directory = fresh_run_dir(Path("runs"), config.env.id, presets.label(config), config.seed)
    try:
        return _learn(agent, directory, config.steps)
    finally:
        with contextlib.suppress(OSError):  # fails if the run wrote files
            directory.rmdir()


def _resume(path: Path, short: argparse.Namespace, args: list[str]) -> int:
    checkpoint, run_dir = find_checkpoint(path)
    if run_dir is None or not checkpoint.has("loop"):
        raise ConfigError(
            f"{path} holds an agent saved for playing only: there is no run to resume"
        )
    saved = Config.from_json(checkpoint.text("config.json"))
    env = None
    if short.env is not None and ":" in short.env:  # compared with the run's when it is made
        env, short.env = short.env, None
    requested = parse(saved, short, args)
    taken, refused = compare(saved, requested)
    if refused:
        allowed = f" (allowed: {', '.join(taken)})" if taken else ""
        raise ConfigError(f"--resume cannot change these settings: {', '.join(refused)}{allowed}")
    if taken:
        err.print(f"changed settings: {', '.join(taken)}")
    if requested.steps <= checkpoint.step:
        raise ConfigError(
            f"{run_dir} has finished its {checkpoint.step:,} steps; extend it with --steps N"
        )
    if short.print_config:
        given = requested.env if env is None else env_source(env, requested.env).config
        print(dataclasses.replace(requested, env=given).to_json(), end="")
        return 0
    err.print(f"continuing {run_dir} from step {checkpoint.step:,}")
    agent = Agent.load(path, env, config=requested, trust_env=short.trust_env)
    return _learn(agent, run_dir, requested.steps - checkpoint.step)


def _learn(agent: Agent, run_dir: Path, steps: int) -> int:
    """Train with live progress; Ctrl-C stops cleanly after the current step."""
    config = agent.config
    size = sum(p.numel() for p in agent.world_model.parameters()) / 1e6
    precision = str(pick_dtype(config.training.precision, agent.device)).removeprefix("torch.")
    err.print(
        f"drama {__version__}: preset {presets.label(config)}, {config.env.id}, "
        f"seed {config.seed}, "
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
        # Printed to sys.stderr, which the live display captures, not through `err`.
        print(
            "stopping after the current step and saving; press Ctrl-C again to quit without saving",
            file=sys.stderr,
        )

    with signals(on_signal):
        try:
            agent.learn(steps, run_dir=run_dir, progress_bar=True, listeners=[stop_if_interrupted])
        except KeyboardInterrupt:
            err.print(f"stopped without saving; {_what_next(run_dir, config.steps)}")
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
    for command in _next_commands(run_dir):
        err.print(f"next: {command}")
    return 0


def _next_commands(run_dir: Path) -> list[str]:
    """Return the commands to evaluate and view a finished run."""
    path = shlex.quote(str(run_dir))
    commands = [f"drama eval {path}"]
    if (run_dir / "tensorboard").is_dir():
        commands.append(f"tensorboard --logdir {shlex.quote(str(run_dir / 'tensorboard'))}")
    if (suite := suite_of(run_dir)) is not None:
        commands.append(f"drama report {shlex.quote(str(suite))}")
    return commands


def _what_next(run_dir: Path, steps: int) -> str:
    """Return how to continue or evaluate a stopped run of ``steps`` steps."""
    try:
        made = CheckpointDir(run_dir).last().step
    except CheckpointError:
        return f"{run_dir} has no checkpoint to continue from"
    path = shlex.quote(str(run_dir))
    if made >= steps:
        return f"all steps are done; evaluate with: drama eval {path}"
    return f"continue from step {made:,} with: drama train --resume {path}"
