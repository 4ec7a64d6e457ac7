"""Shared by the commands: consoles, argument parser, signals, options of a configuration."""

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
    """Console that leaves a closed pipe to the command."""

    def on_broken_pipe(self) -> None:
        """Raise: Rich would exit with code 1 and leave child processes running."""
        raise BrokenPipeError


err = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
out = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


class Parser(argparse.ArgumentParser):
    """Argument parser that reports an error on one line, without usage text."""

    def error(self, message: str) -> NoReturn:
        """Raise an error that the command line prints on one line.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(message)


def complain(error: Exception) -> None:
    """Print an error on one line."""
    print("drama: error: " + one_line(error), file=sys.stderr)


def escape_unencodable_output() -> None:
    """Print characters that stdout's encoding lacks as escapes, as stderr does."""
    # stdout may be replaced by another stream; other error handlers (surrogateescape) stay.
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None and getattr(sys.stdout, "errors", None) == "strict":
        reconfigure(errors="backslashreplace")


def mute() -> None:
    """Discard further output to closed pipes."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@functools.cache
def _registry() -> tyro.constructors.ConstructorRegistry:
    """Return parsing rules for types that tyro lacks."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def mapping(
        info: tyro.constructors.PrimitiveTypeInfo,
    ) -> tyro.constructors.PrimitiveConstructorSpec[Mapping[str, Any]] | None:
        """Read a mapping from ``name=value`` words or one JSON object."""
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
    """Read ``name=value`` words, with JSON or string values, or one JSON object."""
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
        default: Base configuration.
        args: Options.
        prog: Command name in the help text.

    Raises:
        ConfigError: One line about the first invalid option.
    """
    import tyro

    with _as_config_error():
        return tyro.cli(Config, default=default, args=args, prog=prog, registry=_registry())


T = TypeVar("T")


def parse_known_fields(default: T, args: list[str]) -> T:
    """Apply the options that match fields of the dataclass ``default``; ignore the others.

    Raises:
        ConfigError: One line about the first invalid option.
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
    """Turn tyro's error report and exit into a ConfigError."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_tyro_message(captured.getvalue())) from None


def _tyro_message(text: str) -> str:
    """Return the first paragraph and suggestion of tyro's boxed report."""
    lines = [line.strip("╭╮╰╯│─ \t") for line in text.splitlines()]
    lines = lines[1:]  # drops the title in the frame
    first = lines[: lines.index("")] if "" in lines else lines  # a rule strips to an empty line
    message = " ".join(first) or "invalid options"
    for line, following in itertools.pairwise(lines):
        if line.startswith("Perhaps you meant"):
            message += f"; did you mean {following.split()[0].rstrip(',')}?"
            break
    return message


@contextlib.contextmanager
def signals(handler: Any) -> Iterator[None]:
    """Handle SIGINT, SIGTERM and SIGHUP with ``handler`` within the context.

    SIGHUP, sent when a terminal closes, stays ignored under ``nohup``.
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
    """Discard further output to a closed terminal."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed, or not a file
            if os.isatty(stream.fileno()) or _hung_up(stream.fileno()):
                os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _hung_up(descriptor: int) -> bool:
    """Whether a descriptor belongs to a closed terminal, for which isatty is false."""
    return stat.S_ISCHR(os.fstat(descriptor).st_mode)


@contextlib.contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Show the current step on stderr: in place on a terminal, else line by line."""
    if not err.is_terminal:
        yield err.print
        return
    with err.status("") as shown:
        yield shown.update
