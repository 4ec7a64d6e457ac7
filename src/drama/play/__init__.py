"""World models as environments."""

from drama.play.dream import DreamEnv

__all__ = ["DreamEnv"]
