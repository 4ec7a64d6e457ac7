"""Table of commands, and their common error handling.

A user error prints one line on stderr and exits with code 2. Exit code 1 means that training failed
(NaN, or a run of a suite), 130 that it was interrupted and saved.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from drama import presets
from drama.cli.common import complain, escape_unencodable_output, mute, out
from drama.errors import ConfigError, DramaError, NonFiniteError
from drama.importing import search_here
from drama.text import nearest
from drama.version import __version__


class Command(NamedTuple):
    """A command of ``drama``."""

    run: Callable[[list[str]], int]
    """Takes the arguments after the command's name; returns the exit code."""
    usage: str
    """Lines in the overview, unindented."""


def _command(name: str) -> Callable[[list[str]], int]:
    """Return a command that is imported when it runs: importing torch is slow."""

    def run(args: list[str]) -> int:
        module = importlib.import_module(f"drama.cli.{name}")
        return int(getattr(module, name)(args))

    return run


def _train(args: list[str]) -> int:
    if {"-h", "--help", "--help-all"} & set(args):
        from drama.cli.options import show_help

        show_help(args)
        return 0
    return _command("train")(args)


COMMANDS: dict[str, Command] = {
    "train": Command(
        _train,
        """drama train [PRESET] --env ID [--steps N] [--seed S] [--run-dir DIR] [--config FILE]
            [--section.field VALUE ...]
drama train --resume DIR       continue a run from its last checkpoint""",
    ),
    "eval": Command(
        _command("evaluate"),
        "drama eval DIR [--episodes N]  evaluate a trained agent on whole episodes",
    ),
    "suite": Command(
        _command("suite"),
        "drama suite run SPEC           train all runs of a suite; resume and retry as needed",
    ),
    "report": Command(
        _command("report"),
        "drama report DIR               write tables, figures and a page of a suite's results",
    ),
    "export": Command(
        _command("export"),
        "drama export RUN --web DIR     write a page to play its dream; or --onnx, --torch FILE",
    ),
    "presets": Command(
        _command("presets"),
        "drama presets [--speed]        list presets: size, purpose, speed on this machine",
    ),
    "doctor": Command(
        _command("doctor"),
        """drama doctor [--env ID]        show device, precision and backend, measure each preset;
                               check an environment""",
    ),
}
"""Commands by name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        escape_unencodable_output()
        search_here()
        if not args or args[0] in ("-h", "--help"):
            out.print(_usage())
            return 0 if args else 2
        if args[0] == "--version":
            out.print(f"drama {__version__}")
            return 0
        if args[0] not in COMMANDS:
            near = nearest(args[0], COMMANDS)
            hint = f"did you mean {near}?" if near else f"choose from {', '.join(COMMANDS)}"
            raise ConfigError(f"unknown command {args[0]!r}; {hint}")
        return COMMANDS[args[0]].run(args[1:])
    except NonFiniteError as error:
        complain(error)
        return 1
    except DramaError as error:
        complain(error)
        return 2
    except KeyboardInterrupt:
        print("drama: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output is gone (`drama ... | head`): success for commands that only
        # print, an interruption for commands that train.
        mute()
        works = args[:1] == ["train"] or args[:2] == ["suite", "run"]
        reads = {"-h", "--help", "--help-all", "--dry-run", "--print-config"}
        return 130 if works and not reads & set(args) else 0
    except OSError as error:
        # Such as a full disk or an unreadable directory.
        what = error.strerror or str(error) or type(error).__name__
        complain(OSError(f"{error.filename}: {what}" if error.filename else what))
        return 2


def _usage() -> str:
    lines = "\n".join(command.usage for command in COMMANDS.values()).splitlines()
    overview = "\n".join(f"  {line}" for line in lines)
    return f"""drama {__version__}: world-model reinforcement learning with Mamba dynamics

{overview}

Presets: {", ".join(presets.PRESETS)}. `drama COMMAND --help` lists all options."""
