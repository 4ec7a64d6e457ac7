"""Experience replay: the ring buffer, its samplers, and random-shift augmentation."""

from drama.replay.augment import shift_frames
from drama.replay.buffer import ReplayBuffer
from drama.replay.sampling import (
    SAMPLERS,
    Purpose,
    Sampler,
    dfs_behaviour_scores,
    dfs_trained_scores,
    dfs_world_model_scores,
    sample_indices,
    uniform_scores,
)

__all__ = [
    "SAMPLERS",
    "Purpose",
    "ReplayBuffer",
    "Sampler",
    "dfs_behaviour_scores",
    "dfs_trained_scores",
    "dfs_world_model_scores",
    "sample_indices",
    "shift_frames",
    "uniform_scores",
]
