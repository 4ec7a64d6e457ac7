"""The ``drama`` command, with one module per subcommand."""

from drama.cli.app import main

__all__ = ["main"]
