"""``drama suite``: many runs as one."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from drama.calibration import SECONDS
from drama.cli.common import Parser, err, mute, out, signals, status
from drama.errors import ConfigError
from drama.suite.built_in import BUILT_IN, load_spec
from drama.suite.forecast import forecast
from drama.suite.layout import (
    Cell,
    begin_suite,
    check_vacant,
    is_suite,
    look,
    read_spec,
    read_suite,
)
from drama.suite.local import LocalPool, Plan, SuiteLock, check_counts, plan
from drama.suite.override import parse_override
from drama.suite.ray import RayPool
from drama.suite.runner import Outcome, Pool, Runner
from drama.suite.spec import SuiteSpec
from drama.suite.view import View, report_failures
from drama.text import nearest
from drama.training.schedule import shortfall

MOST_SEEDS = 10_000
"""Seeds that a command may name."""


def suite(args: list[str]) -> int:
    """``drama suite``: run a suite, look at one, show what one consists of."""
    actions = {"run": _run, "status": _status, "show": _show}
    if not args or args[0] in ("-h", "--help"):
        out.print(
            "drama suite run SPEC     start or continue all runs of a suite\n"
            "drama suite status DIR   the state of each run\n"
            "drama suite show SPEC    the suite as TOML, to start your own from\n\n"
            f"SPEC: {', '.join(BUILT_IN)}, a .toml or .json file, or the directory of a suite.\n"
            "`drama suite run --help` lists every option."
        )
        return 0 if args else 2
    if args[0] not in actions:
        near = nearest(args[0], actions)
        hint = f"did you mean suite {near}?" if near else f"there are {', '.join(actions)}"
        raise ConfigError(f"unknown command suite {args[0]!r}; {hint}")
    return actions[args[0]](args[1:])


# -- run ------------------------------------------------------------------------------------------


def _run(args: list[str]) -> int:
    options = _parser().parse_args(args)
    if options.ray is None and options.cpus is not None:
        raise ConfigError("--cpus is for --ray; on this machine, say --jobs N")
    if options.json and not options.dry_run:
        raise ConfigError("--json is for --dry-run")
    spec, directory = _spec_and_directory(options)
    if options.dry_run:
        return _dry_run(options, spec, directory)
    shared = None if options.ray is not None else _plan(options, look(directory, spec))
    pool: Pool
    if options.ray is None:
        # Planned before anything is written: a device may not be there.
        pool = LocalPool(shared or Plan((), 1, 1))
        how = "nothing is to do" if shared is None else shared.describe()
    else:
        pool = RayPool(
            directory,
            spec,
            options.ray,
            cpus=1 if options.cpus is None else options.cpus,
            per_gpu=options.per_gpu,
            jobs=options.jobs,
        )
        how = pool.describe()
    with contextlib.closing(pool):
        if not is_suite(directory):
            check_vacant(directory)
            _check_games(spec)
        with SuiteLock(directory):
            version = begin_suite(directory, spec)
            if version is not None:
                err.print(f"note: this suite was begun with drama {version}")
            err.print(f"suite {spec.name} in {directory}: {how}")
            _warn_of_little(spec)
            runner = Runner(directory, spec, pool, View(err))
            with signals(lambda *_: runner.interrupt()):
                outcome = runner.run()
    try:
        _tell(outcome, directory)
    except BrokenPipeError:  # the work is done, whoever still listens
        mute()
    return outcome.exit_code


def _plan(options: argparse.Namespace, cells: Sequence[Cell]) -> Plan | None:
    """Share out what is to do; None if that is nothing, whatever devices it was made on."""
    check_counts({"jobs": options.jobs, "per-gpu": options.per_gpu})
    todo = [cell for cell in cells if cell.sound and cell.status != "finished"]
    return plan(todo, options.jobs, options.per_gpu) if todo else None


def _dry_run(options: argparse.Namespace, spec: SuiteSpec, directory: Path) -> int:
    """Measure and print; nothing is written."""
    seconds = SECONDS if options.seconds is None else options.seconds
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {seconds:g}")
    cells = look(directory, spec)
    with status() as say:
        found = forecast(cells, _plan(options, cells), seconds=seconds, progress=say)
    _warn_of_little(spec)
    if options.json:
        print(json.dumps(found.to_dict(), allow_nan=False))
        return 0
    out.print(f"{spec.title}, in {directory} (dry run: nothing is written)\n")
    out.print(found.render())
    return 0


def _tell(outcome: Outcome, directory: Path) -> None:
    report_failures(err, outcome.failed)
    counts = [f"{len(outcome.finished)} finished"]
    counts += [f"{len(outcome.failed)} failed"] if outcome.failed else []
    counts += [f"{len(outcome.open)} to be continued"] if outcome.open else []
    out.print(f"suite: {directory}: {', '.join(counts)}")
    if outcome.finished:
        err.print(f"tables and figures: drama report {shlex.quote(str(directory))}")
    if untouched := sum(not cell.sound for cell, _ in outcome.failed):
        err.print(f"{untouched} left alone until moved away; the next call after that begins anew")
    if outcome.interrupted or len(outcome.failed) > untouched:
        err.print(f"go on with: drama suite run {shlex.quote(str(directory))}")


def _warn_of_little(spec: SuiteSpec) -> None:
    """Say which variants have too few updates to learn from, before hours have passed."""
    for variant in spec.variants:
        config = spec.config(variant, spec.games[0], spec.seeds[0])
        if (text := shortfall(config, config.steps)) is not None:
            err.print(f"warning: variant {variant.name}: {text}")


def _check_games(spec: SuiteSpec) -> None:
    """Make each game once, so that a wrong id is told before hours have passed."""
    from drama.envs import make_env

    for game in spec.games:
        make_env(game).close()


def _spec_and_directory(options: argparse.Namespace) -> tuple[SuiteSpec, Path]:
    source = Path(options.spec)
    there = is_suite(source)
    spec = read_spec(source)[0] if there else load_spec(options.spec)
    narrowed = spec.narrowed(
        games=_names(options.games),
        seeds=_seeds(options.seeds),
        steps=options.steps,
        variants=_names(options.variants),
        overrides=dict(map(parse_override, options.set)),
    )
    if there:
        if options.dir is not None and Path(options.dir) != source:
            raise ConfigError(f"{source} is a suite already; --dir is for a new one")
        return narrowed, source
    if options.dir is not None and not options.dir.strip():
        raise ConfigError("--dir is empty; name a directory")
    return narrowed, Path(options.dir) if options.dir is not None else Path("suites") / spec.name


def _parser() -> Parser:
    parser = Parser(
        prog="drama suite run",
        # Options that take several words come behind it, or they would take it as well.
        usage="drama suite run SPEC [options]",
        allow_abbrev=False,
        description="Start or continue all runs of a suite: finished runs are skipped, interrupted "
        "ones go on from their last checkpoint, failed ones are tried again.",
    )
    parser.add_argument(
        "spec",
        metavar="SPEC",
        help=f"{', '.join(BUILT_IN)}, a .toml or .json file, or the directory of a suite",
    )
    parser.add_argument("--dir", help="directory of the suite (default: suites/NAME)")
    parser.add_argument("--games", nargs="+", metavar="GAME", help="these games only")
    parser.add_argument("--seeds", nargs="+", metavar="SEED", help="these seeds only: 0 1 or 0-4")
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="these variants only")
    parser.add_argument("--steps", type=int, help="environment steps of each run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a setting for all variants, such as replay.capacity=50000; may be repeated",
    )
    parser.add_argument("--jobs", type=int, help="runs at a time (default: as the machine allows)")
    parser.add_argument("--per-gpu", type=int, help="runs at a time on each GPU (default: 1)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="measure what the suite would cost here in hours, memory and disk; run nothing",
    )
    parser.add_argument(
        "--seconds", type=float, help="about how long --dry-run may measure (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="print a dry run as JSON")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="on a Ray cluster; without an address, on a Ray of this machine's own",
    )
    parser.add_argument("--cpus", type=int, help="with --ray: CPU cores of each run (default: 1)")
    return parser


def _names(words: list[str] | None) -> list[str] | None:
    """Names apart by spaces or commas."""
    if words is None:
        return None
    return [name for word in words for name in word.split(",") if name]


def _seeds(words: list[str] | None) -> list[int] | None:
    """Seeds apart by spaces or commas, and ranges of them with both ends."""
    if words is None:
        return None
    seeds: list[int] = []
    for name in _names(words) or []:
        first, dash, last = name.partition("-")
        try:
            lowest = int(first)
            highest = int(last) if dash else lowest
        except ValueError:
            raise ConfigError(
                f"--seeds takes numbers and ranges such as 0-4, got {name!r}"
            ) from None
        if highest < lowest:
            raise ConfigError(f"--seeds {name}: the range is empty; the smaller number comes first")
        if len(seeds) + highest - lowest >= MOST_SEEDS:
            raise ConfigError(f"--seeds {name}: more than {MOST_SEEDS:,} seeds")
        seeds += range(lowest, highest + 1)
    return seeds


# -- status, show ---------------------------------------------------------------------------------


def _status(args: list[str]) -> int:
    parser = Parser(prog="drama suite status", description="Tell the state of each run of a suite.")
    parser.add_argument("dir", metavar="DIR", help="directory of the suite")
    state = read_suite(Path(parser.parse_args(args).dir))
    for cell in state.cells:
        if cell.status != "finished":
            reason = f": {cell.reason}" if cell.reason else ""
            out.print(f"{cell.status:<11} {cell.name}{reason}")
            continue
        out.print(f"{cell.status:<11} {cell.name}: mean return {cell.evaluation()['mean']:.3g}")
    counts = ", ".join(f"{count} {status}" for status, count in state.counts().items())
    out.print(f"{state.spec.title} in {state.directory}: {counts}")
    return 0


def _show(args: list[str]) -> int:
    parser = Parser(
        prog="drama suite show", description="Print a suite as TOML, to start your own from."
    )
    parser.add_argument("spec", metavar="SPEC", help=f"{', '.join(BUILT_IN)}, a file or a suite")
    source = parser.parse_args(args).spec
    spec = read_spec(Path(source))[0] if is_suite(Path(source)) else load_spec(source)
    out.print(spec.to_toml().rstrip())
    return 0
