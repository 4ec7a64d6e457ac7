"""The Python API: make an agent, let it learn, save it, let it play."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces

from drama import trust
from drama.attributes import constructor
from drama.behaviour import Player, make_behaviour
from drama.config import BehaviourConfig, Config, EnvConfig, Latents
from drama.envs import describe
from drama.envs.adapt import adapter_of, as_batch
from drama.envs.description import differences
from drama.envs.source import HOW_TO_GIVE, EnvLike, env_source
from drama.errors import (
    CheckpointError,
    ConfigError,
    DramaError,
    EnvError,
    RunDirError,
    UnknownEnvError,
)
from drama.evaluation import EpisodeResult, EvaluationResult, evaluate
from drama.files import write_text
from drama.machine.costs import PresetCost
from drama.machine.estimate import long_run_warning, may_be_long, measure_updates
from drama.ops.backend import backend_of
from drama.presets import fitting, label, preset
from drama.text import one_line
from drama.training import snapshot
from drama.training.callbacks import CallbackLike, Callbacks
from drama.training.checkpoint import (
    Checkpoint,
    CheckpointDir,
    copy_checkpoint,
    open_checkpoint,
)
from drama.training.device import cpu_threads, pick_device, pick_dtype, process_settings
from drama.training.metrics import TimeSplit
from drama.training.progress import Progress
from drama.training.record import facts, record_start, record_stop
from drama.training.rundir import RunLock, check_links, create_run_dir
from drama.training.trainer import Event, Listener, Trainer
from drama.training.wandb import import_wandb
from drama.types import PolicyState
from drama.world_model import WorldModel

logger = logging.getLogger("drama")


class Agent:
    """A world model, the policy trained in its dreams, and the environment they learn from.

    Args:
        env: A Gymnasium id, an environment object, or a factory of environments (the function, or
            its import path ``module:make_env``). An id or a factory is preferable: evaluation
            needs further environments. What made it is recorded in ``config.env``.
        config: Settings, or the name of a preset. None takes the preset that fits observation and
            device (`drama.presets.fitting`), logs it to the logger ``drama`` at INFO and keeps the
            reason in ``preset_reason``. An id given as ``env`` replaces the one in ``config.env``.
        seed: Replaces ``config.seed``.
        device: Replaces ``config.device``.

    Raises:
        DramaError: The environment or a setting cannot be used; the message says why.
    """

    def __init__(
        self,
        env: EnvLike | None = None,
        config: Config | str | None = None,
        *,
        seed: int | None = None,
        device: str | None = None,
    ) -> None:
        fitted = config is None
        config = _settings(config)
        self._source = env_source(env, config.env)
        config = dataclasses.replace(config, env=self._source.config)
        if seed is not None:
            config = dataclasses.replace(config, seed=seed)
        if device is not None:
            config = dataclasses.replace(config, device=device)
        self.config = config
        self.device = pick_device(config.device)
        self.env = self._source.make(config.seed)
        self._source.log_limits(self.env)
        assert isinstance(self.env.action_space, spaces.Discrete)  # adapted environments are
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space
        self._adapter = adapter_of(self.env)

        shape, actions = tuple(self.observation_space.shape or ()), int(self.action_space.n)
        self.preset_reason: str | None = None
        """Why the preset was chosen; None if the configuration was given."""
        if fitted:
            fit, self.preset_reason = fitting(shape, self.device.type)
            config = dataclasses.replace(
                fit, env=config.env, seed=config.seed, device=config.device
            )
            self.config = config
            logger.info("preset %s, chosen for %s", config.preset, self.preset_reason)
        features = config.world_model.stoch_size + config.world_model.dynamics.width
        with torch.random.fork_rng(devices=[]):  # the caller's random state is left alone
            torch.default_generator.manual_seed(config.seed)  # the CPU's alone; all is built there
            world_model = WorldModel(config.world_model, shape, actions)
            behaviour = make_behaviour(config.behaviour, features, actions)
        self.world_model = world_model.to(self.device).eval()
        self.behaviour = behaviour.to(self.device).eval()
        self._dtype = pick_dtype(config.training.precision, self.device)
        self.backend = backend_of(
            self.world_model,
            self.device,
            config.world_model.dynamics.backend,
            dtype=self._dtype,
            resets=config.world_model.reset_at_episode_start,
        )
        """What runs the SSM layers in training, and why."""
        self.player = self._player(config.behaviour)
        self._generator = torch.Generator(self.device).manual_seed(config.seed)
        self._trainer: Trainer | None = None
        self._checkpoint: Checkpoint | None = None
        self._loaded_dir: Path | None = None
        self._steps_before = 0  # those made before the steps that the checkpoint counts

    def __repr__(self) -> str:
        """Return environment, preset, size and device."""
        size = sum(p.numel() for p in self.world_model.parameters()) / 1e6
        return (
            f"Agent({self.config.env.id!r}, preset {label(self.config)}, "
            f"{size:.1f} M world-model parameters, {self.device})"
        )

    # -- learning -----------------------------------------------------------------------------

    @property
    def num_timesteps(self) -> int:
        """Environment steps learnt from so far."""
        if self._trainer is not None:
            return self._trainer.steps_before + self._trainer.step
        return self._steps_before + (0 if self._checkpoint is None else self._checkpoint.step)

    @property
    def run_dir(self) -> Path | None:
        """Directory of the run, if it has one."""
        return self._trainer.run_dir if self._trainer is not None else self._loaded_dir

    @property
    def time_split(self) -> TimeSplit | None:
        """Where the wall time of this process's learning went; None if it has not learnt."""
        return None if self._trainer is None else self._trainer.time_split()

    def learn(
        self,
        total_timesteps: int,
        callback: CallbackLike = None,
        *,
        run_dir: str | Path | None = None,
        progress_bar: bool = False,
        listeners: Iterable[Listener] = (),
    ) -> Agent:
        """Train for ``total_timesteps`` further environment steps.

        Args:
            total_timesteps: Steps to add to ``num_timesteps``.
            callback: As in Stable-Baselines3: a function of ``(locals, globals)``, an object
                with ``on_step``, or a list of those. Returning False ends training.
            run_dir: New directory for logs and checkpoints. None goes on where the run was, or
                keeps a new one in memory.
            progress_bar: Show live progress, notes and warnings on standard error. Without it
                warnings go to the logger ``drama``, notes too, at level INFO.
            listeners: Told of every event, see `drama.training.trainer.Listener`.

        Returns:
            The agent itself.

        Raises:
            ConfigError: ``total_timesteps`` is below 1, or what the settings need is not there.
            RunDirError: The directory exists or is in use.
            CheckpointError: The checkpoint to go on from is damaged.
            EnvFaultError: The environment broke its contract.
            NonFiniteError: A loss became NaN or Inf.
        """
        if total_timesteps < 1:
            raise ConfigError(f"total_timesteps must be at least 1, got {total_timesteps}")
        callbacks = Callbacks(callback, self)
        with contextlib.ExitStack() as stack:
            stack.enter_context(process_settings(self.config.training, self.device))
            trainer, checkpoint = self._prepare(None if run_dir is None else Path(run_dir), stack)
            target = (trainer.step if checkpoint is None else checkpoint.step) + total_timesteps
            stack.callback(trainer.close)
            receivers: list[Listener] = [*listeners, callbacks]
            shown = stack.enter_context(Progress(trainer, target)) if progress_bar else log_events
            receivers.append(shown)
            trainer.listeners = tuple(receivers)
            trainer.note(trainer.replay.describe())
            trainer.note(f"backend {self.backend}")
            if self._adapter is not None:
                trainer.note(f"observations: {self._adapter.adapt_observation.reading}")
            if checkpoint is not None:
                trainer.load(checkpoint)
                assert trainer.run_dir is not None  # load() insists on it
                write_text(trainer.run_dir / "config.json", self.config.to_json())
            if self._trainer is None and trainer.run_dir is not None:
                entry = facts(self.device, self._dtype, self.backend)
                changed = record_start(trainer.run_dir, trainer.step, entry)
                if changed is not None:
                    trainer.note(f"not as before: {changed}")
            if (cost := self._estimate(trainer.step, target)) is not None:
                if isinstance(shown, Progress):
                    shown.learning_seconds = cost.step_seconds
                if (long := long_run_warning(cost, trainer.step, target)) is not None:
                    trainer.warn(long)
            # Only now: a failure above leaves the agent as it was, to fail again alike.
            self._trainer, self._checkpoint = trainer, None
            stack.callback(callbacks.close)
            callbacks.start(trainer, target)
            if (directory := trainer.run_dir) is not None:
                stack.callback(lambda: record_stop(directory, trainer.step, trainer.time_split()))
            trainer.run(target)
            callbacks.end()
        return self

    def _estimate(self, step: int, target: int) -> PresetCost | None:
        """Measure what a step of training takes where that may be long; else None."""
        steps = target - max(step, self.config.training.warmup_steps)
        return measure_updates(self) if steps > 0 and may_be_long(self, steps) else None

    def _prepare(
        self, run_dir: Path | None, stack: contextlib.ExitStack
    ) -> tuple[Trainer, Checkpoint | None]:
        """Return the trainer of this run and what it must load first, its directory locked."""
        current = self.run_dir
        if self.config.training.wandb and (run_dir or current) is not None:
            import_wandb()  # if it is missing, now: there is nothing yet to leave behind
        if run_dir is not None and current is not None and run_dir.resolve() != current.resolve():
            raise RunDirError(f"this agent's run is in {current}; it cannot move to {run_dir}")
        if run_dir is not None and current is None:
            if self._trainer is not None:
                raise RunDirError("this run began in memory; use save() to write it to a directory")
            create_run_dir(run_dir)
            write_text(run_dir / "config.json", self.config.to_json())
        directory = current if current is not None else run_dir
        if directory is not None:
            self._remember_env()
            check_links(directory)
            lock = RunLock(directory)
            lock.acquire()
            stack.callback(lock.release)
        if self._trainer is not None:
            return self._trainer, None
        try:
            trainer = Trainer(
                self.config, self.env, self.world_model, self.behaviour, run_dir=directory
            )
        except DramaError:
            if current is None and directory is not None:
                shutil.rmtree(directory)  # made a moment ago, and empty but for the settings
            raise
        checkpoint = self._checkpoint
        if checkpoint is not None and not checkpoint.has("loop"):
            trainer.steps_before, checkpoint = self.num_timesteps, None
        return trainer, checkpoint

    def _remember_env(self) -> None:
        """Let what is saved be loaded on this account without asking again for trust."""
        c = self.config.env
        trust.remember(c.id, c.kwargs, c.wrappers)

    # -- saving -------------------------------------------------------------------------------

    def save(self, path: str | Path, *, replay: bool = True) -> None:
        """Write the agent to a new directory, in the form of a run directory.

        Args:
            path: Must not exist, or be empty.
            replay: Also save what only learning needs: replay, optimisers, random states. An
                agent loaded from it goes on learning as this one would have.

        Raises:
            RunDirError: ``path`` exists.
        """
        path = Path(path)
        create_run_dir(path)
        self._remember_env()
        write_text(path / "config.json", self.config.to_json())
        if self._trainer is not None:
            self._trainer.save_to(path, everything=replay)
        elif self._checkpoint is not None:
            segments = self._loaded_dir / "replay" if replay and self._loaded_dir else None
            copy_checkpoint(self._checkpoint, segments, path, self.config.to_json())
        else:
            snapshot.write_untrained(path, self.config, self.world_model, self.behaviour, self.env)

    @constructor
    def load(
        cls: type[Agent],
        path: str | Path,
        env: EnvLike | None = None,
        *,
        device: str | None = None,
        config: Config | None = None,
        trust_env: bool = False,
    ) -> Agent:
        """Read an agent back from a run directory, a saved agent or one of its checkpoints.

        Args:
            path: The directory.
            env: Needed where the run does not say what makes its environment: it was given as a
                local function, or as an object that cannot be made again. It must be the
                environment that the agent learnt in, as far as `drama.envs.describe` reports.
            device: Device to load onto; the run's own choice if None. If there is one, the backend
                is what that device offers, also where the run insisted on ``kernels``.
            config: Settings that replace the run's. Sizes must agree with the weights and, where
                there is a replay, ``replay.capacity`` with its size; ``learn`` tells the others.
            trust_env: Import what the run names to make its environment: a module, a function, a
                wrapper. Not needed where a run with the same was made on this account.

        Raises:
            CheckpointError: There is no checkpoint, it is damaged, or it was made for another
                environment.
            EnvError: The run's environment cannot be made, and none is given; or it names code
                that nobody has said to trust, see `drama.trust`.
            ConfigError: It was called on an agent, which it would leave as it is.
        """
        checkpoint, run_dir = find_checkpoint(Path(path))
        saved = Config.from_json(checkpoint.text("config.json"))
        config = config or saved
        if config.behaviour.algorithm != saved.behaviour.algorithm:
            raise CheckpointError(
                f"{checkpoint.path} holds a behaviour of {saved.behaviour.algorithm}, which cannot "
                f"become one of {config.behaviour.algorithm}"
            )
        if checkpoint.has("loop") and config.replay.capacity != saved.replay.capacity:
            raise CheckpointError(
                f"{checkpoint.path} goes on with a replay of its own size: replay.capacity is "
                f"{saved.replay.capacity} there, not {config.replay.capacity}"
            )
        if device is not None and config.world_model.dynamics.backend == "kernels":
            dynamics = dataclasses.replace(config.world_model.dynamics, backend="auto")
            model = dataclasses.replace(config.world_model, dynamics=dynamics)
            config = dataclasses.replace(config, world_model=model)
        state = checkpoint.state()
        snapshot.check_fits(checkpoint, config, state)
        agent = cls._in_its_env(env, config, device, checkpoint, trust_env)
        shape = list(agent.observation_space.shape or ())
        if state["num_actions"] != agent.action_space.n or state["obs_shape"] != shape:
            raise CheckpointError(
                f"{checkpoint.path} was made for observations {state['obs_shape']} and "
                f"{state['num_actions']} actions; {agent.config.env.id} has {shape} and "
                f"{agent.action_space.n}"
            )
        agent._check_env(state.get("env", {}), checkpoint)
        tensors = checkpoint.tensors("model")
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(f"{checkpoint.path}: weight {name!r:.80} is NaN or Inf")
        for name, part in (("world_model", agent.world_model), ("behaviour", agent.behaviour)):
            prefix = f"{name}."
            own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
            try:
                part.load_state_dict(own)
            except RuntimeError as error:
                raise CheckpointError(
                    f"{checkpoint.path} does not fit its configuration: {one_line(error)}"
                ) from error
        # Without what learning needs there is no run to go on with, only an agent that plays.
        agent._checkpoint = checkpoint
        agent._loaded_dir = run_dir if checkpoint.has("loop") else None
        agent._steps_before = snapshot.steps_before(state)
        return agent

    @classmethod
    def _in_its_env(
        cls,
        env: EnvLike | None,
        config: Config,
        device: str | None,
        checkpoint: Checkpoint,
        trusted: bool,
    ) -> Agent:
        """Make the agent of a checkpoint, untrained, in the environment given or recorded."""
        if env is not None:
            same = isinstance(env, str) or env_source(env, EnvConfig()).config.id == config.env.id
            if isinstance(env, gym.Env) or not same:
                # What made the run's environment does not apply to the one given.
                plain = dataclasses.replace(config.env, kwargs={}, wrappers=(), made_by="drama")
                config = dataclasses.replace(config, env=plain)
        c, where = config.env, checkpoint.path
        named_id = c.id if env is None else ""  # one that is given is trusted
        trust.check(named_id, c.kwargs, c.wrappers, trusted=trusted, where=where)
        if env is not None:
            return cls(env, config, device=device)
        try:
            return cls(None, config, device=device)
        except UnknownEnvError as error:
            raise UnknownEnvError(
                f"{checkpoint.path} learnt in {config.env.id!r}, which is not registered here: "
                f"import the package that registers it, or {HOW_TO_GIVE}"
            ) from error
        except EnvError as error:
            how = "" if HOW_TO_GIVE in str(error) else f"; {HOW_TO_GIVE}"
            raise type(error)(f"{checkpoint.path}: {error}{how}") from error

    def _check_env(self, saved: dict[str, Any], checkpoint: Checkpoint) -> None:
        """Compare the environment with that of a checkpoint; the oldest ones do not say."""
        changed, versions = differences(saved, describe(self.env))
        if changed:
            raise CheckpointError(
                f"{checkpoint.path} learnt in another environment: {', '.join(changed)}; load it "
                "with the same one, Agent.load(run, env=...)"
            )
        if versions:
            logger.info("not as in %s: %s", checkpoint.path, ", ".join(versions))

    # -- playing ------------------------------------------------------------------------------

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: PolicyState | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], PolicyState]:
        """Choose actions, with Stable-Baselines3's signature.

        Args:
            observation: One observation or a batch, raw as the environment gives it or adapted
                as the agent sees it. Where shape and type fit both it is taken as adapted, and the
                actions count from 0. So it is with a uint8 picture of the agent's size, whatever
                its bounds, and with observations that need no adapting, whatever actions count
                from: play such an environment through `drama.envs.adapt`. What `get_env`,
                `new_env` and `drama.make_env` return is adapted already.
            state: What the last call returned; None starts afresh.
            episode_start: ``(B,)`` bool, rows that start afresh whatever ``state`` holds.
            deterministic: Most probable latents and action; nothing is drawn but the futures of
                ``behaviour.lookahead``. `evaluate` takes the most probable action too, but samples
                the latents unless it is called with ``latents="mode"``.

        Returns:
            Actions of the environment, ``(B,)`` or a scalar for one observation, and the state
            for the next call.

        Raises:
            EnvError: The observation fits neither the raw nor the adapted space, or holds NaN or
                Inf; or one of the others does not fit it.
        """
        obs, single, raw = as_batch(observation, self.observation_space, self._adapter)
        count = obs.shape[0]
        if state is None:
            state, episode_start = self.player.init_state(count), np.ones(count, dtype=bool)
        if not isinstance(state, PolicyState):
            kind = type(state).__name__
            raise EnvError(f"state must be what the last call returned, or None, got {kind}")
        if state.deter.shape[0] != count:
            raise EnvError(f"state is of {state.deter.shape[0]} environments, not {count}")
        start = np.zeros(count, bool) if episode_start is None else np.asarray(episode_start)
        if start.dtype.kind not in "biuf":
            raise EnvError(f"episode_start must be bool ({count},), got {episode_start!r}")
        if start.size != count:
            raise EnvError(f"episode_start has {start.size} entries for {count} observations")
        action, state = self.player.act(
            torch.from_numpy(obs).to(self.device),
            state,
            torch.from_numpy(start.reshape(count).astype(bool)).to(self.device),
            self._generator,
            latents="mode" if deterministic else "sampled",
            actions="argmax" if deterministic else "sampled",
        )
        chosen = action.cpu().numpy()
        if raw and self._adapter is not None:
            mapping = self._adapter.adapt_action
            chosen = np.array([mapping(a) for a in chosen], dtype=np.int64)
        return (chosen[0] if single else chosen), state

    def evaluate(
        self,
        episodes: int | None = None,
        *,
        greedy: bool = True,
        num_envs: int | None = None,
        seed: int | None = None,
        lookahead: int | None = None,
        latents: Latents | None = None,
        max_episode_steps: int | None = None,
        progress: Callable[[EpisodeResult], None] | None = None,
    ) -> EvaluationResult:
        """Play whole episodes on environments of their own; nothing of the agent changes.

        The authors' form is the default: sampled latents, and the most probable action.
        ``training.threads`` holds here too: the last bits of a sum follow the number of threads.

        Args:
            episodes: Number of episodes; ``config.evaluation`` has the defaults of all these.
            greedy: The policy's most probable actions rather than sampled ones.
            num_envs: Environments stepped side by side.
            seed: Seed of the first one.
            lookahead: In the place of the run's ``behaviour.lookahead``.
            latents: ``sampled``, as in imagination, or their ``mode``.
            max_episode_steps: Agent steps after which an episode is truncated. None: 27,000, or the
                environment's own limit where that is above it.
            progress: Called with each finished episode.

        Raises:
            EnvError: The agent was made with an environment object that cannot be made again.
            ConfigError: A number is out of range.
        """
        player = self.player
        if lookahead is not None:
            player = self._player(dataclasses.replace(self.config.behaviour, lookahead=lookahead))
        given: dict[str, Any] = {
            "episodes": episodes,
            "num_envs": num_envs,
            "seed": seed,
            "latents": latents,
            "max_episode_steps": max_episode_steps,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        config = dataclasses.replace(self.config.evaluation, **changes)
        with cpu_threads(self.config.training.threads):  # as many as it learnt with
            return evaluate(
                player,
                lambda index: self.new_env(config.seed + index),
                config,
                greedy=greedy,
                protocol={"train_steps": self.num_timesteps, "train_seed": self.config.seed},
                progress=progress,
            )

    def _player(self, c: BehaviourConfig) -> Player:
        parts = (self.world_model, self.behaviour)
        return Player(*parts, c.policy_latent, c.policy_context, c.lookahead)

    # -- environments -------------------------------------------------------------------------

    def new_env(self, seed: int | None = None, *, life_loss: bool = False) -> gym.Env[Any, Any]:
        """Make a further environment like the agent's own.

        Args:
            seed: Seed of its first reset; the run's evaluation seed if None.
            life_loss: Whether the loss of a life ends an episode.

        Raises:
            EnvError: The agent was made with an environment object that cannot be made again.
        """
        seed = self.config.evaluation.seed if seed is None else seed
        return self._source.copy(seed, life_loss=life_loss)

    def get_env(self) -> gym.Env[Any, Any]:
        """Return the training environment (Stable-Baselines3's name for it)."""
        return self.env


def log_events(event: Event, payload: Any) -> None:
    """Listener that writes notes and warnings to the logger ``drama``."""
    if event == "warning":
        logger.warning("%s", payload)
    elif event == "note":
        logger.info("%s", payload)


def _settings(config: Config | str | None) -> Config:
    if config is None:
        return Config()
    if isinstance(config, str):
        return preset(config)
    if not isinstance(config, Config):
        raise ConfigError(
            f"config must be a drama.Config or the name of a preset, got {type(config).__name__}"
        )
    return config


def find_checkpoint(path: Path) -> tuple[Checkpoint, Path | None]:
    """Return the checkpoint that ``path`` means, and the run directory it belongs to.

    Args:
        path: A run directory (its last checkpoint is meant) or a checkpoint directory, which
            may have been taken out of its run.

    Raises:
        CheckpointError: There is none.
    """
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a directory")
    if (path / "manifest.json").is_file():
        folder = path.resolve().parent
        return open_checkpoint(path), folder.parent if folder.name == "checkpoints" else None
    return CheckpointDir(path).last(), path
