"""Random sources of a run: one generator for each use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drama.errors import CheckpointError
from drama.files import tensor_like
from drama.training.events import Events


class RandomSources:
    """Independent generators, so that one more sample for one use changes no other.

    Args:
        seed: Seed of the run.
        device: Device of the models.
        replay_device: Device of the replay.
        events: Receives a note where a saved state cannot be restored.
    """

    def __init__(
        self, seed: int, device: torch.device, replay_device: torch.device, events: Events
    ) -> None:
        self.seed = seed
        self.events = events
        seeds = np.random.SeedSequence(seed).generate_state(4, dtype=np.uint64)
        self.warmup = np.random.default_rng(seeds[0])
        """Random actions before training starts."""
        self.acting = torch.Generator(device).manual_seed(int(seeds[1]) >> 1)
        """Latents and actions of the training environment."""
        self.learning = torch.Generator(device).manual_seed(int(seeds[2]) >> 1)
        """Latents and actions in updates."""
        self.replay = torch.Generator(replay_device).manual_seed(int(seeds[3]) >> 1)
        """Window sampling and random shifts."""

    def _generators(self) -> dict[str, torch.Generator]:
        return {"acting": self.acting, "learning": self.learning, "replay": self.replay}

    def state(self) -> dict[str, dict[str, Any]]:
        """Return all states, by file of a checkpoint."""
        states = {f"generator.{name}": g.get_state() for name, g in self._generators().items()}
        return {"loop": states, "state": {"numpy": self.warmup.bit_generator.state}}

    def load_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned; a generator of another device type is reseeded.

        Raises:
            CheckpointError: A state is missing or damaged.
        """
        tensors, state = saved["loop"], saved["state"]
        for index, (name, generator) in enumerate(self._generators().items()):
            key = f"generator.{name}"
            size = len(tensors[key]) if key in tensors and tensors[key].dim() == 1 else None
            found = tensor_like(tensors, key, torch.empty(0, dtype=torch.uint8), rows=size)
            if not _restored(name, generator, found):
                seeds = np.random.SeedSequence([self.seed, state["step"], index])
                generator.manual_seed(int(seeds.generate_state(1, dtype=np.uint64)[0]) >> 1)
                self.events.note(
                    f"the random state of {name} was saved on another type of device and is "
                    "reseeded, so the run will not be bit-for-bit the same"
                )
        try:
            self.warmup.bit_generator.state = state["numpy"]
        except (ValueError, TypeError, OverflowError) as error:
            raise CheckpointError(f"the saved random state is damaged: {error}") from error


def _restored(name: str, generator: torch.Generator, saved: Tensor) -> bool:
    """Restore one generator; returns False if another type of device saved the state."""
    if saved.shape != generator.get_state().shape:
        return False
    try:
        generator.set_state(saved)
    except RuntimeError as error:
        raise CheckpointError(f"the saved random state of {name} is damaged") from error
    return True
