"""A trained world model as a Gymnasium environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch

from drama.behaviour import LatentState
from drama.envs import as_rgb
from drama.errors import ConfigError, EnvError
from drama.types import Action, Obs, map_obs

if TYPE_CHECKING:
    from drama.agent import Agent


class DreamEnv(gym.Env[Obs, Action]):
    """An agent's world model as an environment: ``step`` returns predictions.

    ``reset`` reads one real first frame. Each step then samples the next latent from the prior,
    decodes it, and predicts reward and termination of transition t from ``d_t`` as in training.
    The real environment is only used for first frames. Observations lack the leaves that the world
    model does not reconstruct (``env.reconstruct``).

    Args:
        agent: Agent whose world model is stepped; it is not changed.
        max_episode_steps: Steps after which an episode is truncated.
        sample_termination: Terminate with the predicted probability; otherwise where that exceeds
            one half.

    Raises:
        ConfigError: ``max_episode_steps`` is below 1.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self, agent: Agent, *, max_episode_steps: int = 1000, sample_termination: bool = True
    ) -> None:
        if max_episode_steps < 1:
            raise ConfigError(f"max_episode_steps must be at least 1, got {max_episode_steps}")
        self.world_model = agent.world_model
        self.device = agent.device
        self._observations = agent.world_model.observations
        self.observation_space = self._observations.decoded.space
        self.action_space = agent.action_space
        self.max_episode_steps = max_episode_steps
        self.sample_termination = sample_termination
        self.render_mode = "rgb_array"
        self._imagination = agent.player.imagination
        self._first_frames = agent.new_env(life_loss=agent.config.env.life_loss)
        self._generator = torch.Generator(self.device)
        self._seeded = False
        self._frame: Obs | None = None
        self._state: LatentState | None = None
        self._steps = 0

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, dict[str, Any]]:
        """Start an episode at a real first frame.

        A seed determines this episode and those that follow; without any, every environment has
        its own random numbers.
        """
        super().reset(seed=seed)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**31))
        if seed is not None:
            self._generator.manual_seed(seed)
            self._seeded = True
        first, _ = self._first_frames.reset(seed=seed)
        obs = map_obs(lambda leaf: torch.from_numpy(leaf).unsqueeze(0).to(self.device), first)
        self._state = self._imagination.start(obs, self._generator)
        decoded = self._observations.decoded
        self._frame, self._steps = decoded.from_columns(decoded.columns(first)), 0
        return self._frame, {}

    @torch.no_grad()
    def step(self, action: Action) -> tuple[Obs, float, bool, bool, dict[str, Any]]:
        """Predict one step; ``info`` holds the ``termination`` probability.

        Raises:
            EnvError: ``reset`` has not been called, or the action is not in the action space.
        """
        if self._state is None:
            raise EnvError("call reset() before step()")
        actions = self.world_model.actions
        taken = actions.to_tensor([actions.check(action)], self.device)
        self._state = state = self._imagination.step(self._state, taken, self._generator)
        decoded = self.world_model.decode(state.stoch)
        self._frame = map_obs(lambda leaf: leaf[0].cpu().numpy(), decoded)
        self._steps += 1
        reward, end = (float(x) for x in self._imagination.outcome(state.deter))
        threshold = 0.5
        if self.sample_termination:
            threshold = float(torch.rand((), generator=self._generator, device=self.device))
        truncated = self._steps >= self.max_episode_steps
        return self._frame, reward, end > threshold, truncated, {"termination": end}

    def render(self) -> Any:
        """Return the current frame, in RGB if it is or has an image."""
        if self._frame is None:
            return None
        leaf = self._observations.shown
        frame: Any = self._observations.leaf_of(self._frame, leaf)
        return as_rgb(frame) if leaf.kind == "image" else frame

    def close(self) -> None:
        """Close the environment of first frames."""
        self._first_frames.close()
