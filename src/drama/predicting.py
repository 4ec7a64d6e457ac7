"""`Agent.predict`: actions for observations that a caller holds, with arguments checked."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch

from drama.behaviour import Player
from drama.envs.adapt import adapter_of, as_batch
from drama.envs.spaces import ObservationAdapter
from drama.errors import EnvError
from drama.runtime import episode_starts
from drama.types import PolicyState, first_leaf, map_obs


class Predictor:
    """Chooses actions for raw or adapted observations.

    Args:
        player: The policy.
        env: Its environment, adapted.
        generator: Source of randomness, on the player's device.
    """

    def __init__(self, player: Player, env: gym.Env[Any, Any], generator: torch.Generator) -> None:
        self.player = player
        self.adapted = ObservationAdapter(env.observation_space, channels_last=True)
        self.adapter = adapter_of(env)
        self.generator = generator

    def __call__(
        self,
        observation: Any,
        state: PolicyState | None,
        episode_start: npt.NDArray[np.bool_] | None,
        deterministic: bool,
    ) -> tuple[npt.NDArray[Any], PolicyState]:
        """Choose actions, see `Agent.predict`.

        Raises:
            EnvError: An argument does not fit the environment or another argument.
        """
        obs, single, raw = as_batch(observation, self.adapted, self.adapter)
        leaf: Any = first_leaf(obs)
        state, start = carried_state(self.player, state, episode_start, len(leaf))
        device = self.generator.device
        action, state = self.player.act(
            map_obs(lambda leaf: torch.from_numpy(leaf).to(device), obs),
            state,
            torch.from_numpy(start).to(device),
            self.generator,
            latents="mode" if deterministic else "sampled",
            actions="argmax" if deterministic else "sampled",
        )
        chosen = action.cpu().numpy()
        if raw and self.adapter is not None:
            mapping = self.adapter.adapt_action
            chosen = np.array([mapping(a) for a in chosen], dtype=chosen.dtype)
        return (chosen[0] if single else chosen), state


def carried_state(
    player: Player,
    state: PolicyState | None,
    episode_start: npt.NDArray[Any] | None,
    count: int,
) -> tuple[PolicyState, npt.NDArray[np.bool_]]:
    """Return the acting state of ``count`` environments, and where an episode starts ``(count,)``.

    Raises:
        EnvError: One of them is of another type or size.
    """
    if state is None:
        return player.init_state(count), np.ones(count, dtype=bool)
    if not isinstance(state, PolicyState):
        kind = type(state).__name__
        raise EnvError(f"state must be what the last call returned, or None, got {kind}")
    if state.deter.shape[0] != count:
        raise EnvError(f"state is of {state.deter.shape[0]} environments, not {count}")
    return state, episode_starts(episode_start, count)
