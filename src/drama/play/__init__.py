"""Seen by people: the world model as an environment of its own."""

from drama.play.dream import DreamEnv

__all__ = ["DreamEnv"]
