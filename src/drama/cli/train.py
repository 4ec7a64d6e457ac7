"""``drama train``: start a run, or continue one."""

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
from drama.cli.common import err, out, signals
from drama.cli.evaluate import evaluate_and_report
from drama.cli.options import base, parse, report_choices, split
from drama.config import Config
from drama.envs.source import env_source
from drama.errors import CheckpointError, ConfigError
from drama.training.checkpoint import CheckpointDir, find_checkpoint
from drama.training.device import pick_dtype
from drama.training.events import Event
from drama.training.resume import compare
from drama.training.rundir import fresh_run_dir, suite_of
from drama.version import __version__


def train(args: list[str]) -> int:
    """``drama train``: start a run, or continue one."""
    options, fields = split(args)
    if options.resume is not None:
        if (options.preset, options.run_dir, options.config) != (None, None, None):
            raise ConfigError("--resume takes preset, settings and directory from the run itself")
        return _resume(Path(options.resume), options, fields)
    if options.run_dir is not None and not options.run_dir.strip():
        raise ConfigError("--run-dir is empty; name a new directory")
    if options.trust_env and options.config is None:
        raise ConfigError("--trust-env is for what --resume or --config names; --env needs none")
    start = base(options, fields)
    config = parse(start.config, options, fields)
    report_choices(start, config, options, fields)
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
        with contextlib.suppress(OSError):  # not empty, as a rule: something was written there
            directory.rmdir()


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
    asked = parse(saved, short, args)
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
    if short.print_config:
        given = asked.env if env is None else env_source(env, asked.env).config
        print(dataclasses.replace(asked, env=given).to_json(), end="")
        return 0
    err.print(f"continuing {run_dir} from step {checkpoint.step:,}")
    agent = Agent.load(path, env, config=asked, trust_env=short.trust_env)
    return _learn(agent, run_dir, asked.steps - checkpoint.step)


def _learn(agent: Agent, run_dir: Path, steps: int) -> int:
    """Train with live progress; Ctrl-C ends it cleanly after the step in hand."""
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
        # Not through `err`: the live display moves aside for what goes to sys.stderr.
        print(
            "stopping after this step and saving; press Ctrl-C again to give up at once",
            file=sys.stderr,
        )

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
    for command in _next_commands(run_dir):
        err.print(f"next: {command}")
    return 0


def _next_commands(run_dir: Path) -> list[str]:
    """Return the commands that show what a finished run has learnt."""
    path = shlex.quote(str(run_dir))
    commands = [f"drama eval {path}"]
    if (run_dir / "tensorboard").is_dir():
        commands.append(f"tensorboard --logdir {shlex.quote(str(run_dir / 'tensorboard'))}")
    if (suite := suite_of(run_dir)) is not None:
        commands.append(f"drama report {shlex.quote(str(suite))}")
    return commands


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
