"""How fast each preset would train on this machine, and in how much memory.

Nothing here trains by itself: a real :class:`~drama.training.trainer.Trainer` of each preset is
given a replay full of random frames, and its own methods are timed by its own clock.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from drama.agent import Agent
from drama.config import Config
from drama.costs import Calibration, Memory, PresetCost, Unmeasured, UpdateCost
from drama.errors import ConfigError, DramaError
from drama.replay import ReplayBuffer
from drama.text import first_line, size
from drama.training.device import pick_device, pick_replay_device, process_settings
from drama.training.graphs import EAGER_CALLS
from drama.training.memory import PeakMemory, available_bytes, resident_bytes
from drama.training.trainer import Trainer

Section = Literal["world_model", "behaviour"]

ATARI = "ALE/Pong-v5"
"""Environment whose stepping is measured, unless the user names one."""
SECONDS = 30.0
"""About how long all presets together may take."""
ENV_SECONDS = 0.4
"""Seconds of stepping and acting for each preset."""
MOST_REPEATS = 5
"""Updates of full size after which the median is good enough."""
SMALLEST = 64
"""The first batch is the full one divided by this: its time decides whether more follows."""
ROWS = 8192
"""Largest replay that is filled: sampling from a full one costs little more, filling it does."""


class OutOfTime(Exception):
    """The deadline passed before every part of a preset was measured once."""


class RandomFrames(gym.Env[Any, Any]):
    """Stands in where there are no Atari games: random frames of their size, six actions."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a frame."""
        super().reset(seed=seed)
        return self._frame(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return another; episodes do not end."""
        return self._frame(), 0.0, False, False, {}

    def _frame(self) -> Any:
        return self.np_random.integers(0, 256, (64, 64, 3), dtype=np.uint8)


def calibrate(
    presets: Mapping[str, Callable[[], Config]],
    *,
    env: str | None = None,
    device: str = "auto",
    seconds: float = SECONDS,
    progress: Callable[[str], object] = lambda text: None,
    found: Callable[[Calibration], object] = lambda calibration: None,
) -> Calibration:
    """Measure what each preset's training would cost here.

    What is too slow for the time given is measured on smaller batches, and marked; presets that
    the time does not reach are left unmeasured. Threads, memory management and random states of
    the process are left as they were; no file is written.

    Args:
        presets: Functions that make the configurations, by name.
        env: Environment to step. None is an Atari game, or random frames without ``ale-py``.
        device: As ``config.device``.
        seconds: Wall time after which nothing new is begun; what is running then ends: building
            one model, or one update of a small batch. Every preset gets the same share.
        progress: Called with what is measured next.
        found: Called after each preset with all that is known by then; the last preset is new.

    Raises:
        ConfigError: No preset is named, ``seconds`` is not positive, or there is no such device.
        EnvError: The environment cannot be used.
    """
    if not presets:
        raise ConfigError("there is no preset to measure")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"the seconds of a calibration must be positive, got {seconds:g}")
    pick_device(device)
    name = env if env is not None else ATARI if importlib.util.find_spec("ale_py") else None
    began = time.perf_counter()
    deadline = began + seconds
    costs: list[PresetCost | Unmeasured] = []
    shape: tuple[int, ...] = ()
    actions = 0
    known = Calibration(name, shape, actions, 0.0, ())
    for index, (preset, make) in enumerate(presets.items()):
        now = time.perf_counter()
        until = now + (deadline - now) / (len(presets) - index)
        try:
            _check_time(deadline)
            progress(f"measuring preset {preset}")
            agent = Agent(RandomFrames() if name is None else name, make(), device=device)
        except OutOfTime:
            costs.append(_late(preset, seconds))
        except ConfigError as error:  # sizes that do not go with this environment
            costs.append(Unmeasured(preset, first_line(error)))
        else:
            shape = tuple(agent.observation_space.shape or ())
            actions = agent.world_model.num_actions
            try:
                with process_settings(agent.config.training, agent.device):
                    costs.append(measure(preset, agent, until, deadline))
                    gc.collect()  # before memory management is put back, which trims the heap
            except OutOfTime:
                costs.append(_late(preset, seconds))
            finally:
                agent.env.close()
        known = Calibration(name, shape, actions, time.perf_counter() - began, tuple(costs))
        found(known)
    return known


def _late(preset: str, seconds: float) -> Unmeasured:
    return Unmeasured(preset, f"not measured in {seconds:g} s")


def measure(preset: str, agent: Agent, until: float, deadline: float) -> PresetCost | Unmeasured:
    """Measure one preset, or report why that cannot be done.

    Args:
        preset: Name of the preset.
        agent: Made from it; its weights are trained.
        until: Time on the clock of ``perf_counter`` to end at, if possible.
        deadline: Time on the same clock after which nothing is begun.

    Raises:
        OutOfTime: The deadline passed before every part was measured once.
    """
    room = _row_bytes(agent) * agent.config.replay.capacity
    place = pick_replay_device(agent.config.replay.device, agent.device)
    free = available_bytes(place)
    if free is not None and room > free:
        # Asked for all the same, Linux would grant it now and kill the process later.
        return Unmeasured(
            preset,
            f"does not fit: its replay needs {size(room)} and {size(free)} are free on {place}; "
            "lower replay.capacity",
        )
    try:
        return Measurement(preset, agent).run(until, deadline)
    except (MemoryError, torch.OutOfMemoryError) as error:
        return Unmeasured(preset, f"does not fit: {first_line(error)}")
    except DramaError as error:
        return Unmeasured(preset, first_line(error))
    except RuntimeError as error:
        # PyTorch's allocator of host memory raises nothing more particular.
        if "memory" not in str(error):
            raise
        return Unmeasured(preset, f"does not fit: {first_line(error)}")


def _row_bytes(agent: Agent) -> int:
    """Bytes of one row of the replay that ``agent`` would have."""
    space = agent.observation_space
    dtype = torch.uint8 if space.dtype == np.uint8 else torch.float32
    config = dataclasses.replace(agent.config.replay, capacity=1)
    return ReplayBuffer(config, tuple(space.shape or ()), dtype).nbytes


class Measurement:
    """One preset's trainer under measurement.

    Args:
        preset: Name of the preset.
        agent: Made from it. The process should have its settings, see
            :func:`~drama.training.device.process_settings`.
    """

    def __init__(self, preset: str, agent: Agent) -> None:
        self.preset = preset
        self.agent = agent
        self.config = agent.config
        self.process = resident_bytes()
        self.host_free = available_bytes(torch.device("cpu"))
        self.device_free = None if _on_host(agent) else available_bytes(agent.device)
        longest = max(self.config.world_model.batch_length, self.config.behaviour.context)
        rows = min(self.config.replay.capacity, max(ROWS, 2 * longest))
        ring = dataclasses.replace(self.config.replay, capacity=rows)
        self.config = dataclasses.replace(self.config, replay=ring)
        self.trainer = Trainer(self.config, agent.env, agent.world_model, agent.behaviour)
        self.trainer.clock.synchronize = _synchronizer(agent.device)
        self.peak = PeakMemory(agent.device)
        fill(self.trainer.replay, agent.world_model.num_actions)

    def run(self, until: float, deadline: float) -> PresetCost:
        """Measure everything.

        Args:
            until: Time on the clock of ``perf_counter`` to end at, if possible.
            deadline: Time after which nothing is begun.

        Raises:
            OutOfTime: The deadline passed before every part was measured once.
        """
        env_seconds, acting_seconds = self._steps(deadline)
        # An update of the world model is the costlier one in the paper's sizes.
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
        """Seconds per environment step, and of choosing its action."""
        _check_time(deadline)
        trainer = self.trainer
        trainer.collector.step = self.config.training.warmup_steps  # from here on it acts
        trainer.collect()  # resets, which is rare
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
        """Cost of an update, at full size if that fits into the time."""
        full = getattr(self.config, section).batch_size
        size = math.ceil(full / SMALLEST)
        samples = self._first(section, size, deadline)
        smaller: tuple[int, float] | None = None
        while size < full and (larger := self._larger(size, full, samples[-1], until)) > size:
            smaller = size, sum(samples[0].values())
            size = larger
            samples = self._first(section, size, deadline)
        each = sum(samples[0].values())
        while len(samples) < MOST_REPEATS and time.perf_counter() + each < until:
            samples.append(self.once(section, size))
        # Of all of them: kept memory comes apart, so that the process grows for a few updates.
        return UpdateCost.scaled(samples, self.peak.read(), size, full, smaller)

    def _first(self, section: Section, size: int, deadline: float) -> list[dict[str, float]]:
        """Sample one update of a size, after those that cost more than the ones after them.

        They make moments, start threads, pick kernels, and on CUDA end with a recording.
        """
        self.peak.start()
        self.trainer.learner.record_again()
        for _ in range(self._calls):
            _check_time(deadline)
            self.once(section, size)
        _check_time(deadline)
        return [self.once(section, size)]

    @property
    def _calls(self) -> int:
        """Updates of a new size that are not counted."""
        return EAGER_CALLS + 1 if self.trainer.learner.records else 1

    def _larger(self, size: int, full: int, sample: dict[str, float], until: float) -> int:
        """Return the next batch size that there are time and memory for, or ``size``."""
        one = sum(sample.values()) / size
        peak, free = self.peak.read(), available_bytes(self.agent.device)
        for larger in (min(4 * size, full), min(2 * size, full)):
            room = free is None or peak is None or peak * larger / size < free
            # The first of a size is slower: it has to get its memory.
            if room and (self._calls + 2.2) * larger * one < until - time.perf_counter():
                return larger
        return size

    def once(self, section: Section, size: int) -> dict[str, float]:
        """Seconds per phase of one update on a batch of ``size``."""
        trainer, config = self.trainer, self.config
        part = dataclasses.replace(getattr(config, section), batch_size=size)
        trainer.learner.config = dataclasses.replace(config, **{section: part})
        trainer.clock.flush()
        trainer.update(section)
        return trainer.clock.flush()

    def _memory(self, *updates: UpdateCost) -> Memory:
        modules = (self.agent.world_model, self.agent.behaviour)
        weights = sum(t.nbytes for module in modules for t in module.state_dict().values())
        trained = sum(
            p.numel() * p.element_size()
            for o in self.trainer.learner.optimisers.values()
            for p in o.params
        )
        model = weights + 3 * trained  # gradients, and LaProp's two moments
        peaks = [update.peak_bytes for update in updates]
        peak = None if None in peaks else max(p for p in peaks if p is not None)
        replay = _row_bytes(self.agent) * self.agent.config.replay.capacity
        work = None if peak is None else model + peak
        ring_on_host = self.trainer.replay.device.type == "cpu"
        host, device = [self.process], [work]
        (host if ring_on_host else device).append(replay)
        if _on_host(self.agent):
            host, device = [*host, *device], []
        return Memory(
            replay=replay,
            model=model,
            updates=peak,
            host=_total(host),
            # What this process holds will be the other one's.
            host_available=_total([self.host_free, self.process]),
            device=_total(device) if device else None,
            device_available=self.device_free,
        )


def _check_time(deadline: float) -> None:
    if time.perf_counter() > deadline:
        raise OutOfTime


def fill(replay: ReplayBuffer, num_actions: int) -> None:
    """Fill a replay with random rows: frames that repeat themselves, episodes of 500 steps."""
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
        no = torch.zeros(count, dtype=torch.bool)
        replay.write(
            start,
            {
                "obs": frames[:count],
                "is_first": index % 501 == 0,
                "action": torch.randint(num_actions, (count,), generator=generator),
                "reward": torch.zeros(count),
                "terminated": no,
                "truncated": index % 501 == 499,
                "is_last": index % 501 == 500,
            },
        )
    replay.total = replay.capacity


def _on_host(agent: Agent) -> bool:
    return agent.device.type == "cpu"


def _synchronizer(device: torch.device) -> Callable[[], object] | None:
    if device.type == "cuda":
        return lambda: _synchronize_cuda(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return None


def _synchronize_cuda(device: torch.device) -> None:
    if not torch.cuda.is_current_stream_capturing():  # nothing runs yet then
        torch.cuda.synchronize(device)


def _total(parts: Sequence[int | None]) -> int | None:
    """Sum of the parts; None if one is unknown."""
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
