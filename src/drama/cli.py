"""The ``drama`` command: train, eval, doctor.

A user's mistake costs one line on stderr and exit code 2. Exit code 1 means that training
itself failed (NaN), 130 that it was interrupted and saved.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tyro
from rich.console import Console

from drama import __version__, presets
from drama.agent import Agent, find_checkpoint
from drama.config import Config
from drama.dynamics import check_registered, registered
from drama.errors import ConfigError, DramaError, NonFiniteError
from drama.evaluation import EvaluationResult
from drama.files import write_json
from drama.training.device import pick_dtype
from drama.training.rundir import fresh_run_dir
from drama.training.trainer import Event

CHANGEABLE = ("steps", "device", "training.", "evaluation.", "world_model.dynamics.backend")
"""Settings that may differ when a run is continued: they do not alter what was learnt so far."""
FIXED_TRAINING = ("training.warmup_steps", "training.world_model_ratio", "training.behaviour_ratio")
"""Exceptions: these decide which updates are due, so they stay."""

err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
out = Console(highlight=False, soft_wrap=True, markup=False)


class _Parser(argparse.ArgumentParser):
    """Answers a mistake with one line instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    commands = {"train": train, "eval": evaluate, "doctor": doctor}
    try:
        if not args or args[0] in ("-h", "--help"):
            out.print(_usage())
            return 0 if args else 2
        if args[0] == "--version":
            out.print(f"drama {__version__}")
            return 0
        if args[0] not in commands:
            near = difflib.get_close_matches(args[0], commands, n=1, cutoff=0.0)[0]
            raise ConfigError(f"unknown command {args[0]!r}; did you mean {near}?")
        return commands[args[0]](args[1:])
    except NonFiniteError as error:
        _complain(error)
        return 1
    except DramaError as error:
        _complain(error)
        return 2
    except KeyboardInterrupt:
        print("drama: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone (`drama ... | head`): nothing left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _complain(error: Exception) -> None:
    print("drama: error: " + " ".join(str(error).split()), file=sys.stderr)


def _usage() -> str:
    return f"""drama {__version__}: world-model reinforcement learning with Mamba dynamics

  drama train [PRESET] --env ID [--steps N] [--seed S] [--dynamics NAME] [--run-dir DIR]
              [--section.field VALUE ...]
  drama train --resume DIR       continue a run from its last checkpoint
  drama eval DIR [--episodes N]  play whole episodes with a trained agent
  drama doctor [--env ID]        what this machine would use, what each preset costs here;
                                 check an environment

Presets: {", ".join(presets.PRESETS)}. `drama COMMAND --help` lists every option."""


# -- train ----------------------------------------------------------------------------------------


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
    directory = (
        Path(known.run_dir)
        if known.run_dir is not None
        else fresh_run_dir(Path("runs"), config.env.id, config.preset, config.seed)
    )
    agent = Agent(config=config)
    return _learn(agent, directory, config.steps)


def _split_train_args(args: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Take out the options that are not fields of the configuration, or short for one."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--run-dir")
    parser.add_argument("--resume")
    parser.add_argument("--env")
    parser.add_argument("--dynamics")
    return parser.parse_known_args(args)


def _parse_config(default: Config, short: argparse.Namespace, args: list[str]) -> Config:
    """Apply ``--env``, ``--dynamics`` and ``--section.field VALUE`` options to ``default``.

    Raises:
        ConfigError: One line about the first thing that is wrong.
    """
    if short.env is not None:
        default = dataclasses.replace(default, env=dataclasses.replace(default.env, id=short.env))
    if short.dynamics is not None:
        check_registered(short.dynamics)
        model = default.world_model
        dynamics = dataclasses.replace(model.dynamics, name=short.dynamics)
        default = dataclasses.replace(
            default, world_model=dataclasses.replace(model, dynamics=dynamics)
        )
    if any(a in ("-h", "--help") for a in args):
        out.print(
            "Beside the options below: --env ID, --dynamics NAME "
            f"({', '.join(registered())}), --run-dir DIR, --resume DIR\n"
        )
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            config: Config = tyro.cli(
                Config, default=default, args=args, prog="drama train [PRESET]"
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_tyro_message(captured.getvalue())) from None
    name = config.world_model.dynamics.name
    if short.dynamics not in (None, name):
        raise ConfigError(
            f"--dynamics {short.dynamics} and --world-model.dynamics.name {name}: which one?"
        )
    return config


def _tyro_message(text: str) -> str:
    """Boil tyro's boxed report down to its first paragraph and its first suggestion."""
    lines = [line.strip("╭╮╰╯│─ \t") for line in text.splitlines()]
    lines = lines[1:]  # the title in the frame
    first = lines[: lines.index("")] if "" in lines else lines  # a rule strips to nothing
    message = " ".join(first) or "invalid options"
    for line, following in itertools.pairwise(lines):
        if line.startswith("Perhaps you meant"):
            message += f"; did you mean {following.split()[0]}?"
            break
    return message


def _resume(path: Path, short: argparse.Namespace, args: list[str]) -> int:
    checkpoint, run_dir = find_checkpoint(path)
    if run_dir is None or not checkpoint.has("loop"):
        raise ConfigError(
            f"{path} holds what plays but not the run it came from: nothing to resume"
        )
    saved = Config.from_json(checkpoint.text("config.json"))
    asked = _parse_config(saved, short, args)
    taken, refused = _compare(saved, asked)
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
    agent = Agent.load(path, config=asked)
    return _learn(agent, run_dir, asked.steps - checkpoint.step)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _compare(saved: Config, asked: Config) -> tuple[list[str], list[str]]:
    """Return the differing settings that may change, and those that may not, as text."""
    before, after = _flat(dataclasses.asdict(saved)), _flat(dataclasses.asdict(asked))
    taken: list[str] = []
    refused: list[str] = []
    for key, value in after.items():
        if value == before[key]:
            continue
        free = key.startswith(CHANGEABLE) and key not in FIXED_TRAINING
        text = f"{key}={value} (the run has {before[key]})"
        (taken if free else refused).append(text)
    return taken, refused


def _learn(agent: Agent, run_dir: Path, steps: int) -> int:
    """Train with live progress; Ctrl-C ends it cleanly after the step in hand."""
    config = agent.config
    size = sum(p.numel() for p in agent.world_model.parameters()) / 1e6
    precision = str(pick_dtype(config.training.precision, agent.device)).removeprefix("torch.")
    err.print(
        f"drama {__version__}: preset {config.preset}, {config.env.id}, seed {config.seed}, "
        f"{size:.1f} M world-model parameters ({config.world_model.dynamics.name}), "
        f"{agent.device} {precision}"
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

    with _signals(on_signal):
        try:
            agent.learn(steps, run_dir=run_dir, progress_bar=True, listeners=[stop_if_interrupted])
        except KeyboardInterrupt:
            err.print(f"given up; the last checkpoint stands: drama train --resume {run_dir}")
            return 130
    if interrupted:
        err.print(str(agent.time_split))
        err.print(
            f"saved at step {agent.num_timesteps:,}; continue with: drama train --resume {run_dir}"
        )
        return 130
    if config.evaluation.episodes:
        _evaluate_and_report(agent, run_dir, ("greedy",))
    out.print(str(agent.time_split))
    out.print(f"run: {run_dir}")
    return 0


@contextlib.contextmanager
def _signals(handler: Any) -> Iterator[None]:
    """Handle SIGINT and SIGTERM with ``handler`` for a while."""
    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)


# -- eval -----------------------------------------------------------------------------------------


def evaluate(args: list[str]) -> int:
    """``drama eval``: play whole episodes with a trained agent."""
    parser = _Parser(
        prog="drama eval",
        allow_abbrev=False,
        description="Play whole episodes (no life-loss ends), greedily and with drawn actions. "
        "Writes eval.json into the run directory.",
    )
    parser.add_argument("run", metavar="DIR", help="run directory or checkpoint")
    parser.add_argument("--episodes", type=int, help="episodes of each kind (default: the run's)")
    parser.add_argument("--num-envs", type=int, help="environments side by side")
    parser.add_argument("--seed", type=int, help="seed of the first environment")
    parser.add_argument("--mode", choices=("both", "greedy", "sampled"), default="both")
    parser.add_argument("--device", help="auto, cpu, cuda or mps (default: the run's)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(args)
    for name in ("episodes", "num_envs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    _, run_dir = find_checkpoint(Path(options.run))
    agent = Agent.load(options.run, device=options.device)
    modes = ("greedy", "sampled") if options.mode == "both" else (options.mode,)
    _evaluate_and_report(
        agent,
        run_dir,
        modes,
        as_json=options.json,
        episodes=options.episodes,
        num_envs=options.num_envs,
        seed=options.seed,
    )
    return 0


def _evaluate_and_report(
    agent: Agent,
    run_dir: Path | None,
    modes: Sequence[str],
    *,
    as_json: bool = False,
    **options: Any,
) -> None:
    results = {}
    for mode in modes:
        with err.status(f"evaluating ({mode})"):
            result = agent.evaluate(greedy=mode == "greedy", **options)
        results[mode] = result.to_dict()
        if not as_json:
            out.print(_summary(result))
    if run_dir is not None:
        write_json(run_dir / "eval.json", results)
        if not as_json:
            out.print(f"written to {run_dir / 'eval.json'}")
    if as_json:
        print(json.dumps(results))


def _summary(result: EvaluationResult) -> str:
    text = (
        f"{result.mode}: mean return {result.mean:.3f} over {len(result.episodes)} episodes "
        f"(standard deviation {result.std:.3f})"
    )
    if result.optimum is not None:
        text += f", optimum {result.optimum:g}"
    if result.normalised is not None:
        text += f", human-normalised {result.normalised:.3f}"
    return text


# -- doctor ---------------------------------------------------------------------------------------


def doctor(args: list[str]) -> int:
    """``drama doctor``: say what would be used here, and its cost; check an environment."""
    from drama.calibration import ATARI, SECONDS, calibrate
    from drama.doctor import inspect_machine, render_calibration
    from drama.envs import check_env

    parser = _Parser(
        prog="drama doctor",
        allow_abbrev=False,
        description="Say which device, precision and backend would be used and why; measure what "
        "each preset would cost here in time and memory; with --env, run an environment for some "
        "hundred steps and report what the agent would see.",
    )
    parser.add_argument(
        "--env", help=f"environment id to check and to measure with (measured without it: {ATARI})"
    )
    parser.add_argument("--steps", type=int, default=300, help="steps of the check")
    parser.add_argument("--seed", type=int, default=0, help="seed of the check")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--preset", help="measure this preset only (default: all of them)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        help="about how long to measure; what takes longer is measured on smaller batches and "
        f"marked as estimated (default: {SECONDS:g})",
    )
    parser.add_argument("--no-calibration", action="store_true", help="measure nothing")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    options = parser.parse_args(args)
    if options.steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {options.steps}")
    if not 0 < options.seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {options.seconds:g}")
    known = presets.PRESETS
    if options.preset is not None:
        presets.preset(options.preset)  # one that there is
        known = {options.preset: known[options.preset]}

    machine = inspect_machine(options.device)
    found: dict[str, Any] = {"drama": __version__, "machine": machine.to_dict()}
    if not options.json:
        out.print(machine.render())
    if options.env is not None:
        report = check_env(options.env, steps=options.steps, seed=options.seed)
        found["environment"] = dataclasses.asdict(report)
        if not options.json:
            out.print(f"\n{report.render()}")
    if not options.no_calibration:
        with _status() as say:
            calibration = calibrate(
                known,
                env=options.env,
                device=options.device,
                seconds=options.seconds,
                progress=say,
            )
        found["calibration"] = calibration.to_dict()
        if not options.json:
            out.print(f"\n{render_calibration(calibration)}")
    if options.json:
        print(json.dumps(found, allow_nan=False))
    return 0


@contextlib.contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """Say on standard error what is being done: in one place of a terminal, else line by line."""
    if not err.is_terminal:
        yield err.print
        return
    with err.status("") as status:
        yield status.update


if __name__ == "__main__":
    sys.exit(main())
