"""The ``drama`` command: one module per command, a table that names them."""

from drama.cli.app import main

__all__ = ["main"]
