"""Calibration: training speed and memory of each preset on this machine."""

from __future__ import annotations

import gc
import importlib.util
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from drama.agent import Agent
from drama.config import Config
from drama.errors import ConfigError
from drama.machine.costs import Calibration, PresetCost, Unmeasured
from drama.machine.measurement import OutOfTime, check_time, measure
from drama.text import first_line
from drama.training.device import pick_device, process_settings

ATARI = "ALE/Pong-v5"
"""Default environment of the measurement."""
SECONDS = 30.0
"""Default time limit for all presets together."""


class RandomFrames(gym.Env[Any, Any]):
    """Random 64x64 frames and six actions: replaces Pong where ale-py is not installed."""

    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Return a random frame."""
        super().reset(seed=seed)
        return self._frame(), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Return a random frame and reward 0; episodes do not end."""
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
    """Measure time and memory of each preset's training on this machine.

    Updates too slow for the time limit are measured on smaller batches and marked as estimates;
    presets that the time limit does not reach stay unmeasured. Thread counts, memory management
    and random states of the process are restored; no file is written.

    Args:
        presets: Functions that make the configurations, by preset name.
        env: Environment id. None: an Atari game, or random frames without ``ale-py``.
        device: As ``config.device``.
        seconds: Wall time after which no measurement starts; the current one ends (building one
            model, or one update of a small batch). Presets share it equally.
        progress: Called with a description of the next measurement.
        found: Called after each preset with all results so far; the last preset is new.

    Raises:
        ConfigError: ``presets`` is empty, ``seconds`` is not positive, or the device is missing.
        EnvError: The environment cannot be used.
    """
    if not presets:
        raise ConfigError("calibration needs at least one preset")
    if not 0 < seconds < math.inf:
        raise ConfigError(f"the time limit of a calibration must be positive, got {seconds:g} s")
    pick_device(device)
    name = env if env is not None else ATARI if importlib.util.find_spec("ale_py") else None
    began = time.perf_counter()
    deadline = began + seconds
    costs: list[PresetCost | Unmeasured] = []
    observations = ""
    actions = 0
    known = Calibration(name, observations, actions, 0.0, ())
    for index, (preset, make) in enumerate(presets.items()):
        now = time.perf_counter()
        until = now + (deadline - now) / (len(presets) - index)
        try:
            check_time(deadline)
            progress(f"measuring preset {preset}")
            agent = Agent(RandomFrames() if name is None else name, make(), device=device)
        except OutOfTime:
            costs.append(_out_of_time(preset, seconds))
        except ConfigError as error:  # the model does not fit the environment's observations
            costs.append(Unmeasured(preset, first_line(error)))
        else:
            observations = str(agent.world_model.observations)
            actions = agent.world_model.actions.count
            try:
                with process_settings(agent.config.training, agent.device):
                    costs.append(measure(preset, agent, until, deadline))
                    gc.collect()  # while the heap still keeps freed memory
            except OutOfTime:
                costs.append(_out_of_time(preset, seconds))
            finally:
                agent.env.close()
        seconds_taken = time.perf_counter() - began
        known = Calibration(name, observations, actions, seconds_taken, tuple(costs))
        found(known)
    return known


def _out_of_time(preset: str, seconds: float) -> Unmeasured:
    return Unmeasured(preset, f"not measured in {seconds:g} s")
