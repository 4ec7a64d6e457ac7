"""What several commands need: consoles, the parser, signals, the options of a configuration."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import signal
import stat
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from rich.console import Console

from drama.config import Config
from drama.errors import ConfigError
from drama.text import one_line

if TYPE_CHECKING:
    import tyro


class _Console(Console):
    """Leaves it to the command what happens when its reader has gone."""

    def on_broken_pipe(self) -> None:
        """Raise, where Rich would end the process with exit code 1 and its children go on."""
        raise BrokenPipeError


err = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
out = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Parser(argparse.ArgumentParser):
    """Answers a mistake with one line instead of the usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise what the command line answers with one line.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(message)


def complain(error: Exception) -> None:
    """Print the one line that a mistake costs."""
    print("drama: error: " + one_line(error), file=sys.stderr)


def escape_what_stdout_cannot_say() -> None:
    """Let text that the terminal's encoding lacks come out as escapes, as it does on stderr."""
    # Whoever calls us may have put another stream there; and where the system's own way of
    # writing paths of any bytes is in place, it stays.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and getattr(sys.stdout, "errors", None) == "strict":
        reconfigure(errors="backslashreplace")


def mute() -> None:
    """Send nowhere what is still to be said where nobody reads any more."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@functools.cache
def _registry() -> tyro.constructors.ConstructorRegistry:
    """Parsing rules of options that tyro does not have."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def mapping(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Mapping[str, Any]] | None:
        """Let a mapping be given as ``name=value`` words or as one JSON object."""
        if typing.get_origin(info.type) is not Mapping:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs="*",
            metavar="NAME=VALUE|JSON",
            instance_from_str=_read_mapping,
            is_instance=lambda value: isinstance(value, Mapping),
            str_from_instance=lambda value: [f"{k}={json.dumps(v)}" for k, v in value.items()],
        )

    return registry


def _read_mapping(words: list[str]) -> dict[str, Any]:
    """Read ``name=value`` words, the values JSON or else strings, or one JSON object."""
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return dict(json.loads(words[0]))
    found: dict[str, Any] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise ValueError(f"{word!r} is neither name=value nor a JSON object")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def parse_fields(default: Config, args: list[str], prog: str) -> Config:
    """Apply ``--section.field VALUE`` options to ``default``.

    Args:
        default: The configuration without them.
        args: The options.
        prog: Command, for the help text.

    Raises:
        ConfigError: One line about the first thing that is wrong.
    """
    import tyro

    with _as_config_error():
        return tyro.cli(Config, default=default, args=args, prog=prog, registry=_registry())


T = TypeVar("T")


def parse_known_fields(default: T, args: list[str]) -> T:
    """Apply those options that ``default``, a dataclass, has fields for; leave out the others.

    Raises:
        ConfigError: One line about the first thing that is wrong.
    """
    import tyro

    with _as_config_error():
        return tyro.cli(
            type(default),
            default=default,
            args=args,
            return_unknown_args=True,
            registry=_registry(),
        )[0]


@contextlib.contextmanager
def _as_config_error() -> Iterator[None]:
    """Turn the report with which tyro ends the process into a ConfigError."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_tyro_message(captured.getvalue())) from None


def _tyro_message(text: str) -> str:
    """Boil tyro's boxed report down to its first paragraph and its first suggestion."""
    lines = [line.strip("╭╮╰╯│─ \t") for line in text.splitlines()]
    lines = lines[1:]  # the title in the frame
    first = lines[: lines.index("")] if "" in lines else lines  # a rule strips to nothing
    message = " ".join(first) or "invalid options"
    for line, following in itertools.pairwise(lines):
        if line.startswith("Perhaps you meant"):
            message += f"; did you mean {following.split()[0].rstrip(',')}?"
            break
    return message


@contextlib.contextmanager
def signals(handler: Any) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP with ``handler`` for a while.

    SIGHUP, which comes when a terminal is closed, stays ignored where ``nohup`` has seen to that.
    """
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows

    def hang_up(signum: int, frame: object) -> None:
        leave_terminal()
        handler(signum, frame)

    previous = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        previous[hangup] = signal.signal(hangup, hang_up)
    try:
        yield
    finally:
        for signum, old in previous.items():
            signal.signal(signum, old)


def leave_terminal() -> None:
    """Send nowhere what would be written to a terminal that has been closed."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # already closed, or no file
            if os.isatty(stream.fileno()) or _hung_up(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _hung_up(descriptor: int) -> bool:
    """Whether a descriptor is of a terminal that is gone, which is no terminal any more."""
    return stat.S_ISCHR(os.fstat(descriptor).st_mode)


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Say on standard error what is being done: in one place of a terminal, else line by line."""
    if not err.is_terminal:
        yield err.print
        return
    with err.status("") as shown:
        yield shown.update
