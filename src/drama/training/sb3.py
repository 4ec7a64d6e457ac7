"""The agent as Stable-Baselines3's callbacks expect a model.

Stable-Baselines3 is no dependency: this is imported once one of its callbacks is given.
"""

from __future__ import annotations

import collections
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    EvalCallback,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import DummyVecEnv

from drama.errors import ConfigError

NEED_EVALUATION = (StopTrainingOnRewardThreshold, StopTrainingOnNoModelImprovement)
"""Callbacks that read the scores of the `EvalCallback` that calls them."""
SAVED = {"config.json", "checkpoints", "replay"}
"""Entries that `Agent.save` writes; a run directory has more."""


def check(callback: BaseCallback, parent: BaseCallback | None = None) -> None:
    """Refuse callbacks that would fail in the middle of a run.

    Args:
        callback: To be called by ``parent``.
        parent: None for one that is given to `Agent.learn`.

    Raises:
        ConfigError: A callback needs an `EvalCallback` around it.
    """
    if isinstance(callback, NEED_EVALUATION) and not isinstance(parent, EvalCallback):
        raise ConfigError(
            f"{type(callback).__name__} reads the scores of an EvalCallback: give it to one as "
            "callback_on_new_best or callback_after_eval"
        )
    for child in _children(callback):
        check(child, parent if isinstance(callback, CallbackList) else callback)


def _children(callback: BaseCallback) -> Iterator[BaseCallback]:
    for name in ("callback", "callback_on_new_best"):
        if isinstance(child := getattr(callback, name, None), BaseCallback):
            yield child
    yield from getattr(callback, "callbacks", ())


class Model:
    """Mixed into an agent's class: names of a Stable-Baselines3 model that agents lack."""

    logger: Logger
    n_envs = 1
    ep_info_buffer: collections.deque[dict[str, Any]]
    """Return ``r``, length ``l`` and seconds ``t`` of the last 100 episodes."""
    _vec_env: DummyVecEnv

    def get_env(self) -> DummyVecEnv:
        """Return the training environment as a vector of one."""
        return self._vec_env

    def get_vec_normalize_env(self) -> None:
        """Return None: observations are normalised inside the agent."""

    def dump_logs(self, iteration: int = 0) -> None:
        """Write a row of metrics, and what callbacks have recorded, now."""
        trainer: Any = self._run.trainer  # type: ignore[attr-defined]
        trainer.flush_metrics()
        self.logger.dump(trainer.step)

    def save(self, path: str | Path, *, replay: bool = True) -> None:
        """Save the agent as `Agent.save` does, replacing one saved there before."""
        path = Path(path)
        save: Any = super().save  # type: ignore[misc]
        if not (path.is_dir() and {p.name for p in path.iterdir()} <= SAVED):
            return save(path, replay=replay)  # type: ignore[no-any-return]
        new, old = (path.with_name(f".{path.name}.{end}") for end in ("new", "old"))
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        save(new, replay=replay)
        os.replace(path, old)
        os.replace(new, path)
        shutil.rmtree(os.fspath(old))


def as_model(agent: Any) -> Any:
    """Return a view of an agent that shares its state and has the names of `Model` as well."""
    own = {
        "logger": Logger(None, [_ToTheRun(agent)]),
        "ep_info_buffer": collections.deque(maxlen=100),
        "_vec_env": DummyVecEnv([lambda: agent.env]),
    }
    made = type(type(agent).__name__, (Model, type(agent)), own)
    model: Any = object.__new__(made)
    model.__dict__ = agent.__dict__
    return model


class _ToTheRun(KVWriter):
    """Sends values recorded by callbacks to TensorBoard and Weights & Biases."""

    def __init__(self, agent: Any) -> None:
        self._agent = agent
        self._board: TensorBoardOutputFormat | None = None

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        """Write one row of what was recorded since the last."""
        trainer = self._agent._run.trainer
        log = trainer.log
        if log is None or not key_values:
            return
        if trainer.config.training.tensorboard:
            if self._board is None:  # also accepts text, images and histograms
                self._board = TensorBoardOutputFormat(str(trainer.run_dir / "tensorboard"))
            self._board.write(key_values, key_excluded, step)
        numbers = (int, float, np.number)
        log.send({k: float(v) for k, v in key_values.items() if isinstance(v, numbers)}, step)

    def close(self) -> None:
        """Close the event file."""
        if self._board is not None:
            self._board.close()
            self._board = None
