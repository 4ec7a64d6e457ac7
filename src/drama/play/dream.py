"""The learnt simulator as a Gymnasium environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import torch
from torch import Tensor

from drama.envs import as_rgb
from drama.errors import ConfigError, EnvError
from drama.types import ObsArray

if TYPE_CHECKING:
    from drama.agent import Agent


class DreamEnv(gym.Env[ObsArray, int]):
    """Plays inside an agent's world model: what ``step`` returns was predicted, not simulated.

    ``reset`` reads one real first frame; from there each step draws the next latent from the
    prior, decodes it, and reads reward and termination off their heads, for transition t from
    ``d_t`` as in training. The real environment is needed for first frames only.

    Args:
        agent: Whose world model to play in; it is not changed.
        max_episode_steps: Steps after which a dream is truncated.
        sample_termination: Draw the end with its predicted probability; otherwise a dream ends
            where that exceeds one half.

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
        self.observation_space = agent.observation_space
        self.action_space = agent.action_space
        self.max_episode_steps = max_episode_steps
        self.sample_termination = sample_termination
        self.render_mode = "rgb_array"
        self._first_frames = agent.new_env(life_loss=agent.config.env.life_loss)
        self._generator = torch.Generator(self.device)
        self._seeded = False
        self._frame: ObsArray | None = None
        self._state: tuple[Tensor, Any] | None = None
        self._steps = 0

    @torch.no_grad()
    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsArray, dict[str, Any]]:
        """Begin a dream at a real first frame.

        A seed decides this dream and those that follow; without any, no two environments dream
        alike.
        """
        super().reset(seed=seed)
        if seed is None and not self._seeded:
            seed = int(self.np_random.integers(2**31))
        if seed is not None:
            self._generator.manual_seed(seed)
            self._seeded = True
        frame, _ = self._first_frames.reset(seed=seed)
        obs = torch.from_numpy(frame).unsqueeze(0).to(self.device)
        stoch = self.world_model.sample(self.world_model.posterior(obs), self._generator)
        self._state = (stoch, self.world_model.dynamics.init_state(1))
        self._frame, self._steps = frame, 0
        return frame, {}

    @torch.no_grad()
    def step(self, action: int) -> tuple[ObsArray, float, bool, bool, dict[str, Any]]:
        """Dream one step.

        Raises:
            EnvError: ``reset`` has not been called, or the action is not in the action space.
        """
        if self._state is None:
            raise EnvError("reset() comes before the first step of a dream")
        if not self.action_space.contains(action):
            raise EnvError(f"action {action!r} is not in {self.action_space}")
        model = self.world_model
        stoch, dynamics = self._state
        taken = torch.tensor([int(action)], device=self.device)
        deter, dynamics = model.step(stoch, taken, dynamics)
        deter = deter.float()
        stoch = model.sample(model.prior(deter), self._generator)
        self._state = (stoch, dynamics)
        self._frame = model.decoder.to_obs(model.decoder(stoch))[0].cpu().numpy()
        self._steps += 1
        reward, end = float(model.reward(deter)), float(model.termination(deter))
        threshold = 0.5
        if self.sample_termination:
            threshold = float(torch.rand((), generator=self._generator, device=self.device))
        truncated = self._steps >= self.max_episode_steps
        return self._frame, reward, end > threshold, truncated, {"termination": end}

    def render(self) -> Any:
        """Return the dreamt frame, in colour if it is a picture."""
        frame = self._frame
        return as_rgb(frame) if frame is not None and frame.ndim == 3 else frame

    def close(self) -> None:
        """Close the environment that gives first frames."""
        self._first_frames.close()
