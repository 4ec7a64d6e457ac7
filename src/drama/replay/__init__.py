"""Past experience: the ring buffer, the rules by which windows are drawn, and their shifts."""

from drama.replay.augment import shift_frames
from drama.replay.buffer import Purpose, ReplayBuffer
from drama.replay.sampling import (
    dfs_behaviour_scores,
    dfs_world_model_scores,
    draw,
    learnt_first_scores,
    uniform_scores,
)

__all__ = [
    "Purpose",
    "ReplayBuffer",
    "dfs_behaviour_scores",
    "dfs_world_model_scores",
    "draw",
    "learnt_first_scores",
    "shift_frames",
    "uniform_scores",
]
