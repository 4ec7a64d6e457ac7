"""The ring of past experience: preallocated, seams marked, counters beside every row."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.config import ReplayConfig
from drama.errors import ReplayError
from drama.place import on_cpu, widest_float
from drama.replay.augment import check_shift, shift_frames
from drama.replay.sampling import (
    NOTHING_TO_DRAW,
    dfs_behaviour_scores,
    dfs_world_model_scores,
    draw,
    learnt_first_scores,
    uniform_scores,
)
from drama.types import Batch, Transition

Purpose = Literal["world_model", "behaviour"]

COLUMNS = ("obs", "is_first", "action", "reward", "terminated", "truncated", "is_last")


class ReplayBuffer:
    """Rows ``0, 1, 2, ...`` in order of arrival; the latest ``capacity`` of them are kept.

    Row ``g`` lives in slot ``g % capacity``. A window is named by its *last* row, and only
    windows whose rows are all still there can be drawn, so none crosses the write position.
    Windows do cross episode seams, which ``is_first`` and ``is_last`` mark.

    Args:
        config: Capacity and sampling rule.
        obs_shape: Shape of one observation.
        obs_dtype: ``torch.uint8`` for frames, ``torch.float32`` for vectors.
        device: Where the ring lives.
        behaviour_scale: Imagination batch over training batch, the ratio of the two counters.
        starts_at_first: Whether a dream that is given an episode's first row begins at it.
        static_shapes: Draw over the whole ring from the first row on, empty slots barred, so that
            the tensors of a draw keep their shapes, as a CUDA graph needs. None: not on a CPU,
            where it would only be more work. The law of the draws is the same, the draws are not.
    """

    def __init__(
        self,
        config: ReplayConfig,
        obs_shape: tuple[int, ...],
        obs_dtype: torch.dtype,
        *,
        device: torch.device | str = "cpu",
        behaviour_scale: float = 64.0,
        starts_at_first: bool = True,
        static_shapes: bool | None = None,
    ) -> None:
        self.shifts = any(config.random_shift)
        if self.shifts:
            check_shift(config.random_shift, obs_shape)
        self.config = config
        self.capacity = config.capacity
        self.device = torch.device(device)
        self.behaviour_scale = behaviour_scale
        self.starts_at_first = starts_at_first
        self.static_shapes = not on_cpu(self.device) if static_shapes is None else static_shapes
        self._total = 0
        # The same number where the scores are computed.
        self._total_there = torch.zeros((), dtype=torch.int64, device=self.device)

        def column(dtype: torch.dtype, shape: tuple[int, ...] = ()) -> Tensor:
            # Filled, not just reserved: memory that is missing should be missed at the start.
            try:
                return torch.empty((self.capacity, *shape), dtype=dtype, device=self.device).fill_(
                    0
                )
            except (RuntimeError, MemoryError) as error:
                size = self.capacity * math.prod(shape) * dtype.itemsize / 1e9
                raise ReplayError(
                    f"{self.capacity:,} rows need {size:,.1f} GB, which {self.device} cannot give; "
                    "lower replay.capacity"
                    + ("" if self.device.type == "cpu" else " or set replay.device to cpu")
                ) from error

        self.rows: dict[str, Tensor] = {
            "obs": column(obs_dtype, obs_shape),
            "is_first": column(torch.bool),
            "action": column(ActionSpace.dtype, ActionSpace.shape),
            "reward": column(torch.float32),
            "terminated": column(torch.bool),
            "truncated": column(torch.bool),
            "is_last": column(torch.bool),
        }
        self.trained = column(torch.int64)
        """How often each row was drawn to train the world model."""
        self.dreamt = column(torch.int64)
        """How often each row was drawn to start an imagination, before scaling."""
        self._slots = torch.arange(self.capacity, device=self.device)
        self._barred = torch.zeros((), dtype=torch.bool, device=self.device)

    @property
    def total(self) -> int:
        """Rows ever written."""
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value
        self._total_there.fill_(value)

    def __len__(self) -> int:
        """Return the number of rows held."""
        return min(self.total, self.capacity)

    @property
    def nbytes(self) -> int:
        """Bytes held by the ring and its counters."""
        tensors = [*self.rows.values(), self.trained, self.dreamt, self._slots]
        return sum(t.numel() * t.element_size() for t in tensors)

    def describe(self) -> str:
        """Size and place of the ring in one line."""
        obs = self.rows["obs"]
        shape = "x".join(map(str, obs.shape[1:]))
        kind = str(obs.dtype).removeprefix("torch.")
        return (
            f"replay of {self.capacity:,} rows of {shape} {kind}: "
            f"{self.nbytes / 1e9:.2f} GB on {self.device}"
        )

    def append(self, row: Transition) -> None:
        """Write one row over the oldest, clearing its counters.

        Raises:
            ReplayError: The observation does not have the ring's shape and type.
        """
        obs = torch.from_numpy(np.array(row.obs))
        ring = self.rows["obs"]
        if obs.shape != ring.shape[1:] or obs.dtype != ring.dtype:
            raise ReplayError(
                f"observation of shape {tuple(obs.shape)} and type {obs.dtype} does not fit a "
                f"replay of {tuple(ring.shape[1:])} {ring.dtype}"
            )
        slot = self.total % self.capacity
        # Small copies from pageable memory are staged before the call returns: nothing to wait for.
        ring[slot].copy_(obs, non_blocking=self.device.type == "cuda")
        for name in COLUMNS[1:]:
            self.rows[name][slot] = getattr(row, name)
        self.trained[slot] = 0
        self.dreamt[slot] = 0
        self.total += 1

    def mark_cut(self) -> None:
        """Mark the newest row as truncated: its episode could not be continued."""
        if self.total:
            self.rows["truncated"][(self.total - 1) % self.capacity] = True

    def scores(self, purpose: Purpose, length: int) -> Tensor:
        """Log-weights of the slots, as ends of windows of ``length`` rows: ``(len(self),)``.

        With static shapes it is ``(capacity,)``. -inf bars empty slots, ends whose window would
        leave the ring and, for behaviour, rows that have no future (an episode's final
        observation, or a transition that terminated it).
        """
        count = self.capacity if self.static_shapes else len(self)
        kind = widest_float(self.device)  # in float32, counters beyond 2**24 lose their last digits
        v = self.trained[:count].to(kind)
        b = self.dreamt[:count].to(kind) / self.behaviour_scale
        c = self.config
        if purpose == "world_model":
            scores = uniform_scores(v)
            if c.sampler != "uniform":
                scores = dfs_world_model_scores(v, c.tau)
        else:
            scores = uniform_scores(v)
            if c.sampler == "dfs":
                scores = dfs_behaviour_scores(v, b, c.imagination_tau, c.alpha, c.beta)
            elif c.sampler == "dfs-learnt":
                scores = learnt_first_scores(v, b, c.imagination_tau, c.alpha, c.beta)
        slots, total = self._slots[:count], self._total_there
        oldest = torch.where(total > self.capacity, total % self.capacity, 0)
        barred = ((slots - oldest) % self.capacity < length - 1) | (slots >= total)
        if purpose == "behaviour":
            ended = self.rows["terminated"][:count]
            if self.starts_at_first:
                # There the dream begins at the row itself, not after it.
                ended = ended & ~self.rows["is_first"][:count]
            barred |= self.rows["is_last"][:count] | ended
        return scores.masked_fill(barred, -torch.inf)

    def sample(
        self,
        purpose: Purpose,
        batch_size: int,
        length: int,
        generator: torch.Generator | None = None,
    ) -> Batch:
        """Draw ``batch_size`` windows of ``length`` rows and count them.

        Raises:
            ReplayError: Fewer rows than one window needs have been collected.
        """
        held = len(self)
        if held < length + (purpose == "behaviour"):
            raise ReplayError(
                f"a window needs {length} rows and the replay holds {held}: collect more first"
            )
        scores = self.scores(purpose, length)
        if self.static_shapes:
            self._barred |= ~torch.isfinite(scores.max())
        ends = draw(scores, batch_size, generator, replacement=self.config.replacement)
        counter = self.trained if purpose == "world_model" else self.dreamt
        # Summed in int32 first: Apple's GPU adds no int64 at an index in older versions of PyTorch.
        drawn = torch.zeros(self.capacity, dtype=torch.int32, device=self.device)
        counter += drawn.index_add_(0, ends, torch.ones_like(ends, dtype=torch.int32))
        batch = self.windows(ends, length)
        if self.shifts and purpose == "world_model":
            rows, columns = self.config.random_shift
            moved = shift_frames(batch.obs, rows, columns, generator)
            return batch._replace(obs=moved, slot=None)  # equal slots are no longer equal rows
        return batch

    def check(self) -> None:
        """Look whether every draw had a row to choose, which off the CPU no draw does itself.

        Raises:
            ReplayError: There was a draw from rows that all had weight 0.
        """
        if bool(self._barred):
            raise ReplayError(NOTHING_TO_DRAW)

    def windows(self, ends: Tensor, length: int) -> Batch:
        """Gather the windows of ``length`` rows that end in the given slots ``(B,)``."""
        offsets = torch.arange(1 - length, 1, device=self.device)
        index = (ends.unsqueeze(1) + offsets) % self.capacity  # (B, T)
        return Batch(**{name: self.rows[name][index] for name in COLUMNS}, slot=index)

    # -- saving -------------------------------------------------------------------------------

    def read_rows(self, start: int, stop: int) -> dict[str, Tensor]:
        """Copy rows ``start <= g < stop`` (numbered by arrival) to host memory."""
        index = torch.arange(start, stop, device=self.device) % self.capacity
        return {name: self.rows[name][index].cpu() for name in COLUMNS}

    def write_rows(self, start: int, rows: dict[str, Tensor]) -> None:
        """Put rows numbered from ``start`` back into their slots.

        Raises:
            ReplayError: They do not have the ring's shapes and types.
        """
        count = rows["action"].shape[0]
        index = torch.arange(start, start + count, device=self.device) % self.capacity
        for name in COLUMNS:
            ring, new = self.rows[name], rows[name]
            if new.shape[1:] != ring.shape[1:] or new.dtype != ring.dtype:
                raise ReplayError(
                    f"saved column {name} is {tuple(new.shape[1:])} {new.dtype}, the replay "
                    f"expects {tuple(ring.shape[1:])} {ring.dtype}"
                )
            ring[index] = new.to(self.device)
