"""Experiments on single runs: scripts, their log and its figures; the package needs none of it."""

from pathlib import Path

LAB = Path(__file__).resolve().parent
LOG = "log.md"
"""The page in :data:`LAB` whose marked blocks the scripts write."""
