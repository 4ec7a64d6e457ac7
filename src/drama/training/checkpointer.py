"""Saving and restoring a run: every part of it, the replay and the lengths of its logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import gymnasium as gym
import torch

from drama.actions import ActionSpace
from drama.behaviour import Behaviour
from drama.config import Config
from drama.envs import describe
from drama.files import truncate, write_text
from drama.replay import ReplayBuffer
from drama.replay.storage import ReplayStore
from drama.training.checkpoint import Checkpoint, CheckpointDir
from drama.training.events import Events
from drama.training.schema import check_resumable
from drama.training.weights import model_tensors
from drama.world_model import WorldModel

NO_LOGS = {"metrics": 0, "episodes": 0}


class Part(Protocol):
    """Something whose state decides how a run continues.

    States are dictionaries by file of a checkpoint: tensors by name in ``model``, ``optimiser`` and
    ``loop``, JSON-able fields in ``state``. Names are unique within a file.
    """

    def state(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what to save."""
        ...

    def load_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore it from the files of a checkpoint, which hold the states of all parts."""
        ...


class Checkpointer:
    """Writes the checkpoints of one run directory and restores them.

    Args:
        run_dir: The run directory.
        config: Its configuration.
        parts: What to save, by name; restored in this order.
        replay: Its transitions are saved in segments.
        events: Receives notes and warnings.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        parts: Mapping[str, Part],
        replay: ReplayBuffer,
        events: Events,
    ) -> None:
        self.run_dir = run_dir
        self.config = config
        self.parts = parts
        self.replay = replay
        self.events = events
        self.directory = CheckpointDir(run_dir, config.training.keep_checkpoints)
        self.store = ReplayStore(run_dir / "replay")

    def save(self, step: int, logs: Mapping[str, int] = NO_LOGS, *, resumable: bool = True) -> Path:
        """Write one checkpoint, then delete those that are not kept.

        Args:
            step: Environment steps made.
            logs: Bytes of each log.
            resumable: Also save what only training needs: replay, optimisers, random states.

        Returns:
            Its directory.
        """
        saved: dict[str, dict[str, Any]] = {"model": {}, "optimiser": {}, "loop": {}, "state": {}}
        for part in self.parts.values():
            for file, content in part.state().items():
                saved[file].update(content)
        state = {**saved.pop("state"), "threads": torch.get_num_threads()}
        self.directory.write(
            step,
            config=self.config.to_json(),
            state=state,
            tensors=saved if resumable else {"model": saved["model"]},
            segments=self.store.save(self.replay) if resumable else [],
            logs=logs,
        )
        self._prune(step)
        return self.directory.at(step)

    def _prune(self, newest: int) -> None:
        self.store.prune(self.directory.prune(newest))

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore replay and parts; the run directory does not change.

        Raises:
            CheckpointError: A file is damaged, or does not fit.
        """
        state = checkpoint.state()
        check_resumable(state, checkpoint.path)
        tensors = {file: checkpoint.tensors(file) for file in ("optimiser", "loop")}
        total, actions = state["replay_total"], ActionSpace.from_state(state)
        self.store.load(self.replay, checkpoint.segments, total, actions)
        for part in self.parts.values():
            part.load_state({**tensors, "state": state})
        if state["threads"] != torch.get_num_threads():
            self.events.note(
                f"saved with {state['threads']} threads, now {torch.get_num_threads()}: "
                "sums round differently, so the run will not be bit-for-bit the same"
            )

    def roll_back(self, checkpoint: Checkpoint) -> None:
        """Make ``checkpoint`` the last one, and cut the logs to their length at that step."""
        step = checkpoint.step
        later = [path.name for path in self.directory.all() if int(path.name) > step]
        if later:
            self.events.note(
                f"continuing from step {step}: later checkpoints ({', '.join(later)}) and log "
                "rows are deleted"
            )
        self.directory.publish(step)
        self._prune(step)
        for name, size in checkpoint.manifest["logs"].items():
            path = self.run_dir / f"{name}.jsonl"
            if truncate(path, size) < size:
                self.events.warn(
                    f"{path} is shorter than when this checkpoint was written: some of its rows "
                    "are lost"
                )

    def repair(self) -> None:
        """Write deleted files of the run directory again, with a warning."""
        if self.store.vanished():
            self.events.warn(
                f"files of {self.store.directory} were deleted: the whole replay is written again"
            )
        config = self.run_dir / "config.json"
        if not config.is_file():
            write_text(config, self.config.to_json())


def write_untrained(
    run_dir: Path,
    config: Config,
    world_model: WorldModel,
    behaviour: Behaviour,
    env: gym.Env[Any, Any],
) -> None:
    """Write a checkpoint of an agent that has not been trained: its weights alone."""
    CheckpointDir(run_dir).write(
        0,
        config=config.to_json(),
        state={
            "step": 0,
            **world_model.actions.state(),
            **world_model.observations.state(),
            "env": describe(env),
        },
        tensors={"model": model_tensors(world_model, behaviour)},
        segments=[],
        logs=NO_LOGS,
    )
