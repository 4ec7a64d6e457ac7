"""Replay: the buffer, the sampling rules and random-shift augmentation."""

from typing import TYPE_CHECKING

from drama.lazy import lazy

if TYPE_CHECKING:
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

if not TYPE_CHECKING:
    # On first use: the settings of this package need no torch.
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "drama.replay.augment": ("shift_frames",),
            "drama.replay.buffer": ("Purpose", "ReplayBuffer"),
            "drama.replay.sampling": (
                "dfs_behaviour_scores",
                "dfs_world_model_scores",
                "draw",
                "learnt_first_scores",
                "uniform_scores",
            ),
        },
    )
