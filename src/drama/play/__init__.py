"""The world model as an environment that people can play."""

from drama.play.dream import DreamEnv

__all__ = ["DreamEnv"]
