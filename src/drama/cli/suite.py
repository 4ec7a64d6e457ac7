"""``drama suite``: run, inspect and print suites."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from drama.cli.common import Parser, err, mute, out, signals, status
from drama.errors import ConfigError
from drama.machine.calibration import SECONDS
from drama.suite.built_in import BUILT_IN, load_spec
from drama.suite.environments import check_games, environments
from drama.suite.forecast import forecast
from drama.suite.layout import (
    Cell,
    begin_suite,
    check_vacant,
    is_suite,
    read_spec,
    read_suite,
    scan,
)
from drama.suite.local import LocalPool, Plan, SuiteLock, check_counts, plan
from drama.suite.override import parse_override
from drama.suite.ray import RayPool
from drama.suite.runner import Outcome, Pool, Runner
from drama.suite.spec import SuiteSpec
from drama.suite.view import View, report_failures
from drama.text import nearest, plural
from drama.training.schedule import shortfall
from drama.trust import check, remember

TRUST = "add --trust-env"
"""How the code that a suite names is trusted."""
MOST_SEEDS = 10_000
"""Maximum number of seeds on a command line."""


SKIPPED = "move the directory away, then run the suite again"
"""How to repair a run that the suite must not modify."""


def suite(args: list[str]) -> int:
    """``drama suite``: run, inspect or print a suite."""
    actions = {"run": _run, "status": _status, "show": _show}
    if not args or args[0] in ("-h", "--help"):
        out.print(
            "drama suite run SPEC     start or continue all runs of a suite\n"
            "drama suite status DIR   print the status of each run\n"
            "drama suite show SPEC    print a suite as TOML, a template for your own\n\n"
            f"SPEC: {', '.join(BUILT_IN)}, a .toml or .json file, or a suite directory.\n"
            "`drama suite run --help` lists all options."
        )
        return 0 if args else 2
    if args[0] not in actions:
        near = nearest(args[0], actions)
        hint = f"did you mean suite {near}?" if near else f"choose from {', '.join(actions)}"
        raise ConfigError(f"unknown command suite {args[0]!r}; {hint}")
    return actions[args[0]](args[1:])


# -- run ------------------------------------------------------------------------------------------


def _run(args: list[str]) -> int:
    options = _parser().parse_args(args)
    if options.ray is None and options.cpus is not None:
        raise ConfigError("--cpus needs --ray; on this machine, use --jobs N")
    if options.json and not options.dry_run:
        raise ConfigError("--json needs --dry-run")
    spec, directory = _spec_and_directory(options)
    cells = scan(directory, spec)
    _check_trust(directory, cells, trusted=options.trust_env)
    if options.dry_run:
        return _dry_run(options, spec, directory)
    shared = None if options.ray is not None else _plan(options, cells)
    pool: Pool
    if options.ray is None:
        # Planned before writing anything: a device may be missing.
        pool = LocalPool(shared or Plan((), 1, 1))
        how = "nothing left to run" if shared is None else shared.describe()
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
        check_games(cells)
        with SuiteLock(directory):
            version = begin_suite(directory, spec)
            for c in environments(cells):  # continued on this account without --trust-env
                remember(c.id, c.kwargs, c.wrappers)
            if version is not None:
                err.print(f"note: drama {version} created this suite")
            err.print(f"suite {spec.name} in {directory}: {how}")
            _warn_of_few_updates(spec)
            runner = Runner(directory, spec, pool, View(err))
            with signals(lambda *_: runner.interrupt()):
                outcome = runner.run()
    try:
        _print_outcome(outcome, directory)
    except BrokenPipeError:  # the runs are done; only the reader of the output is gone
        mute()
    return outcome.exit_code


def _check_trust(directory: Path, cells: Sequence[Cell], *, trusted: bool) -> None:
    """Refuse code that the directory of a suite names, unless the user trusts it.

    A suite that begins here consists of the user's own words: a file and options.
    """
    if is_suite(directory):
        where = directory / "suite.json"
        for c in environments(cells):
            check(c.id, c.kwargs, c.wrappers, trusted=trusted, where=where, remedy=TRUST)


def _plan(options: argparse.Namespace, cells: Sequence[Cell]) -> Plan | None:
    """Plan the unfinished runs; None if there are none."""
    check_counts({"jobs": options.jobs, "per-gpu": options.per_gpu})
    todo = [cell for cell in cells if cell.resumable and cell.status != "finished"]
    return plan(todo, options.jobs, options.per_gpu) if todo else None


def _dry_run(options: argparse.Namespace, spec: SuiteSpec, directory: Path) -> int:
    """Measure and print the cost of the suite; nothing is written."""
    seconds = SECONDS if options.seconds is None else options.seconds
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--seconds must be positive, got {seconds:g}")
    cells = scan(directory, spec)
    check_games(cells)
    with status() as show:
        found = forecast(cells, _plan(options, cells), seconds=seconds, progress=show)
    _warn_of_few_updates(spec)
    if options.json:
        print(json.dumps(found.to_dict(), allow_nan=False))
        return 0
    out.print(f"{spec.title}, in {directory} (dry run: nothing is written)\n")
    out.print(found.render())
    return 0


def _print_outcome(outcome: Outcome, directory: Path) -> None:
    report_failures(err, outcome.failed)
    counts = [f"{len(outcome.finished)} finished"]
    counts += [f"{len(outcome.failed)} failed"] if outcome.failed else []
    counts += [f"{len(outcome.open)} to be continued"] if outcome.open else []
    out.print(f"suite: {directory}: {', '.join(counts)}")
    if outcome.finished:
        err.print(f"tables and figures: drama report {shlex.quote(str(directory))}")
    if skipped := sum(not cell.resumable for cell, _ in outcome.failed):
        err.print(f"{plural(skipped, 'run')} skipped: {SKIPPED}")
    if outcome.interrupted or len(outcome.failed) > skipped:
        err.print(f"continue with: drama suite run {shlex.quote(str(directory))}")


def _warn_of_few_updates(spec: SuiteSpec) -> None:
    """Warn of variants and games with too few updates to learn."""
    by_steps: dict[int | None, list[str]] = {}
    for game in spec.games:
        by_steps.setdefault(spec.steps_of(game), []).append(game)
    for variant in spec.variants:
        for games in by_steps.values():
            config = spec.config(variant, games[0], spec.seeds[0])
            if (text := shortfall(config, config.steps)) is not None:
                where = f" in {', '.join(games)}" if len(by_steps) > 1 else ""
                err.print(f"warning: variant {variant.name}{where}: {text}")


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
            raise ConfigError(f"{source} already is a suite; --dir is for new suites")
        return narrowed, source
    if options.dir is not None and not options.dir.strip():
        raise ConfigError("--dir is empty; name a directory")
    return narrowed, Path(options.dir) if options.dir is not None else Path("suites") / spec.name


def _parser() -> Parser:
    parser = Parser(
        prog="drama suite run",
        # SPEC comes first: options with several values would consume it.
        usage="drama suite run SPEC [options]",
        allow_abbrev=False,
        description="Start or continue all runs of a suite. Finished runs are skipped, interrupted "
        "runs continue from their last checkpoint, failed runs are retried.",
    )
    parser.add_argument(
        "spec",
        metavar="SPEC",
        help=f"{', '.join(BUILT_IN)}, a .toml or .json file, or a suite directory",
    )
    parser.add_argument("--dir", help="directory of the suite (default: suites/NAME)")
    parser.add_argument("--games", nargs="+", metavar="GAME", help="run only these games")
    parser.add_argument(
        "--seeds", nargs="+", metavar="SEED", help="run only these seeds: 0 1 or 0-4"
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="run only these variants")
    parser.add_argument("--steps", metavar="N", type=int, help="environment steps of each run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="setting for all variants, such as replay.capacity=50000; repeatable",
    )
    parser.add_argument(
        "--trust-env",
        action="store_true",
        help="allow importing code that a suite directory names for its environments",
    )
    parser.add_argument(
        "--jobs", metavar="N", type=int, help="parallel runs (default: by cores, memory or GPUs)"
    )
    parser.add_argument(
        "--per-gpu", metavar="N", type=int, help="parallel runs per GPU (default: 1)"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="measure time, memory and disk of the suite on this machine; run nothing",
    )
    parser.add_argument(
        "--seconds",
        metavar="S",
        type=float,
        help="duration of the --dry-run measurement in s (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print the --dry-run result as JSON")
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="run on a Ray cluster; without an address, on a local Ray",
    )
    parser.add_argument(
        "--cpus", metavar="N", type=int, help="with --ray: CPU cores per run (default: 1)"
    )
    return parser


def _names(words: list[str] | None) -> list[str] | None:
    """Split names at spaces and commas."""
    if words is None:
        return None
    return [name for word in words for name in word.split(",") if name]


def _seeds(words: list[str] | None) -> list[int] | None:
    """Read seeds separated by spaces or commas, and inclusive ranges."""
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
            raise ConfigError(f"--seeds {name}: empty range; the smaller number comes first")
        if len(seeds) + highest - lowest >= MOST_SEEDS:
            raise ConfigError(f"--seeds {name}: more than {MOST_SEEDS:,} seeds")
        seeds += range(lowest, highest + 1)
    return seeds


# -- status, show ---------------------------------------------------------------------------------


def _status(args: list[str]) -> int:
    parser = Parser(
        prog="drama suite status", description="Print the status of each run of a suite."
    )
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
        prog="drama suite show", description="Print a suite as TOML, a template for your own."
    )
    parser.add_argument(
        "spec",
        metavar="SPEC",
        help=f"{', '.join(BUILT_IN)}, a .toml or .json file, or a suite directory",
    )
    source = parser.parse_args(args).spec
    spec = read_spec(Path(source))[0] if is_suite(Path(source)) else load_spec(source)
    out.print(spec.to_toml().rstrip())
    return 0
