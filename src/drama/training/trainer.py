"""The training loop: collect experience, update the world model, update the behaviour."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from drama.behaviour import Behaviour, Player
from drama.config import Config
from drama.errors import CheckpointError, NonFiniteError
from drama.ops.dispatch import on_cpu
from drama.replay import Purpose, ReplayBuffer
from drama.training.checkpoint import Checkpoint
from drama.training.checkpointer import Checkpointer, Part
from drama.training.clock import Clock, TimeSplit
from drama.training.collector import Collector
from drama.training.contention import ContentionWatch
from drama.training.device import pick_replay_device
from drama.training.events import Events, Listener
from drama.training.learner import Learner
from drama.training.memory import check_room
from drama.training.metrics import Meter, RunLog
from drama.training.randomness import RandomSources
from drama.training.resume import compare
from drama.training.schedule import shortfall, unlearnt, updates_due
from drama.training.stream import EnvStream, EpisodeEnd
from drama.world_model import WorldModel


class Trainer:
    """The parts of a run and the loop over them.

    Args:
        config: The resolved configuration.
        env: Adapted training environment.
        world_model: Trained in place.
        behaviour: Trained in place.
        run_dir: Directory of logs and checkpoints; None keeps everything in memory.
        listeners: Receive each event, in order.
    """

    def __init__(
        self,
        config: Config,
        env: gym.Env[Any, Any],
        world_model: WorldModel,
        behaviour: Behaviour,
        *,
        run_dir: Path | None = None,
        listeners: tuple[Listener, ...] = (),
    ) -> None:
        self.config = config
        self.run_dir = run_dir
        self.clock = Clock()
        self.events = Events(self.clock, listeners)
        device = next(world_model.parameters()).device
        self.replay = _make_replay(config, env, device)
        self.random = RandomSources(config.seed, device, self.replay.device, self.events)
        self.learner = Learner(config, world_model, behaviour, self.replay, self.random, self.clock)
        self.stream = EnvStream(env, config.seed)
        player = Player(world_model, behaviour, config.behaviour)
        self.collector = Collector(
            config, self.stream, player, self.replay, self.random, self.events
        )
        self.meter = Meter(device)
        self.parts: dict[str, Part] = {
            "learner": self.learner,
            "random": self.random,
            "meter": self.meter,
            "replay": self.replay,
            "collector": self.collector,  # last: it may cut the episode that it restores
        }
        """Everything that decides how the run continues."""
        self.log: RunLog | None = None
        self.checkpointer = self._checkpointer(run_dir) if run_dir else None
        self._contention = ContentionWatch()
        self._saved_at = -1  # step of the last checkpoint
        self._saved_time = time.monotonic()
        self._clocked_from = 0  # step at which this process began
        self._row_from = 0  # step of the last row of metrics

    @property
    def step(self) -> int:
        """Environment steps made."""
        return self.collector.step

    # -- the loop -----------------------------------------------------------------------------

    def run(self, until: int) -> None:
        """Train until ``until`` environment steps have been made, or a listener ends it.

        Raises:
            NonFiniteError: A loss or gradient is NaN or Inf; the last checkpoint stands.
            EnvFaultError: The environment broke its contract. Whatever an environment raises, the
                run is saved first.
        """
        self.events.warn_once(shortfall(self.config, until))
        with self.clock.phase("other"):  # whatever no inner phase accounts for
            self._open_log(self.step)
            go_on = True
            while go_on and self.step < until:
                self.collect()
                self.learn(self.step)
                if self.step % self.config.training.log_every == 0:
                    self.flush_metrics()
                if self._save_is_due():
                    self.save()
                go_on = self.events.send("step", self.step)
            self.save()
        self.events.warn_once(unlearnt(self.config, self.step, self.learner.updates))

    def collect(self) -> None:
        """Take one environment step and store its transitions."""
        with self._saved_on_error():
            self._report_episode(self.collector.begin())
            choice = self.collector.choose()
        if self.config.training.overlap:  # a GPU works on them while the environment steps
            self.learn(self.step + 1)
        with self._saved_on_error():
            end = self.collector.take(choice)
        self.collector.store(end)
        self._report_episode(end)

    def learn(self, step: int) -> None:
        """Make the updates that are due after ``step`` environment steps."""
        for purpose, due in updates_due(self.config.training, step).items():
            while self.learner.updates[purpose] < due:
                self.update(purpose)
        if on_cpu(self.learner.device):
            updates, seconds = self.learner.updates, self.clock.totals()
            self.events.warn_once(self._contention.scan(updates, seconds))

    def update(self, purpose: Purpose) -> None:
        """Make one update of the world model or of the behaviour.

        Raises:
            NonFiniteError: A loss or gradient is NaN or Inf.
        """
        with self.clock.phase(purpose), self._located():
            self.meter.add(self.learner.update(purpose), purpose)

    @contextlib.contextmanager
    def _saved_on_error(self) -> Iterator[None]:
        """Save the run if an exception is raised inside; not at an interrupt."""
        try:
            yield
        except Exception:
            self.save()
            raise

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Add the step and the last checkpoint to the message of a NonFiniteError."""
        try:
            yield
        except NonFiniteError as error:
            raise NonFiniteError(
                f"{error} at environment step {self.step}{self._last_good()}"
            ) from error

    def _last_good(self) -> str:
        if self.checkpointer is None:
            return ""
        if self._saved_at < 0:
            return "; no checkpoint had been written"
        return f"; the last good checkpoint is {self.checkpointer.directory.at(self._saved_at)}"

    # -- logs ---------------------------------------------------------------------------------

    def _open_log(self, first_step: int) -> RunLog | None:
        if self.run_dir is not None and self.log is None:
            with self.clock.phase("logging"):
                self.log = RunLog(self.run_dir, self.config, first_step=first_step)
        return self.log

    def _report_episode(self, end: EpisodeEnd | None) -> None:
        if end is None:
            return
        if self.log is not None:
            with self.clock.phase("logging"):
                self.log.write_episode({"step": self.step, **end.row()})
        self.events.send("episode", end)

    def flush_metrics(self) -> None:
        """Write one row of means and start new ones, unless no step was made since the last row.

        Raises:
            NonFiniteError: One of them is NaN or Inf.
        """
        if self.step == self._row_from:
            return
        with self.clock.phase("logging"):
            means = self._finite_means()
            self.meter.clear()
            row: dict[str, float] = {
                "step": self.step,
                "episodes": self.collector.episodes,
                "updates": self.learner.updates["world_model"],
                **means,
                **self._row_time().row(),
            }
            self._row_from = self.step
            if self.log is not None:
                self.log.write_metrics(row)
        self.events.send("metrics", row)

    def _finite_means(self) -> dict[str, float]:
        self.replay.check()
        means = self.meter.means()
        for key, value in means.items():
            if not np.isfinite(value):
                raise NonFiniteError(
                    f"{key} became NaN or Inf by environment step {self.step}{self._last_good()}"
                )
        return means

    def _row_time(self) -> TimeSplit:
        steps = self.step - self._row_from
        return TimeSplit(self.clock.flush(), steps, self.clock.flush_cpu())

    def time_split(self) -> TimeSplit:
        """Return the wall time by phase of the steps made in this process."""
        return TimeSplit(self.clock.totals(), self.step - self._clocked_from)

    # -- checkpoints --------------------------------------------------------------------------

    def _checkpointer(self, run_dir: Path) -> Checkpointer:
        return Checkpointer(run_dir, self.config, self.parts, self.replay, self.events)

    def _save_is_due(self) -> bool:
        c = self.config.training
        if self.step % c.checkpoint_every == 0:
            return True
        minutes = c.checkpoint_minutes
        return minutes > 0 and time.monotonic() - self._saved_time >= 60 * minutes

    def save(self) -> None:
        """Write a checkpoint, if the run has a directory and none of this step.

        Raises:
            NonFiniteError: A running mean or a weight is NaN or Inf, so the state is unusable.
        """
        if self.checkpointer is None or self._saved_at == self.step:
            return
        with self.clock.phase("checkpoint"):
            self._finite_means()
            with self._located():
                self.learner.check_weights()
            log = self._open_log(self.step)
            assert log is not None
            # Synced first: a checkpoint must not name rows that a power cut may still take.
            sizes = log.sync()
            for name in log.vanished():
                self.events.warn(f"{name} was deleted: started again, earlier lines are lost")
            self.checkpointer.repair()
            path = self.checkpointer.save(self.step, sizes)
        self._saved_at, self._saved_time = self.step, time.monotonic()
        self.events.send("checkpoint", path)

    def save_to(self, directory: Path, *, resumable: bool = True) -> None:
        """Write one checkpoint into another run directory; this run does not change.

        Args:
            directory: An empty run directory.
            resumable: Also save what only training needs: replay, optimisers, random states.
        """
        self._checkpointer(directory).save(self.step, resumable=resumable)

    def load(self, checkpoint: Checkpoint) -> None:
        """Restore a checkpoint of this run directory; weights must have been loaded already.

        Raises:
            CheckpointError: A file is damaged, or does not fit.
        """
        if self.checkpointer is None:
            raise CheckpointError("a run can only be continued in its directory")
        _, changed = compare(Config.from_json(checkpoint.text("config.json")), self.config)
        self.checkpointer.load(checkpoint)
        self.checkpointer.roll_back(checkpoint)
        self._saved_at = self._clocked_from = self._row_from = self.step
        self._open_log(self.step + 1)
        if changed:
            self.events.note(f"continuing with other settings than before: {', '.join(changed)}")

    def close(self) -> None:
        """Close the logs; the environment belongs to the caller."""
        if self.log is not None:
            self.log.close()
            self.log = None


def _make_replay(config: Config, env: gym.Env[Any, Any], device: torch.device) -> ReplayBuffer:
    """Return an empty replay for the observations of ``env``."""
    shape = tuple(env.observation_space.shape or ())
    replay_device = pick_replay_device(config.replay.device, device)
    check_room(config, shape, replay_device, device)
    windows_per_step = config.world_model.batch_size * config.training.world_model_ratio
    tau, imagination_tau = config.replay.temperatures(windows_per_step)
    return ReplayBuffer(
        dataclasses.replace(config.replay, tau=tau, imagination_tau=imagination_tau),
        shape,
        torch.uint8 if env.observation_space.dtype == np.uint8 else torch.float32,
        device=replay_device,
        behaviour_scale=config.behaviour.batch_size / config.world_model.batch_size,
    )
