"""Ring buffer of transitions, with per-transition sampling counters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.config import ReplayConfig
from drama.errors import CheckpointError, ReplayError
from drama.files import MOST_COUNT, tensor_like
from drama.ops.dispatch import on_cpu, widest_float
from drama.registry import SAMPLERS
from drama.replay.augment import check_shift, shift_frames
from drama.replay.sampling import NOTHING_TO_SAMPLE, Purpose, Sampler
from drama.text import size
from drama.types import Batch, Transition, pinned

COLUMNS = ("obs", "is_first", "action", "reward", "terminated", "truncated", "is_last")


class ReplayBuffer:
    """Preallocated ring of the latest ``capacity`` transitions.

    Transition ``g``, counted from the start of the run, is stored in slot ``g % capacity``. A
    window is identified by the slot of its *last* transition. Only windows that are stored
    completely can be sampled, so none crosses the write position. Windows may cross episode
    boundaries, which ``is_first`` and ``is_last`` mark.

    On an accelerator sampling runs over the whole ring from the start, empty slots excluded, so
    that tensor shapes are constant, as a CUDA graph requires (``static_shapes``). The
    distribution is the same as on the CPU, the samples differ.

    Args:
        config: Capacity and sampler.
        obs_shape: Shape of one observation.
        obs_dtype: ``torch.uint8`` for frames, ``torch.float32`` for vectors.
        device: Device of the ring.
        behaviour_scale: Imagination batch size over training batch size: the ratio of the two
            counters.

    Raises:
        ConfigError: ``config.random_shift`` does not fit the observations.
        ReplayError: The device has not enough memory.
    """

    def __init__(
        self,
        config: ReplayConfig,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        *,
        device: torch.device | str = "cpu",
        behaviour_scale: float = 64.0,
    ) -> None:
        self.shifts = any(config.random_shift) and len(obs_shape) == 3
        if self.shifts:
            check_shift(config.random_shift, obs_shape)
        self.config = config
        self.capacity = config.capacity
        self.device = torch.device(device)
        self.behaviour_scale = behaviour_scale
        self.static_shapes = not on_cpu(self.device)
        self.sampler: Sampler = SAMPLERS.get(config.sampler)(config, self.device)
        self._total = 0
        # The same number on the device, where scores are computed.
        self._device_total = torch.zeros((), dtype=torch.int64, device=self.device)
        self.columns: dict[str, Tensor] = {
            "obs": self._column(obs_dtype, obs_shape),
            "is_first": self._column(torch.bool),
            "action": self._column(ActionSpace.dtype, ActionSpace.shape),
            "reward": self._column(torch.float32),
            "terminated": self._column(torch.bool),
            "truncated": self._column(torch.bool),
            "is_last": self._column(torch.bool),
        }
        """Transitions by slot, ``(capacity, ...)`` each."""
        self.trained = self._column(torch.int64)
        """How often each transition was sampled to train the world model."""
        self.imagined = self._column(torch.int64)
        """How often each transition was sampled to start an imagination, before scaling."""
        self.cuts: list[int] = []
        """Transitions that `mark_cut` changed, counted from the start of the run."""
        self._slots = torch.arange(self.capacity, device=self.device)
        self._empty_sample = torch.zeros((), dtype=torch.bool, device=self.device)

    def _column(self, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> Tensor:
        """Allocate and fill a column: the system reserves memory only once it is written."""
        try:
            column = torch.empty((self.capacity, *shape), dtype=dtype, device=self.device)
            return column.fill_(0)
        except (RuntimeError, MemoryError) as error:
            needed = self.capacity * math.prod(shape) * dtype.itemsize
            raise ReplayError(
                f"{self.capacity:,} transitions need {size(needed)}, more than {self.device} has; "
                "lower replay.capacity"
                + ("" if self.device.type == "cpu" else " or set replay.device to cpu")
            ) from error

    @property
    def total(self) -> int:
        """Transitions stored since the start of the run."""
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value
        self._device_total.fill_(value)

    def __len__(self) -> int:
        """Return the number of transitions held."""
        return min(self.total, self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes of the ring and its counters."""
        tensors = [*self.columns.values(), self.trained, self.imagined, self._slots]
        return sum(t.numel() * t.element_size() for t in tensors)

    def describe(self) -> str:
        """Return size and device in one line."""
        obs = self.columns["obs"]
        shape = "x".join(map(str, obs.shape[1:]))
        kind = str(obs.dtype).removeprefix("torch.")
        return (
            f"replay of {self.capacity:,} transitions of {shape} {kind}: "
            f"{size(self.nbytes)} on {self.device}"
        )

    def append(self, transition: Transition) -> None:
        """Overwrite the oldest transition and reset its counters.

        Raises:
            ReplayError: The observation does not have the ring's shape and type.
        """
        obs = torch.from_numpy(np.array(transition.obs))
        ring = self.columns["obs"]
        if obs.shape != ring.shape[1:] or obs.dtype != ring.dtype:
            raise ReplayError(
                f"observation of shape {tuple(obs.shape)} and type {obs.dtype} does not fit a "
                f"replay of {tuple(ring.shape[1:])} {ring.dtype}"
            )
        slot = self.total % self.capacity
        ring[slot].copy_(pinned(obs, self.device), non_blocking=self.device.type == "cuda")
        for name in COLUMNS[1:]:
            self.columns[name][slot] = getattr(transition, name)
        self.trained[slot] = 0
        self.imagined[slot] = 0
        self.total += 1

    def mark_cut(self) -> None:
        """Mark the newest transition as truncated: its episode could not be continued."""
        if self.total:
            self.columns["truncated"][(self.total - 1) % self.capacity] = True
            self.cuts.append(self.total - 1)

    # -- sampling -----------------------------------------------------------------------------

    def scores(self, purpose: Purpose, length: int) -> Tensor:
        """Score the slots as ends of windows of ``length`` transitions, -inf for those excluded.

        Excluded are empty slots, windows that leave the ring and, for behaviour, transitions
        without a future: an episode's final observation, or a transition that terminated it,
        unless it is also the episode's first.

        Returns:
            ``(len(self),)``, or ``(capacity,)`` with static shapes.
        """
        count = self.capacity if self.static_shapes else len(self)
        kind = widest_float(self.device)  # float32 rounds counters beyond 2**24
        v = self.trained[:count].to(kind)
        b = self.imagined[:count].to(kind) / self.behaviour_scale
        scores = self.sampler.scores(purpose, v, b)
        slots, total = self._slots[:count], self._device_total
        oldest = torch.where(total > self.capacity, total % self.capacity, 0)
        excluded = ((slots - oldest) % self.capacity < length - 1) | (slots >= total)
        if purpose == "behaviour":
            # At an episode's first transition imagination starts before the action, not after it.
            ended = self.columns["terminated"][:count] & ~self.columns["is_first"][:count]
            excluded |= self.columns["is_last"][:count] | ended
        return scores.masked_fill(excluded, -torch.inf)

    def sample(
        self,
        purpose: Purpose,
        batch_size: int,
        length: int,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Sample windows as `sample_with_ends` does."""
        return self.sample_with_ends(purpose, batch_size, length, generator)[1]

    def sample_with_ends(
        self,
        purpose: Purpose,
        batch_size: int,
        length: int,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Batch]:
        """Sample windows and count them.

        Args:
            purpose: Which update they are for.
            batch_size: Number of windows ``B``.
            length: Transitions in each, ``T``.
            generator: Source of randomness, on the ring's device.

        Returns:
            Slots of the windows' last transitions ``(B,)``, and the windows ``(B, T)``.

        Raises:
            ReplayError: Fewer transitions are held than one window needs.
        """
        held = len(self)
        if held < length + (purpose == "behaviour"):
            raise ReplayError(
                f"a window needs {length} transitions and the replay holds {held}: "
                "collect more first"
            )
        scores = self.scores(purpose, length)
        if self.static_shapes:
            self._empty_sample |= ~torch.isfinite(scores.max())
        ends = self.sampler.sample(scores, batch_size, generator)
        counter = self.trained if purpose == "world_model" else self.imagined
        # Summed in int32 first: MPS lacks int64 index_add_ in older versions of PyTorch.
        times = torch.zeros(self.capacity, dtype=torch.int32, device=self.device)
        counter += times.index_add_(0, ends, torch.ones_like(ends, dtype=torch.int32))
        batch = self.windows(ends, length)
        if self.shifts and purpose == "world_model":
            rows, columns = self.config.random_shift
            moved = shift_frames(batch.obs, rows, columns, generator)
            batch = batch._replace(obs=moved, slot=None)  # equal slots no longer mean equal frames
        return ends, batch

    def check(self) -> None:
        """Check that every sample had a candidate, which off the CPU `sample` does not check.

        Raises:
            ReplayError: All probabilities were 0 once.
        """
        if bool(self._empty_sample):
            raise ReplayError(NOTHING_TO_SAMPLE)

    def windows(self, ends: Tensor, length: int) -> Batch:
        """Gather the windows of ``length`` transitions that end in the given slots ``(B,)``."""
        offsets = torch.arange(1 - length, 1, device=self.device)
        index = (ends.unsqueeze(1) + offsets) % self.capacity  # (B, T)
        return Batch(**{name: self.columns[name][index] for name in COLUMNS}, slot=index)

    # -- saving -------------------------------------------------------------------------------

    def read(self, start: int, stop: int) -> dict[str, Tensor]:
        """Copy transitions ``start <= g < stop`` (counted from the run's start) to host memory."""
        index = torch.arange(start, stop, device=self.device) % self.capacity
        return {name: self.columns[name][index].cpu() for name in COLUMNS}

    def write(self, start: int, columns: Mapping[str, Tensor]) -> None:
        """Store transitions counted from ``start`` in their slots.

        Raises:
            ReplayError: They do not have the ring's shapes and types.
        """
        count = columns["action"].shape[0]
        index = torch.arange(start, start + count, device=self.device) % self.capacity
        for name in COLUMNS:
            ring, new = self.columns[name], columns[name]
            if new.shape[1:] != ring.shape[1:] or new.dtype != ring.dtype:
                raise ReplayError(
                    f"saved column {name} is {tuple(new.shape[1:])} {new.dtype}, the replay "
                    f"expects {tuple(ring.shape[1:])} {ring.dtype}"
                )
            ring[index] = new.to(self.device)

    def state(self) -> dict[str, dict[str, Any]]:
        """Return counters and sampler state, by file of a checkpoint; not the transitions."""
        held = len(self)
        counters = {"trained": self.trained[:held], "dreamt": self.imagined[:held]}
        sampler = {f"sampler.{name}": tensor for name, tensor in self.sampler.state().items()}
        return {"loop": {**counters, **sampler}, "state": {"replay_total": self.total}}

    def load_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned, once the transitions are there.

        Raises:
            CheckpointError: A tensor is missing, does not fit or is out of range.
        """
        tensors = saved["loop"]
        for name, counter in (("trained", self.trained), ("dreamt", self.imagined)):
            found = tensor_like(tensors, name, counter, rows=len(self))
            if bool((found < 0).any() | (found > MOST_COUNT).any()):
                raise CheckpointError(f"the saved counters {name!r} are out of range")
            counter[: len(self)] = found.to(self.device)
        prefix = "sampler."
        own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
        self.sampler.load_state(own)
