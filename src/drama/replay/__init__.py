"""Experience replay: the ring buffer, its samplers, and random-shift augmentation."""

from typing import TYPE_CHECKING

from drama.attributes import lazy

if TYPE_CHECKING:
    from drama.replay.augment import shift_frames
    from drama.replay.buffer import ReplayBuffer
    from drama.replay.sampling import (
        Purpose,
        Sampler,
        dfs_behaviour_scores,
        dfs_trained_scores,
        dfs_world_model_scores,
        sample_indices,
        uniform_scores,
    )

__all__ = [
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

if not TYPE_CHECKING:
    # On first use: the settings of this package need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.replay.augment": ("shift_frames",),
            "drama.replay.buffer": ("ReplayBuffer",),
            "drama.replay.sampling": (
                "Purpose",
                "Sampler",
                "dfs_behaviour_scores",
                "dfs_trained_scores",
                "dfs_world_model_scores",
                "sample_indices",
                "uniform_scores",
            ),
        },
    )
