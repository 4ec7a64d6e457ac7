"""The training loop: step the environment, train the world model, train in its dreams."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from drama.behaviour import Behaviour, Player, imagine
from drama.config import Config
from drama.envs.guard import guards_of
from drama.envs.survey import EnvSurvey
from drama.errors import CheckpointError, NonFiniteError
from drama.files import tensor_like, truncate, write_text
from drama.ops.dispatch import on_cpu
from drama.replay import Purpose, ReplayBuffer
from drama.replay.storage import ReplayStore
from drama.training import snapshot
from drama.training.checkpoint import Checkpoint, CheckpointDir, write_checkpoint
from drama.training.compiled import compile_functions
from drama.training.contention import ContentionWatch
from drama.training.device import autocast, pick_dtype, pick_replay_device, training_mode
from drama.training.graphs import Recorded, Update, shared_place
from drama.training.memory import check_room
from drama.training.metrics import Clock, Meter, RunLog, TimeSplit
from drama.training.optim import Optimiser
from drama.training.resume import compare
from drama.training.schedule import NAMES, Kind, shortfall, updates_due, why_no_update
from drama.training.schema import check_resumable
from drama.training.stream import EnvStream, EpisodeEnd
from drama.types import Batch, PolicyState, Transition
from drama.world_model import WorldModel
from drama.world_model.latent import Randomness, uniform_numbers

Event = Literal["step", "episode", "metrics", "checkpoint", "note", "warning"]
Listener = Callable[[Event, Any], "bool | None"]
"""Receives every event; returning False on ``"step"`` ends training."""

MANY_ACTIONS = 10_000
"""Actions whose repetition at a resume takes long enough to be announced."""


class Trainer:
    """Everything that decides what happens next in a run, and the loop that moves it.

    Args:
        config: The resolved configuration.
        env: Adapted training environment.
        world_model: Trained in place.
        behaviour: Trained in place.
        run_dir: Where logs and checkpoints go; None keeps everything in memory.
        listeners: Called with each event, in order.
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
        self.world_model = world_model.eval()
        self.behaviour = behaviour.eval()
        self.device = next(world_model.parameters()).device
        self.dtype = pick_dtype(config.training.precision, self.device)
        self.run_dir = run_dir
        self.listeners = listeners

        space = env.observation_space
        image = space.dtype == np.uint8
        obs_shape = tuple(space.shape or ())
        ring = pick_replay_device(config.replay.device, self.device)
        check_room(config, obs_shape, ring, self.device)
        self.replay = ReplayBuffer(
            config.replay,
            obs_shape,
            torch.uint8 if image else torch.float32,
            device=ring,
            behaviour_scale=config.behaviour.batch_size / config.world_model.batch_size,
            starts_at_first=config.behaviour.start_at_episode_starts,
        )
        self.stream = EnvStream(env, config.seed)
        self._survey = EnvSurvey(env)
        self._guards = guards_of(env)
        c = config.behaviour
        self.player = Player(world_model, behaviour, c.policy_latent, c.policy_context, c.lookahead)
        self.player_state: PolicyState = self.player.init_state(1)
        self.world_model_optimiser = Optimiser(
            world_model.named_parameters(), config.world_model.optim
        )
        self.behaviour_optimiser = Optimiser(behaviour.named_parameters(), config.behaviour.optim)

        self.optimisers = {
            "world_model": self.world_model_optimiser,
            "behaviour": self.behaviour_optimiser,
        }
        # Independent sources, so that one more draw in one place moves nothing in another.
        seeds = np.random.SeedSequence(config.seed).generate_state(4, dtype=np.uint64)
        self.rng = np.random.default_rng(seeds[0])
        self.generators = {
            "acting": torch.Generator(self.device).manual_seed(int(seeds[1] >> 1)),
            "learning": torch.Generator(self.device).manual_seed(int(seeds[2] >> 1)),
            "replay": torch.Generator(self.replay.device).manual_seed(int(seeds[3] >> 1)),
        }
        self._compiled = (
            compile_functions(world_model, behaviour) if config.training.compile else None
        )
        self._learn = self._programs()

        self._pending: list[Transition] = []  # what the stream has yielded, until it is stored
        self.step = 0
        """Environment steps made."""
        self.steps_before = 0
        """Those of the agent before it was saved without what learning needs; they change nothing
        here, but checkpoints keep them."""
        self.updates: dict[Purpose, int] = {"world_model": 0, "behaviour": 0}
        """Updates of each kind."""
        self.episodes = 0
        """Whole episodes finished."""
        self.meter = Meter()
        self.clock = Clock()
        self._clocked_from = 0  # step at which this process began
        self._row_from = 0  # step after the last row of metrics
        self.log: RunLog | None = None
        self.store = ReplayStore(run_dir / "replay") if run_dir else None
        self.checkpoints = (
            CheckpointDir(run_dir, config.training.keep_checkpoints) if run_dir else None
        )
        self._saved_at = -1
        self._warned: set[str] = set()
        self._contention = ContentionWatch()
        self._saved_time = time.monotonic()

    # -- the loop -----------------------------------------------------------------------------

    def run(self, until: int) -> None:
        """Train until ``until`` environment steps have been made, or a listener says stop.

        Raises:
            NonFiniteError: A loss or gradient is NaN or Inf; the last checkpoint stands.
            EnvFaultError: The environment broke its contract. Whatever an environment raises,
                what was learnt until then is saved first.
        """
        self._warn_once(shortfall(self.config, until))
        with self.clock.phase("other"):  # what no phase within accounts for
            self._loop(until)
        self._warn_once(self._unlearnt())

    def _warn_once(self, text: str | None) -> None:
        """Warn, but not anew at each of many short calls."""
        kind = "" if text is None else text.partition(":")[0]
        if text is not None and kind not in self._warned:
            self._warned.add(kind)
            self.warn(text)

    def _unlearnt(self) -> str | None:
        """Say what has not been trained at all, and why."""
        without: list[Kind] = [kind for kind, count in self.updates.items() if not count]
        if not without:
            return None
        reason = why_no_update(self.config, self.step, without[0])
        if len(without) == len(self.updates):
            return f"nothing was learnt: {reason}"
        return f"the {NAMES[without[0]]} was not trained: {reason}"

    def _loop(self, until: int) -> None:
        self._open_log()
        keep_going = True
        while keep_going and self.step < until:
            self.collect()
            self._learn_by(self.step)
            if on_cpu(self.device):
                self._warn_once(self._contention.scan(self.updates, self.clock.totals()))
            if self.step % self.config.training.log_every == 0:
                self.flush_metrics()
            if self.step % self.config.training.checkpoint_every == 0 or self._save_is_due():
                self.save()
            keep_going = self._tell("step", self.step)
        self.save()

    def _save_is_due(self) -> bool:
        """Whether the last checkpoint is older than ``checkpoint_minutes``."""
        minutes = self.config.training.checkpoint_minutes
        return bool(minutes) and time.monotonic() - self._saved_time >= 60 * minutes

    def _learn_by(self, step: int) -> None:
        """Make the updates that are due once ``step`` environment steps have been made."""
        for purpose, due in updates_due(self.config.training, step).items():
            while self.updates[purpose] < due:
                self.update(purpose)

    def collect(self) -> None:
        """Take one environment step and keep what it yields."""
        self._keep_pending()  # an interrupt may have come between
        if self.stream.is_lost():
            self._cut_episode(
                "the environment was used by others, or a step of it was broken off: its episode "
                "is cut here and a new one begins"
            )
        before, learning = self.player_state, False
        try:
            with self.clock.phase("env"):
                unseen = self.stream.start()
            if unseen is not None:
                self._finish_episode(unseen)
            with self.clock.phase("acting"):
                action = self._choose_action()
            if self.config.training.overlap:
                learning = True
                self._learn_by(self.step + 1)  # a GPU works on it while the environment steps
                learning = False
            with self.clock.phase("env"):
                self._pending, end = self.stream.step(action)
        except BaseException as error:
            # The action does not count as taken, so the acting state must not have read it.
            self.player_state = before
            # A failed update may leave anything behind: the last checkpoint is the better one.
            if isinstance(error, Exception) and not learning:
                self.save()
            raise
        self.step += 1
        self._keep_pending()
        self._warn_of_env()
        if end is not None:
            self._finish_episode(end)

    def _keep_pending(self) -> None:
        with self.clock.phase("replay"):
            while self._pending:
                self.replay.append(self._pending[0])
                if self.step <= self.config.training.warmup_steps:
                    self._survey.add(self._pending[0])
                del self._pending[0]

    def _warn_of_env(self) -> None:
        """Report what its guard converted and, when the warm-up ends, what random play showed."""
        for guard in self._guards:
            while guard.notes:
                self.warn(guard.notes.pop(0))
        if self.step == self.config.training.warmup_steps:
            seconds = self.clock.totals().get("env", 0.0)
            findings = self._survey.findings(seconds=seconds, replay_bytes=self.replay.nbytes)
            for text in findings:
                self.warn(text)

    def _cut_episode(self, why: str) -> None:
        """End the episode at the newest row, for it cannot be continued."""
        last = self.stream.cut()
        if last is not None:
            self.replay.mark_cut()
            if self.store is not None:
                self.store.reopen(self.replay.total - 1)
            self.replay.append(last)
        self.note(why)

    def _choose_action(self) -> int:
        if self.step < self.config.training.warmup_steps:
            return self._random_action()
        assert self.stream.obs is not None
        # Neither waits for the updates that a GPU is still busy with; the action does.
        obs = torch.from_numpy(self.stream.obs).unsqueeze(0)
        obs = obs.to(self.device, non_blocking=self.device.type == "cuda")
        is_first = torch.full((1,), self.stream.is_first, device=self.device)
        action, self.player_state = self.player.act(
            obs, self.player_state, is_first, self.generators["acting"]
        )
        return int(action)

    def _random_action(self) -> int:
        hold, taken = self.config.training.random_action_repeat, self.stream.actions
        if hold > 1 and taken and self.rng.random() >= 1 / hold:
            return taken[-1]
        return int(self.rng.integers(self.world_model.num_actions))

    def _finish_episode(self, end: EpisodeEnd) -> None:
        self.episodes += 1
        if self.log is not None:
            row = {
                "step": self.step,
                "return": end.ret,
                "length": end.length,
                "seconds": round(end.seconds, 3),
            }
            with self.clock.phase("logging"):
                self.log.write_episode(row)
        self._tell("episode", end)

    def update(self, purpose: Purpose) -> None:
        """Make one update of the world model or of the behaviour."""
        with self.clock.phase(purpose):
            metrics = self._learn[purpose]()
            self.updates[purpose] += 1
            self.meter.add(metrics, purpose)

    @property
    def records(self) -> bool:
        """Whether updates are recorded as CUDA graphs, and replayed."""
        beside = self.device.type == "cuda" and self.replay.device == self.device
        return beside and self.config.training.cuda_graphs

    def forget_recordings(self) -> None:
        """Record anew what is recorded: a size has changed."""
        self._learn = self._programs()

    def _programs(self) -> dict[Purpose, Update]:
        """Both kinds of update, to be recorded as CUDA graphs where that is possible."""
        learn: dict[Purpose, Update] = {
            "world_model": self._learn_world_model,
            "behaviour": self._learn_behaviour,
        }
        if not self.records:
            return learn
        place = shared_place(self.device)
        drawn = (self.generators["learning"], self.generators["replay"])
        return {k: Recorded(update, drawn, self.device, place) for k, update in learn.items()}

    def _learn_world_model(self) -> dict[str, Tensor]:
        """One gradient step of the world model on replayed windows."""
        c = self.config.world_model
        with self.clock.phase("replay"):
            batch = self._sample("world_model", c.batch_size, c.batch_length)
        random: Randomness = self.generators["learning"]
        loss_of = self.world_model.loss
        if self._compiled is not None:
            loss_of = self._compiled.world_model_loss
            shape = (c.batch_size, c.batch_length, c.latent_variables)
            random = uniform_numbers(shape, batch.reward, self.generators["learning"])
        with training_mode(self.world_model):
            with autocast(self.device, self.dtype):
                loss, metrics = loss_of(batch, random)
            norm = self._apply(self.world_model_optimiser, loss, metrics, "world_model")
        return {**metrics, "grad_norm": norm}

    def _learn_behaviour(self) -> dict[str, Tensor]:
        """One update of actor and critic on imagined trajectories."""
        c = self.config.behaviour
        with self.clock.phase("replay"):
            context = self._sample("behaviour", c.batch_size, c.context)
        with self.clock.phase("imagination"), autocast(self.device, self.dtype):
            rollout = imagine(
                self.world_model,
                self.behaviour,
                context,
                c.horizon,
                self.generators["learning"],
                start_at_episode_starts=c.start_at_episode_starts,
                memory=c.policy_context,
                one_step_return=self.behaviour.one_step_return
                if c.actor_gradient == "all-actions"
                else None,
                compiled_step=self._compiled.imagine_step if self._compiled else None,
            )
        loss_of = self._compiled.behaviour_loss if self._compiled else self.behaviour.loss
        steps = []
        with training_mode(self.behaviour):
            with autocast(self.device, self.dtype):
                batches = self.behaviour.batches(rollout, self.generators["learning"])
            for batch in batches:
                with autocast(self.device, self.dtype):
                    loss, metrics = loss_of(batch)
                norm = self._apply(self.behaviour_optimiser, loss, metrics, "behaviour")
                self.behaviour.after_step()
                steps.append({**metrics, "grad_norm": norm})
        return {name: torch.stack([step[name] for step in steps]).mean() for name in steps[0]}

    def _sample(self, purpose: Purpose, batch_size: int, length: int) -> Batch:
        batch = self.replay.sample(purpose, batch_size, length, self.generators["replay"])
        if self.replay.device == self.device:
            return batch
        return batch.to(self.device)

    def _apply(
        self, optimiser: Optimiser, loss: Tensor, metrics: dict[str, Tensor], name: str
    ) -> Tensor:
        norm = optimiser.backward(loss)
        # On the CPU looking costs nothing, and stops a bad step before it is taken. Elsewhere
        # it would be a host sync, so the running means are looked at when they are flushed.
        if on_cpu(self.device) and not bool(torch.isfinite(norm) & torch.isfinite(loss)):
            raise NonFiniteError(self._blame(optimiser, metrics, name))
        optimiser.step()
        return norm.detach()

    def _blame(self, optimiser: Optimiser, metrics: dict[str, Tensor], name: str) -> str:
        bad = next((k for k, v in metrics.items() if not bool(torch.isfinite(v))), None)
        where = f"loss {name}/{bad}" if bad else None
        if where is None:
            gradient = optimiser.non_finite_gradient()
            where = f"gradient of {name}.{gradient}" if gradient else f"gradient norm of {name}"
        return f"{where} is NaN or Inf at environment step {self.step}{self._last_good()}"

    def _last_good(self) -> str:
        if self.checkpoints is None:
            return ""
        if self._saved_at < 0:
            return "; no checkpoint had been written"
        return f"; the last good checkpoint is {self.checkpoints.at(self._saved_at)}"

    # -- logs ---------------------------------------------------------------------------------

    def _open_log(self, first_step: int | None = None) -> None:
        if self.run_dir is not None and self.log is None:
            with self.clock.phase("logging"):
                self.log = RunLog(
                    self.run_dir,
                    tensorboard=self.config.training.tensorboard,
                    wandb=self.config if self.config.training.wandb else None,
                    first_step=self.step if first_step is None else first_step,
                )

    def flush_metrics(self) -> None:
        """Write one row of means and start new ones, unless no step was made since the last row.

        Raises:
            NonFiniteError: One of them is NaN or Inf.
        """
        if self.step == self._row_from:
            return
        with self.clock.phase("logging"):
            means = self._checked_means()
            self.meter.clear()
            row: dict[str, float] = {
                "step": self.step,
                "episodes": self.episodes,
                "updates": self.updates["world_model"],
                **means,
                **TimeSplit(self.clock.flush(), self.step - self._row_from).row(),
            }
            self._row_from = self.step
            if self.log is not None:
                self.log.write_metrics(row)
        self._tell("metrics", row)

    def time_split(self) -> TimeSplit:
        """Return where the time of the steps made in this process went."""
        return TimeSplit(self.clock.totals(), self.step - self._clocked_from)

    def _checked_means(self) -> dict[str, float]:
        self.replay.check()
        means = self.meter.means()
        for key, value in means.items():
            if not np.isfinite(value):
                raise NonFiniteError(
                    f"{key} became NaN or Inf by environment step {self.step}{self._last_good()}"
                )
        return means

    def _check_weights(self) -> None:
        for name, tensor in snapshot.model_tensors(self.world_model, self.behaviour).items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise NonFiniteError(
                    f"weight {name} is NaN or Inf at environment step {self.step}"
                    f"{self._last_good()}"
                )

    def _tell(self, event: Event, payload: Any) -> bool:
        # Every listener hears every event, also after one has asked to stop.
        with self.clock.phase("callbacks"):
            answers = [listener(event, payload) for listener in self.listeners]
        return all(answer is None or bool(answer) for answer in answers)

    # -- saving and resuming ------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint of everything, if the run has a directory.

        Raises:
            NonFiniteError: A running mean or a weight is NaN or Inf: not a state worth keeping.
        """
        if self.checkpoints is None or self.store is None or self._saved_at == self.step:
            return
        with self.clock.phase("checkpoint"):
            self._checked_means()
            self._check_weights()
            self._open_log()
            assert self.log is not None
            # Synced first: a checkpoint must not promise rows that a power cut may still take.
            logs = {"metrics": self.log.metrics.sync(), "episodes": self.log.episodes.sync()}
            self._mend_directory(self.log, self.store)
            self._write(self.checkpoints, self.store, logs)
        self._saved_at, self._saved_time = self.step, time.monotonic()
        self._tell("checkpoint", self.checkpoints.at(self.step))

    def _mend_directory(self, log: RunLog, store: ReplayStore) -> None:
        """Write again what somebody has deleted from the run directory, and report it."""
        assert self.run_dir is not None
        for file in (log.metrics, log.episodes):
            if file.vanished:
                self.warn(f"{file.path.name} had vanished: begun anew, earlier lines are lost")
                file.vanished = False
        if store.vanished():
            self.warn(f"files of {store.directory} had vanished: the whole replay is written again")
        config = self.run_dir / "config.json"
        if not config.is_file():
            write_text(config, self.config.to_json())

    def save_to(self, directory: Path, *, everything: bool = True) -> None:
        """Write one checkpoint into another run directory, leaving this run as it is.

        Args:
            directory: An empty run directory.
            everything: Also what only learning needs: replay, optimisers, random states.
        """
        store = ReplayStore(directory / "replay") if everything else None
        self._write(CheckpointDir(directory), store, {"metrics": 0, "episodes": 0})

    def _write(
        self, checkpoints: CheckpointDir, store: ReplayStore | None, logs: dict[str, int]
    ) -> None:
        tensors, state = snapshot.take(self)
        if store is None:
            tensors = {"model": tensors["model"]}
        write_checkpoint(
            checkpoints.at(self.step),
            step=self.step,
            config=self.config.to_json(),
            state=state,
            tensors=tensors,
            segments=store.save(self.replay) if store is not None else [],
            logs=logs,
        )
        checkpoints.publish(self.step)
        needed = checkpoints.prune(newest=self.step)
        if store is not None:
            store.prune(needed)

    def load(self, checkpoint: Checkpoint) -> None:
        """Become the trainer that wrote ``checkpoint``; the model's weights are loaded already.

        Raises:
            CheckpointError: A file is damaged, or does not fit.
        """
        _, others = compare(Config.from_json(checkpoint.text("config.json")), self.config)
        state = checkpoint.state()
        check_resumable(state, checkpoint.path)
        loop = checkpoint.tensors("loop")
        try:
            snapshot.restore(self, state, loop, checkpoint.tensors("optimiser"))
        except KeyError as error:
            raise CheckpointError(
                f"this checkpoint lacks {error}: another version of drama wrote it. It can be "
                "evaluated, but not continued"
            ) from error
        if self.store is None or self.checkpoints is None or self.run_dir is None:
            raise CheckpointError("a run can only be continued in its directory")
        self.store.load(
            self.replay, checkpoint.segments, state["replay_total"], self.world_model.num_actions
        )
        self.replay.load_state({"loop": loop})
        self._saved_at = self.step
        self._clocked_from = self._row_from = self.step
        # If the run goes back to an older checkpoint, that is the last one from now on.
        later = [path.name for path in self.checkpoints.all() if int(path.name) > self.step]
        if later:
            self.note(
                f"going on from step {self.step}: what the run wrote after it is dropped "
                f"(checkpoints {', '.join(later)} and the rows of its logs)"
            )
        self.checkpoints.publish(self.step)
        self.store.prune(self.checkpoints.prune(newest=self.step))
        # What a killed run logged after its last checkpoint is made again.
        for name, size in checkpoint.manifest["logs"].items():
            path = self.run_dir / f"{name}.jsonl"
            if truncate(path, size) < size:
                self.warn(
                    f"{path} is shorter than when this checkpoint was written: some of its rows "
                    "are lost"
                )
        self._open_log(first_step=self.step + 1)
        if others:
            self.note(f"going on with other settings than before: {', '.join(others)}")
        if state["threads"] != torch.get_num_threads():
            self.note(
                f"saved with {state['threads']} threads, now {torch.get_num_threads()}: "
                "sums round differently, so the run will not be bit-for-bit the same"
            )
        if "obs" in loop:
            like = self.replay.columns["obs"][0].cpu()
            obs = tensor_like(loop, "obs", like).numpy()
            actions = snapshot.saved_actions(loop, self.world_model.num_actions)
            self._return_to(actions, obs, state["stream"])
        else:  # cut, and not begun again since
            self.stream.seed = state["stream"].get("seed", self.stream.seed)

    def _return_to(self, actions: list[int], obs: Any, position: dict[str, Any]) -> None:
        if len(actions) > MANY_ACTIONS:
            self.note(f"taking {len(actions):,} actions again to bring the environment back")
        if not self.stream.return_to(actions, obs, position):
            self._cut_episode(
                "the environment does not repeat itself from its seed: its episode is cut here "
                "and a new one begins, so the run will not be bit-for-bit the same"
            )

    def note(self, text: str) -> None:
        """Report a fact about the run: one line."""
        self._tell("note", text)

    def warn(self, text: str) -> None:
        """Report what may keep the run from learning: one line."""
        self._tell("warning", text)

    def close(self) -> None:
        """Close the logs; the environment belongs to the caller."""
        if self.log is not None:
            self.log.close()
            self.log = None
