"""Starts of dreams: observations from the replay, or from episodes played for the purpose."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from drama.replay import ReplayBuffer
from drama.replay.storage import ReplayStore
from drama.training.checkpoint import Checkpoint, find_checkpoint
from drama.types import ObsArray

if TYPE_CHECKING:
    from drama.agent import Agent

CONTEXT = 4
"""Observations that the model reads before a dream that starts within an episode."""
PLAYED = 300
"""Steps played where there is no replay."""


class Start(NamedTuple):
    """Observations that the model reads before a dream, ``C`` of them, and actions between."""

    obs: ObsArray
    """``(C, ...)``; C is 1 at the beginning of an episode."""
    action: npt.NDArray[np.int64]
    """``(C - 1,)``."""
    label: str


class _Transitions(NamedTuple):
    """Transitions in order of arrival."""

    obs: Tensor
    is_first: Tensor
    is_last: Tensor
    action: Tensor


def find_starts(agent: Agent, run: Path | None, count: int) -> list[Start]:
    """Return up to ``count`` different starts, beginnings of episodes first.

    Half of them are beginnings where there are enough, the others lie within episodes.

    Args:
        agent: The agent, which plays where there is no replay.
        run: Run directory or checkpoint, of which the newest part of the replay is read.
        count: How many, at least 1.

    Raises:
        CheckpointError: The replay is damaged.
    """
    found = None if run is None else _replayed(agent, run)
    transitions = _played(agent) if found is None else found
    first = transitions.is_first.nonzero().squeeze(1).tolist()
    beginnings = _different(transitions, [(t, t) for t in first], (count + 1) // 2)
    inside = [
        (t - CONTEXT + 1, t)
        for t in range(CONTEXT - 1, len(transitions.action))
        if not transitions.is_last[t] and not transitions.is_first[t - CONTEXT + 2 : t + 1].any()
    ]
    within = _different(transitions, inside, count - len(beginnings))
    return [_start(transitions, *span) for span in (*beginnings, *within)]


def _start(transitions: _Transitions, begin: int, end: int) -> Start:
    label = "start of an episode" if begin == end else "within an episode"
    obs = transitions.obs[begin : end + 1].numpy()
    return Start(obs, transitions.action[begin:end].numpy(), label)


def _different(
    transitions: _Transitions, spans: list[tuple[int, int]], count: int
) -> list[tuple[int, int]]:
    """Return up to ``count`` evenly spaced spans whose last observations differ."""
    by_frame = {
        hashlib.sha256(transitions.obs[end].numpy().tobytes()).digest(): (begin, end)
        for begin, end in spans
    }
    different = list(by_frame.values())
    if len(different) <= count:
        return different
    return [different[i * len(different) // count] for i in range(count)]


def _replayed(agent: Agent, run: Path) -> _Transitions | None:
    checkpoint, directory = find_checkpoint(run)
    if directory is None or not checkpoint.segments:
        return None
    buffer = _newest_segment(agent, checkpoint, directory)
    slots = torch.arange(buffer.total - len(buffer), buffer.total) % buffer.capacity
    columns = buffer.columns
    return _Transitions(*(columns[name][slots] for name in _Transitions._fields))


def _newest_segment(agent: Agent, checkpoint: Checkpoint, directory: Path) -> ReplayBuffer:
    """Read the newest segment, not the whole ring, which may be gigabytes."""
    segment = checkpoint.segments[-1]
    size = segment["stop"] - segment["start"]
    config = dataclasses.replace(agent.config.replay, capacity=size, random_shift=(0, 0))
    buffer = ReplayBuffer(config, agent.world_model.observations)
    store = ReplayStore(directory / "replay")
    store.load(buffer, [segment], segment["stop"], agent.world_model.actions)
    return buffer


def _played(agent: Agent) -> _Transitions:
    """Play with sampled actions."""
    env = agent.new_env()
    rows: list[tuple[ObsArray, bool, bool, int]] = []
    obs, _ = env.reset()
    state, first = None, True
    while len(rows) < PLAYED:
        action, state = agent.predict(obs, state, np.array([first]))
        rows.append((obs, first, False, int(action)))
        obs, _, terminated, truncated, _ = env.step(action)
        first = False
        if terminated or truncated:
            rows.append((obs, False, True, 0))
            obs, _ = env.reset()
            first = True
    env.close()
    frames, is_first, is_last, actions = zip(*rows, strict=True)
    return _Transitions(
        torch.from_numpy(np.stack(frames)),
        torch.tensor(is_first),
        torch.tensor(is_last),
        torch.tensor(actions),
    )
