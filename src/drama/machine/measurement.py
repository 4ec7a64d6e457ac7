"""Time and memory of one preset's training, measured on a real trainer with a synthetic replay.

The :class:`~drama.training.trainer.Trainer` of the preset gets a replay of random frames; its own
methods run under its own clock.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np
import torch

from drama.behaviour import Behaviour
from drama.config import Config
from drama.errors import DramaError
from drama.machine.costs import Memory, PresetCost, Unmeasured, UpdateCost
from drama.ops.backend import Backend
from drama.replay import ReplayBuffer
from drama.text import first_line, size
from drama.training.device import pick_replay_device
from drama.training.graphs import EAGER_CALLS
from drama.training.memory import PeakMemory, available_bytes, resident_bytes
from drama.training.trainer import Trainer
from drama.world_model import WorldModel

Section = Literal["world_model", "behaviour"]

ENV_SECONDS = 0.4
"""Seconds of stepping and acting for each preset."""
MOST_REPEATS = 5
"""Updates of full size whose median is reported."""
SMALLEST = 64
"""The first batch is the full batch divided by this."""
ROWS = 8192
"""Capacity of the synthetic replay: sampling from a larger one costs about the same."""


class Trainable(Protocol):
    """The parts of `drama.Agent` that training needs."""

    config: Config
    device: torch.device
    backend: Backend
    env: gym.Env[Any, Any]
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    world_model: WorldModel
    behaviour: Behaviour


class OutOfTime(Exception):
    """The deadline passed before every part of a preset was measured once."""


def measure(
    preset: str, agent: Trainable, until: float, deadline: float
) -> PresetCost | Unmeasured:
    """Measure one preset, or return the reason why that fails.

    Args:
        preset: Name of the preset.
        agent: An agent of this preset; its weights are trained.
        until: Target end time on the ``perf_counter`` clock.
        deadline: Time on the same clock after which no measurement starts.

    Raises:
        OutOfTime: The deadline passed before every part was measured once.
    """
    try:
        needed = _transition_bytes(agent) * agent.config.replay.capacity
        device = pick_replay_device(agent.config.replay.device, agent.device)
        free = available_bytes(device)
        if free is not None and needed > free:
            # Linux would overcommit and kill the process later.
            return Unmeasured(
                preset,
                f"does not fit: its replay needs {size(needed)} and {size(free)} are free on "
                f"{device}; lower replay.capacity",
            )
        return Measurement(preset, agent).run(until, deadline)
    except (MemoryError, torch.OutOfMemoryError) as error:
        return Unmeasured(preset, f"does not fit: {first_line(error)}")
    except DramaError as error:
        return Unmeasured(preset, first_line(error))
    except RuntimeError as error:
        # PyTorch's host allocator raises a plain RuntimeError.
        if "memory" not in str(error):
            raise
        return Unmeasured(preset, f"does not fit: {first_line(error)}")


def _transition_bytes(agent: Trainable) -> int:
    """Bytes of one transition in the agent's replay."""
    space = agent.observation_space
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    config = dataclasses.replace(agent.config.replay, capacity=1)
    return ReplayBuffer(config, tuple(space.shape or ()), dtype).nbytes


class Measurement:
    """Measures the trainer of one preset.

    Args:
        preset: Name of the preset.
        agent: An agent of this preset. Call it under its
            :func:`~drama.training.device.process_settings`.
    """

    def __init__(self, preset: str, agent: Trainable) -> None:
        self.preset = preset
        self.agent = agent
        self.config = agent.config
        self.process = resident_bytes()
        self.host_free = available_bytes(torch.device("cpu"))
        self.device_free = None if _on_host(agent) else available_bytes(agent.device)
        longest = max(self.config.world_model.batch_length, self.config.behaviour.context)
        capacity = min(self.config.replay.capacity, max(ROWS, 2 * longest))
        replay = dataclasses.replace(self.config.replay, capacity=capacity)
        self.config = dataclasses.replace(self.config, replay=replay)
        self.trainer = Trainer(self.config, agent.env, agent.world_model, agent.behaviour)
        self.trainer.clock.synchronize = _synchronizer(agent.device)
        self.peak = PeakMemory(agent.device)
        fill(self.trainer.replay, agent.world_model.actions.count)

    def run(self, until: float, deadline: float) -> PresetCost:
        """Measure environment steps, acting, both updates and memory.

        Args:
            until: Target end time on the ``perf_counter`` clock.
            deadline: Time on the same clock after which no measurement starts.

        Raises:
            OutOfTime: The deadline passed before every part was measured once.
        """
        env_seconds, acting_seconds = self._steps(deadline)
        # The world-model update is the slower one at the paper's sizes.
        now = time.perf_counter()
        world_model = self._update("world_model", now + 0.5 * (until - now), deadline)
        behaviour = self._update("behaviour", until, deadline)
        config = self.config.training
        return PresetCost(
            preset=self.preset,
            precision=str(self.trainer.learner.dtype).removeprefix("torch."),
            backend=str(self.agent.backend),
            threads=torch.get_num_threads(),
            env_seconds=env_seconds,
            acting_seconds=acting_seconds,
            world_model=world_model,
            behaviour=behaviour,
            ratios=(config.world_model_ratio, config.behaviour_ratio),
            warmup_steps=config.warmup_steps,
            memory=self._memory(world_model, behaviour),
        )

    def _steps(self, deadline: float) -> tuple[float, float]:
        """Return seconds per environment step and per chosen action."""
        check_time(deadline)
        trainer = self.trainer
        trainer.collector.step = self.config.training.warmup_steps  # the policy acts
        trainer.collect()  # excludes the reset, which is rare
        trainer.clock.flush()
        began, count = time.perf_counter(), 0
        while count < 10 or time.perf_counter() - began < ENV_SECONDS:
            trainer.collect()
            count += 1
            if time.perf_counter() > deadline:
                break
        seconds = trainer.clock.flush()
        acting = seconds.pop("acting")
        return sum(seconds.values()) / count, acting / count

    def _update(self, section: Section, until: float, deadline: float) -> UpdateCost:
        """Return the cost of an update, measured at full batch size if time allows."""
        full = getattr(self.config, section).batch_size
        size = math.ceil(full / SMALLEST)
        samples = self._first(section, size, deadline)
        smaller: tuple[int, float] | None = None
        while size < full:
            larger = self._larger(size, full, sum(samples[-1].values()), smaller, until)
            if larger == size:
                break
            smaller = size, sum(samples[0].values())
            size = larger
            samples = self._first(section, size, deadline)
        each = sum(samples[0].values())
        while len(samples) < MOST_REPEATS and time.perf_counter() + each < until:
            samples.append(self.once(section, size))
        # The peak over all updates: heap fragmentation makes the process grow for a few of them.
        return UpdateCost.scaled(samples, self.peak.read(), size, full, smaller)

    def _first(self, section: Section, size: int, deadline: float) -> list[dict[str, float]]:
        """Time one update of a batch size after its warm-up updates.

        Warm-up creates optimiser moments, starts threads, selects kernels and records CUDA graphs.
        """
        self.peak.start()
        self.trainer.learner.record_again()
        for _ in range(self._calls):
            check_time(deadline)
            self.once(section, size)
        check_time(deadline)
        return [self.once(section, size)]

    @property
    def _calls(self) -> int:
        """Warm-up updates of a new batch size."""
        return EAGER_CALLS + 1 if self.trainer.learner.records else 1

    def _larger(
        self, size: int, full: int, total: float, smaller: tuple[int, float] | None, until: float
    ) -> int:
        """Return the next batch size that time and memory allow, or ``size``.

        Args:
            size: Batch size of the last update.
            full: Batch size of the preset.
            total: Its seconds.
            smaller: Size and seconds of the batch before, if any.
            until: Target end time.
        """
        growth = UpdateCost.growth(size, total, smaller)
        peak, free = self.peak.read(), available_bytes(self.agent.device)
        left = until - time.perf_counter()
        # The first update of a size also allocates its memory.
        tries = [(min(times * size, full), self._calls + 2.2) for times in (4, 2)]
        if smaller is None:
            # Only one size is known, and not how much of it is constant: in small models most,
            # which extrapolation would multiply. Here the margin is worth less than a second size.
            tries.append((min(2 * size, full), self._calls + 1))
        for larger, updates in tries:
            fits = free is None or peak is None or peak * larger / size < free
            if fits and updates * (total + growth * (larger - size)) < left:
                return larger
        return size

    def once(self, section: Section, size: int) -> dict[str, float]:
        """Return the seconds per phase of one update with batch size ``size``."""
        trainer, config = self.trainer, self.config
        part = dataclasses.replace(getattr(config, section), batch_size=size)
        trainer.learner.config = dataclasses.replace(config, **{section: part})
        trainer.clock.flush()
        trainer.update(section)
        return trainer.clock.flush()

    def _memory(self, *updates: UpdateCost) -> Memory:
        """Add up replay, weights, moments, gradients and the peak of an update."""
        modules = (self.agent.world_model, self.agent.behaviour)
        weights = sum(t.nbytes for module in modules for t in module.state_dict().values())
        trained = sum(
            p.numel() * p.element_size()
            for o in self.trainer.learner.optimisers.values()
            for p in o.params
        )
        model = weights + 3 * trained  # gradients and two moments
        peaks = [update.peak_bytes for update in updates]
        peak = None if None in peaks else max(p for p in peaks if p is not None)
        replay = _transition_bytes(self.agent) * self.agent.config.replay.capacity
        work = None if peak is None else model + peak
        replay_on_host = self.trainer.replay.device.type == "cpu"
        host, device = [self.process], [work]
        (host if replay_on_host else device).append(replay)
        if _on_host(self.agent):
            host, device = [*host, *device], []
        return Memory(
            replay=replay,
            model=model,
            updates=peak,
            host=_total(host),
            # A training process takes the place of this one.
            host_available=_total([self.host_free, self.process]),
            device=_total(device) if device else None,
            device_available=self.device_free,
        )


def check_time(deadline: float) -> None:
    """Check that time is left.

    Args:
        deadline: Time on the ``perf_counter`` clock.

    Raises:
        OutOfTime: The deadline has passed.
    """
    if time.perf_counter() > deadline:
        raise OutOfTime


def fill(replay: ReplayBuffer, num_actions: int) -> None:
    """Fill a replay with random transitions: 1024 distinct frames, episodes of 500 steps."""
    generator = torch.Generator().manual_seed(0)
    obs = replay.columns["obs"]
    shape = (min(1024, replay.capacity), *obs.shape[1:])
    if obs.dtype == torch.uint8:
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    else:
        frames = torch.randn(shape, generator=generator)
    for start in range(0, replay.capacity, shape[0]):
        index = torch.arange(start, min(start + shape[0], replay.capacity))
        count = index.numel()
        false = torch.zeros(count, dtype=torch.bool)
        replay.write(
            start,
            {
                "obs": frames[:count],
                "is_first": index % 501 == 0,
                "action": torch.randint(num_actions, (count,), generator=generator),
                "reward": torch.zeros(count),
                "terminated": false,
                "truncated": index % 501 == 499,
                "is_last": index % 501 == 500,
            },
        )
    replay.total = replay.capacity


def _on_host(agent: Trainable) -> bool:
    return agent.device.type == "cpu"


def _synchronizer(device: torch.device) -> Callable[[], object] | None:
    if device.type == "cuda":
        return lambda: _synchronize_cuda(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return None


def _synchronize_cuda(device: torch.device) -> None:
    if not torch.cuda.is_current_stream_capturing():  # capture launches nothing
        torch.cuda.synchronize(device)


def _total(parts: Sequence[int | None]) -> int | None:
    """Return the sum of the parts, or None if one is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
