"""The Python API: make an agent, train it, save it, let it play."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from drama.actions import ActionSpace
from drama.attributes import constructor
from drama.behaviour import Player
from drama.config import Config, Latents
from drama.envs.source import EnvLike, env_source
from drama.errors import ConfigError
from drama.evaluation import EpisodeResult, EvaluationResult, evaluate
from drama.loading import SavedAgent
from drama.machine.estimate import warn_if_long
from drama.observations import ObsSpace
from drama.ops.backend import backend_of
from drama.predicting import Predictor
from drama.presets import fitting, label, resolve
from drama.training.callbacks import CallbackLike, Callbacks
from drama.training.checkpointer import write_untrained
from drama.training.clock import TimeSplit
from drama.training.device import cpu_threads, pick_device, pick_dtype, process_settings
from drama.training.events import Listener, log_events
from drama.training.progress import Progress
from drama.training.record import facts, notes
from drama.training.run import New, Run, create_run
from drama.training.trainer import Trainer
from drama.training.weights import load_weights, new_models
from drama.types import PolicyState

logger = logging.getLogger("drama")


class Agent:
    """A world model, the policy trained in its imagination, and the training environment.

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
        config = resolve(config)
        self._source = env_source(env, config.env)
        config = replace(
            config,
            env=self._source.config,
            seed=config.seed if seed is None else seed,
            device=config.device if device is None else device,
        )
        self.device = pick_device(config.device)
        self.env = self._source.make(config.seed)
        self._source.log_limits(self.env)
        self.observation_space = self.env.observation_space
        self.action_space = self.env.action_space

        observations = ObsSpace.of(self.observation_space, config.env.reconstruct)
        actions = ActionSpace.of(self.action_space)
        self.preset_reason: str | None = None
        """Why the preset was chosen; None if the configuration was given."""
        if fitted:
            fit, self.preset_reason = fitting(observations, self.device.type)
            config = replace(fit, env=config.env, seed=config.seed, device=config.device)
            logger.info("preset %s, chosen for %s", config.preset, self.preset_reason)
        self.config = config
        self.world_model, self.behaviour = new_models(config, observations, actions, self.device)
        c = config.world_model
        self._dtype = pick_dtype(config.training.precision, self.device)
        requested, resets = c.dynamics.backend, c.reset_at_episode_start
        self.backend = backend_of(
            self.world_model, self.device, requested, dtype=self._dtype, resets=resets
        )
        """Backend of the SSM layers in training, and why it was chosen."""
        self.player = Player(self.world_model, self.behaviour, config.behaviour)
        self._generator = torch.Generator(self.device).manual_seed(config.seed)
        self._predictor = Predictor(self.player, self.env, self._generator)
        self._run = Run(New())

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
        """Environment steps trained on so far."""
        return self._run.state.steps

    @property
    def run_dir(self) -> Path | None:
        """Directory of the run, if it has one."""
        return self._run.state.directory

    @property
    def time_split(self) -> TimeSplit | None:
        """Wall time by phase of this process's training; None before any."""
        trainer = self._run.trainer
        return None if trainer is None else trainer.time_split()

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
            run_dir: New directory for logs and checkpoints. None continues in the run's directory,
                or keeps a new run in memory.
            progress_bar: Show live progress, notes and warnings on standard error. Without it
                warnings go to the logger ``drama``, notes too, at level INFO.
            listeners: Receive every event, see `drama.training.events.Listener`.

        Returns:
            The agent itself.

        Raises:
            ConfigError: ``total_timesteps`` is below 1, or an optional package is missing.
            RunDirError: The directory exists or is in use.
            CheckpointError: The checkpoint to continue from is damaged.
            EnvFaultError: The environment broke its contract.
            NonFiniteError: A loss became NaN or Inf.
        """
        if total_timesteps < 1:
            raise ConfigError(f"total_timesteps must be at least 1, got {total_timesteps}")
        callbacks = Callbacks(callback, self)
        run_dir = None if run_dir is None else Path(run_dir)
        with contextlib.ExitStack() as stack:
            stack.enter_context(process_settings(self.config.training, self.device))
            session = self._run.session(run_dir, self.config, self._trainer)
            trainer = stack.enter_context(session)
            target = self._run.step + total_timesteps
            progress = Progress(trainer, target) if progress_bar else None
            shown = log_events if progress is None else stack.enter_context(progress)
            trainer.events.listeners = (*listeners, callbacks, shown)
            for text in notes(trainer.replay, trainer.stream.env, self.backend):
                trainer.events.note(text)
            self._run.start(trainer, facts(self.device, self._dtype, self.backend))
            step_seconds = warn_if_long(self, trainer, target)
            if progress is not None:
                progress.learning_seconds = step_seconds
            stack.callback(callbacks.close)
            callbacks.start(trainer, target)
            trainer.run(target)
            callbacks.end()
        return self

    def _trainer(self, run_dir: Path | None) -> Trainer:
        return Trainer(self.config, self.env, self.world_model, self.behaviour, run_dir=run_dir)

    # -- saving -------------------------------------------------------------------------------

    def save(self, path: str | Path, *, replay: bool = True) -> None:
        """Write the agent to a new directory, in the form of a run directory.

        Args:
            path: Must not exist, or be empty.
            replay: Also save what only training needs: replay, optimisers, random states. An
                agent loaded from it continues training as this one would have.

        Raises:
            RunDirError: ``path`` exists.
        """
        path = Path(path)
        create_run(path, self.config)
        if isinstance(self._run.state, New):
            write_untrained(path, self.config, self.world_model, self.behaviour, self.env)
        else:
            self._run.save_to(path, self.config, resumable=replay)

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
            env: The environment that the agent was trained in, needed if the run does not record
                what makes it: a local function, or an object that cannot be made again.
            device: Device to load onto; the run's own choice if None. If given, the backend is
                chosen for that device, also where the run required ``kernels``.
            config: Settings that replace the run's. Sizes must agree with the weights, and
                ``replay.capacity`` with a saved replay; ``learn`` reports other changes.
            trust_env: Import the code that the run names to make its environment. Not needed if a
                run with the same code was made on this account.

        Raises:
            CheckpointError: There is no checkpoint, it is damaged, or it was made for another
                environment.
            EnvError: The run's environment cannot be made, and none is given; or it names code
                that is not trusted, see `drama.trust`.
            ConfigError: It was called on an agent instead of the class.
        """
        saved = SavedAgent.open(Path(path), config, device)
        config = saved.config_with(env, trusted=trust_env)
        with saved.env_errors_named() if env is None else contextlib.nullcontext():
            agent = cls(env, config, device=device)
        saved.check_env(agent.env, agent.config.env.id)
        load_weights(saved.checkpoint, agent.world_model, agent.behaviour)
        agent._run = Run(saved.run)
        return agent

    # -- playing ------------------------------------------------------------------------------

    def predict(
        self,
        observation: Any,
        state: PolicyState | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], PolicyState]:
        """Choose actions, with Stable-Baselines3's signature.

        Args:
            observation: One observation or a batch, raw as the environment returns it or adapted
                as the agent sees it; a batch of a Dict holds a batch in each entry. If shape and
                type fit both, it is taken as adapted, and actions count from 0. Environments of
                `get_env`, `new_env`, `drama.make_env` and `drama.envs.adapt` are adapted.
            state: What the last call returned; None starts new episodes.
            episode_start: ``(B,)`` bool, where a new episode starts whatever ``state`` holds.
            deterministic: Most probable latents and action; only ``behaviour.lookahead`` is random.
                `evaluate` samples the latents unless it is called with ``latents="mode"``.

        Returns:
            Actions of the environment, ``(B,)`` or a scalar for one observation, and the state
            for the next call.

        Raises:
            EnvError: The observation fits neither the raw nor the adapted space, or holds NaN or
                Inf; or another argument does not fit it.
        """
        return self._predictor(observation, state, episode_start, deterministic)

    def evaluate(  # noqa: PLR0913 (keywords mirror the fields of EvaluationConfig)
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
        """Play whole episodes in new environments; the agent does not change.

        The default is the authors' protocol: sampled latents, and the most probable action. None
        takes the value of ``config.evaluation``. ``training.threads`` applies, as sums round by it.

        Args:
            episodes: Number of episodes.
            greedy: The policy's most probable actions rather than sampled ones.
            num_envs: Environments stepped in parallel.
            seed: Seed of the first one.
            lookahead: Replaces the run's ``behaviour.lookahead``.
            latents: ``sampled``, as in imagination, or their ``mode``.
            max_episode_steps: Agent steps after which an episode is truncated; by default 27,000,
                or the environment's own limit if that is larger.
            progress: Called with each finished episode.

        Raises:
            EnvError: The agent was made with an environment object that cannot be made again.
            ConfigError: A number is out of range.
        """
        player = self.player
        if lookahead is not None:
            changed = replace(self.config.behaviour, lookahead=lookahead)
            player = Player(self.world_model, self.behaviour, changed)
        config = self.config.evaluation.with_given(
            episodes=episodes,
            num_envs=num_envs,
            seed=seed,
            latents=latents,
            max_episode_steps=max_episode_steps,
        )
        with cpu_threads(self.config.training.threads):  # as many as it was trained with
            return evaluate(
                player,
                lambda index: self.new_env(config.seed + index),
                config,
                greedy=greedy,
                protocol={"train_steps": self.num_timesteps, "train_seed": self.config.seed},
                progress=progress,
            )

    # -- environments -------------------------------------------------------------------------

    def new_env(self, seed: int | None = None, *, life_loss: bool = False) -> gym.Env[Any, Any]:
        """Make another environment like the agent's own.

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
