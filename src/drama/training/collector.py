"""Collecting experience: act in the training environment and store the transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from drama.actions import ActionSpace
from drama.behaviour import Player
from drama.config import Config
from drama.dynamics import map_state
from drama.envs import describe
from drama.envs.guard import guards_of
from drama.envs.survey import EnvSurvey
from drama.errors import CheckpointError
from drama.files import tensor_like
from drama.replay import ReplayBuffer
from drama.training.events import Events
from drama.training.randomness import RandomSources
from drama.training.stream import EnvStream, EpisodeEnd
from drama.types import Action, PolicyState, Transition, pinned

MANY_ACTIONS = 10_000
"""Replayed actions from which on a resume takes long enough to announce it."""


class Choice(NamedTuple):
    """An action, and the acting state once it is taken."""

    action: Action
    player_state: PolicyState


class Collector:
    """Takes environment steps with the current policy; random actions during warm-up.

    A step is `begin`, `choose`, `take` and `store`, in this order. Where one of the first three
    fails the step does not count.

    Args:
        config: Settings.
        stream: The training environment.
        player: The current policy.
        replay: Receives the transitions.
        random: Source of randomness.
        events: Receives notes and warnings.
    """

    def __init__(
        self,
        config: Config,
        stream: EnvStream,
        player: Player,
        replay: ReplayBuffer,
        random: RandomSources,
        events: Events,
    ) -> None:
        self.config = config
        self.stream = stream
        self.player = player
        self.player_state: PolicyState = player.init_state(1)
        self.replay = replay
        self.random = random
        self.events = events
        self.clock = events.clock
        self.step = 0
        """Environment steps taken."""
        self.steps_before = 0
        """Steps made before this run by an agent saved with ``replay=False`` (bookkeeping only)."""
        self.episodes = 0
        """Whole episodes finished."""
        self.device = next(player.world_model.parameters()).device
        self._actions = player.world_model.actions
        self._pending: list[Transition] = []  # completed by the stream, not stored yet
        self._survey = EnvSurvey(stream.env)
        self._guards = guards_of(stream.env)

    def begin(self) -> EpisodeEnd | None:
        """Begin the next episode if the last one has ended or cannot be continued.

        Returns:
            The finished episode, if only the reset shows that it ended.
        """
        self._append_pending()  # left over if an interrupt came between
        if self.stream.is_lost():
            self._cut_episode(
                "the environment was used by others, or a step of it was broken off: its episode "
                "is cut here and a new one begins"
            )
        with self.clock.phase("env"):
            end = self.stream.start()
        self.episodes += end is not None
        return end

    def choose(self) -> Choice:
        """Choose the next action; `take` it afterwards."""
        with self.clock.phase("acting"):
            if self.step < self.config.training.warmup_steps:
                return Choice(self._random_action(), self.player_state)
            action, state = self.act()
            return Choice(self._actions.to_host(action)[0], state)

    def act(self) -> tuple[Tensor, PolicyState]:
        """Return the policy's action ``(1,)`` on the device and the acting state after it.

        It does not wait for updates that a GPU is still busy with; reading the action does.
        """
        assert self.stream.obs is not None, "begin() comes first"
        obs = pinned(torch.from_numpy(self.stream.obs).unsqueeze(0), self.device)
        obs = obs.to(self.device, non_blocking=self.device.type == "cuda")
        is_first = torch.full((1,), self.stream.is_first, device=self.device)
        return self.player.act(obs, self.player_state, is_first, self.random.acting)

    def take(self, choice: Choice) -> EpisodeEnd | None:
        """Step the environment; returns the episode if it ended."""
        with self.clock.phase("env"):
            self._pending, end = self.stream.step(choice.action)
        self.player_state = choice.player_state
        return end

    def store(self, end: EpisodeEnd | None) -> None:
        """Count the step that `take` made, store its transitions and report on the environment."""
        self.step += 1
        self.episodes += end is not None
        self._append_pending()
        self._warn_of_env()

    def _random_action(self) -> Action:
        repeat, taken = self.config.training.random_action_repeat, self.stream.actions
        if repeat > 1 and taken and self.random.warmup.random() >= 1 / repeat:
            return taken[-1]
        return self._actions.random(self.random.warmup)

    def _append_pending(self) -> None:
        with self.clock.phase("replay"):
            while self._pending:
                self.replay.append(self._pending[0])
                if self.step <= self.config.training.warmup_steps:
                    self._survey.add(self._pending[0])
                del self._pending[0]

    def _warn_of_env(self) -> None:
        """Report conversions by the guard and, at the end of warm-up, findings of the survey."""
        for guard in self._guards:
            while guard.notes:
                self.events.warn(guard.notes.pop(0))
        if self.step == self.config.training.warmup_steps:
            seconds = self.clock.totals().get("env", 0.0)
            findings = self._survey.findings(seconds=seconds, replay_bytes=self.replay.nbytes)
            for text in findings:
                self.events.warn(text)

    def _cut_episode(self, why: str) -> None:
        """End the episode at the newest transition, because it cannot be continued."""
        last = self.stream.cut()
        if last is not None:
            self.replay.mark_cut()
            self.replay.append(last)
        self.events.note(why)

    # -- saving -------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, Any]]:
        """Return counts, acting state and the way back to the environment's state, by file."""
        tensors: dict[str, Tensor] = {}
        map_state(_collect_into(tensors, "player"), self.player_state)
        tensors["actions"] = self._actions.pack(self.stream.actions)
        if self.stream.obs is not None:
            tensors["obs"] = torch.from_numpy(np.array(self.stream.obs))
        env = self.stream.env
        fields = {
            "step": self.step,
            "steps_before": self.steps_before,
            "episodes": self.episodes,
            "stream": self.stream.position(),
            **self._actions.state(),
            "obs_shape": list(env.observation_space.shape or ()),
            "env": describe(env),
        }
        return {"loop": tensors, "state": fields}

    def load_state(self, saved: Mapping[str, Mapping[str, Any]]) -> None:
        """Restore what `state` returned; the environment by taking its actions again.

        If the environment does not follow from its seed, its episode is cut.

        Raises:
            CheckpointError: A tensor is missing, does not fit, or holds an invalid value.
        """
        tensors, fields = saved["loop"], saved["state"]
        restore = _restore_from(tensors, "player", self.device)
        self.player_state = map_state(restore, self.player.init_state(1))
        self.step, self.episodes = fields["step"], fields["episodes"]
        self.steps_before = fields.get("steps_before", 0)  # missing in the oldest checkpoints
        position = fields["stream"]
        if "obs" not in tensors:  # its episode was cut, and none has begun since
            self.stream.seed = position.get("seed", self.stream.seed)
            return
        obs = tensor_like(tensors, "obs", self.replay.columns["obs"][0].cpu()).numpy()
        actions = _saved_actions(tensors, self._actions)
        if len(actions) > MANY_ACTIONS:
            self.events.note(f"replaying {len(actions):,} actions to restore the environment")
        if not self.stream.return_to(actions, obs, position):
            self._cut_episode(
                "the environment does not repeat itself from its seed: its episode is cut here "
                "and a new one begins, so the run will not be bit-for-bit the same"
            )


def _saved_actions(tensors: Mapping[str, Tensor], space: ActionSpace) -> list[Action]:
    """Return the actions taken since the last seeded reset.

    Raises:
        CheckpointError: They are missing, or one is out of range.
    """
    count = tensors["actions"].shape[0] if "actions" in tensors else None
    return space.unpack(tensor_like(tensors, "actions", space.pack([]), rows=count))


def _collect_into(tensors: dict[str, Tensor], name: str) -> Callable[[Tensor], Tensor]:
    """Return a function for ``map_state`` that stores each tensor as ``name.<n>``."""
    count = 0

    def collect(tensor: Tensor) -> Tensor:
        nonlocal count
        tensors[f"{name}.{count}"] = tensor
        count += 1
        return tensor

    return collect


def _restore_from(
    tensors: Mapping[str, Tensor], name: str, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Return the inverse of `_collect_into`: each tensor in the same order."""
    count = 0

    def restore(tensor: Tensor) -> Tensor:
        nonlocal count
        found = tensor_like(tensors, f"{name}.{count}", tensor)
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise CheckpointError(f"the saved tensor {name}.{count} is not finite")
        count += 1
        return found.to(device)

    return restore
