"""The table of commands, and what all of them answer alike.

A user's mistake costs one line on stderr and exit code 2. Exit code 1 means that training
itself failed (NaN, or a run of a suite), 130 that it was interrupted and saved.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from drama import presets
from drama.cli.common import complain, escape_what_stdout_cannot_say, mute, out
from drama.errors import ConfigError, DramaError, NonFiniteError
from drama.importing import search_here
from drama.text import nearest
from drama.version import __version__


class Command(NamedTuple):
    """One command of ``drama``."""

    run: Callable[[list[str]], int]
    """Takes the arguments after the command's name, returns the exit code."""
    usage: str
    """Its lines in the overview, without indentation of their own."""


def _command(name: str) -> Callable[[list[str]], int]:
    """Return a command that is imported when it runs: most of them need torch, which is slow."""

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
        "drama eval DIR [--episodes N]  play whole episodes with a trained agent",
    ),
    "suite": Command(
        _command("suite"),
        "drama suite run SPEC           train many agents; skip, resume, retry as needed",
    ),
    "report": Command(
        _command("report"),
        "drama report DIR               tables, figures and a page of what a suite has come to",
    ),
    "presets": Command(
        _command("presets"),
        "drama presets [--speed]        the presets: size, purpose, speed on this machine",
    ),
    "doctor": Command(
        _command("doctor"),
        """drama doctor [--env ID]        what this machine would use, what each preset costs here;
                               check an environment""",
    ),
}
"""Every command by its name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        escape_what_stdout_cannot_say()
        search_here()
        if not args or args[0] in ("-h", "--help"):
            out.print(_usage())
            return 0 if args else 2
        if args[0] == "--version":
            out.print(f"drama {__version__}")
            return 0
        if args[0] not in COMMANDS:
            near = nearest(args[0], COMMANDS)
            hint = f"did you mean {near}?" if near else f"there are {', '.join(COMMANDS)}"
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
        # Whoever read our output has gone (`drama ... | head`): nothing left to say. What was to
        # be read is no loss; work that was cut short is an interruption.
        mute()
        works = args[:1] == ["train"] or args[:2] == ["suite", "run"]
        reads = {"-h", "--help", "--help-all", "--dry-run", "--print-config"}
        return 130 if works and not reads & set(args) else 0
    except OSError as error:
        # What no command foresaw: a full disk, a directory that may not be read.
        what = error.strerror or str(error) or type(error).__name__
        complain(OSError(f"{error.filename}: {what}" if error.filename else what))
        return 2


def _usage() -> str:
    lines = "\n".join(command.usage for command in COMMANDS.values()).splitlines()
    overview = "\n".join(f"  {line}" for line in lines)
    return f"""drama {__version__}: world-model reinforcement learning with Mamba dynamics

{overview}

Presets: {", ".join(presets.PRESETS)}. `drama COMMAND --help` lists every option."""
