"""Reading an agent back: its settings and its environment, checked against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from drama import trust
from drama.actions import ActionSpace
from drama.config import Config, EnvConfig
from drama.envs import describe
from drama.envs.description import differences
from drama.envs.source import HOW_TO_GIVE, EnvLike, env_source
from drama.errors import CheckpointError, EnvError, UnknownEnvError
from drama.observations import ObsSpace
from drama.training.checkpoint import Checkpoint, find_checkpoint
from drama.training.run import Opened
from drama.training.weights import check_fits

logger = logging.getLogger("drama")


@dataclass(frozen=True)
class SavedAgent:
    """A checkpoint on disk, and the configuration to read it with."""

    checkpoint: Checkpoint
    run_dir: Path | None
    """Run directory of the checkpoint, if it is in one."""
    config: Config
    state: dict[str, Any]
    """Content of ``state.json``."""

    @classmethod
    def open(cls, path: Path, config: Config | None, device: str | None) -> SavedAgent:
        """Open a run directory or a checkpoint.

        Args:
            path: The directory.
            config: Settings that replace the saved ones.
            device: If given, the backend ``kernels`` becomes ``auto``.

        Raises:
            CheckpointError: There is no checkpoint, it is damaged, or the settings do not fit it.
        """
        checkpoint, run_dir = find_checkpoint(path)
        saved = Config.from_json(checkpoint.text("config.json"))
        config = config or saved
        if config.behaviour.algorithm != saved.behaviour.algorithm:
            raise CheckpointError(
                f"{checkpoint.path} holds a behaviour of {saved.behaviour.algorithm}, which cannot "
                f"become one of {config.behaviour.algorithm}"
            )
        if checkpoint.has("loop") and config.replay.capacity != saved.replay.capacity:
            raise CheckpointError(
                f"{checkpoint.path} continues with a replay of the saved size: replay.capacity is "
                f"{saved.replay.capacity} there, not {config.replay.capacity}"
            )
        if device is not None and config.world_model.dynamics.backend == "kernels":
            dynamics = dataclasses.replace(config.world_model.dynamics, backend="auto")
            model = dataclasses.replace(config.world_model, dynamics=dynamics)
            config = dataclasses.replace(config, world_model=model)
        state = checkpoint.state()
        check_fits(checkpoint, config, state)
        return cls(checkpoint, run_dir, config, state)

    @property
    def run(self) -> Opened:
        """State of a run that begins with this checkpoint."""
        before = int(self.state.get("steps_before", 0))  # missing in the oldest checkpoints
        return Opened(self.checkpoint, self.run_dir, before)

    def config_with(self, env: EnvLike | None, *, trusted: bool) -> Config:
        """Return the configuration for the environment given, or the recorded one if it is None.

        Raises:
            EnvError: The recorded one names code that is not trusted.
        """
        config = self.config
        if env is not None:
            same = isinstance(env, str) or env_source(env, EnvConfig()).config.id == config.env.id
            if isinstance(env, gym.Env) or not same:
                # What made the recorded environment does not apply to the one given.
                plain = dataclasses.replace(config.env, kwargs={}, wrappers=(), made_by="drama")
                config = dataclasses.replace(config, env=plain)
        c = config.env
        named_id = c.id if env is None else ""  # one that is given is trusted
        where = self.checkpoint.path
        trust.check(named_id, c.kwargs, c.wrappers, trusted=trusted, where=where)
        return config

    @contextlib.contextmanager
    def env_errors_named(self) -> Iterator[None]:
        """Name the checkpoint in errors of making the recorded environment."""
        where = self.checkpoint.path
        try:
            yield
        except UnknownEnvError as error:
            raise UnknownEnvError(
                f"{where} was trained in {self.config.env.id!r}, which is not registered here: "
                f"import the package that registers it, or {HOW_TO_GIVE}"
            ) from error
        except EnvError as error:
            how = "" if HOW_TO_GIVE in str(error) else f"; {HOW_TO_GIVE}"
            raise type(error)(f"{where}: {error}{how}") from error

    def check_env(self, env: gym.Env[Any, Any], env_id: str) -> None:
        """Compare an environment with the one that the agent was trained in.

        Raises:
            CheckpointError: They differ in more than versions, which are logged.
        """
        where, saved = self.checkpoint.path, self.state
        observations = ObsSpace.of(env.observation_space)
        saved_observations = ObsSpace.from_state(saved)
        saved_actions, actions = ActionSpace.from_state(saved), ActionSpace.of(env.action_space)
        if saved_actions != actions or saved_observations != observations:
            raise CheckpointError(
                f"{where} was made for observations {saved_observations} and "
                f"{saved_actions.count} actions; {env_id} has {observations} and {actions.count}"
            )
        # The oldest checkpoints do not describe their environment.
        changed, versions = differences(saved.get("env", {}), describe(env))
        if changed:
            raise CheckpointError(
                f"{where} was trained in another environment: {', '.join(changed)}; load it "
                "with the same one, Agent.load(run, env=...)"
            )
        if versions:
            logger.info("not as in %s: %s", where, ", ".join(versions))
