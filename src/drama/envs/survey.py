"""Statistics of an environment under random actions, and warnings based on them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import gymnasium as gym

from drama.envs.adapt import adapter_of
from drama.envs.description import describe
from drama.observations import ObsSpace
from drama.types import Obs, Transition, same_obs

FEW_STEPS = 50
"""Least number of steps after which the absence of rewards or ends is reported."""
_DARK = 32
"""Pictures whose brightest value (of 255) is below this are almost black."""
_LONG_VECTOR = 4096
"""Least size of a flattened array that may have been meant as a picture."""
_COMPARED_STEPS = 3
_COMPARISONS = 50
"""Equal observations after equal actions that show that all episodes begin the same."""


class EnvSurvey:
    """Running statistics of an environment under random actions.

    Args:
        env: Adapted environment. It is not stepped here.

    Attributes:
        steps: Transitions added.
        ranges: Smallest and largest value of each leaf of the observations, by its name.
        reward_min: Smallest reward.
        reward_max: Largest reward.
        reward_sum: Sum of all rewards.
        nonzero: Transitions with a reward other than zero.
        lengths: Lengths in steps of the episodes added from their first step to their end.
        ends: How many episodes were ``"terminated"`` and how many only ``"truncated"``.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        self.env = env
        self.steps = 0
        self.observations = ObsSpace.of(env.observation_space)
        self.ranges = {leaf.name: (math.inf, -math.inf) for leaf in self.observations.leaves}
        self.reward_min, self.reward_max = math.inf, -math.inf
        self.reward_sum = 0.0
        self.nonzero = 0
        self.lengths: list[int] = []
        self.ends: Counter[str] = Counter()
        self._first: Obs | None = None
        self._changed = False
        self._length: int | None = None  # of the current episode, None if its start was not added
        self._starts: dict[tuple[int, ...], Obs] = {}  # by the actions that led there
        self._taken: tuple[int, ...] = ()
        self._same_starts = 0
        self._differ = False

    def add(self, transition: Transition) -> None:
        """Add one transition, or the final observation of an episode."""
        obs, reward = transition.obs, transition.reward
        for leaf in self.observations.leaves:
            part: Any = self.observations.leaf_of(obs, leaf)
            low, high = self.ranges[leaf.name]
            self.ranges[leaf.name] = min(low, float(part.min())), max(high, float(part.max()))
        if self._first is None:
            self._first = obs
        self._changed = self._changed or not same_obs(obs, self._first)
        if transition.is_first:
            self._length, self._taken = 0, ()
        if self._length is not None:
            self._compare_start(obs)
        if transition.is_last:
            self._length = None
            return
        self.steps += 1
        self.reward_min = min(self.reward_min, reward)
        self.reward_max = max(self.reward_max, reward)
        self.reward_sum += reward
        self.nonzero += reward != 0
        if self._length is None:
            return
        self._length += 1
        if len(self._taken) <= _COMPARED_STEPS:
            self._taken += (transition.action,)
        if transition.terminated or transition.truncated:
            self.lengths.append(self._length)
            self.ends["terminated" if transition.terminated else "truncated"] += 1

    def _compare_start(self, obs: Obs) -> None:
        """Compare with the observation of an earlier episode after the same actions."""
        known_enough = self._differ or self._same_starts >= _COMPARISONS
        if known_enough or len(self._taken) > _COMPARED_STEPS:
            return
        known = self._starts.setdefault(self._taken, obs)
        if known is not obs:
            self._differ = not same_obs(known, obs)
            self._same_starts += bool(self._taken)

    def findings(
        self, *, seconds: float, replay_bytes: int, episodes_differ: bool | None = None
    ) -> list[str]:
        """Return one warning for each property that may prevent learning.

        Args:
            seconds: Wall time of the environment for these steps.
            replay_bytes: Memory of a full replay buffer.
            episodes_differ: Whether some episodes differ under the same actions; None decides
                from the transitions added.
        """
        found: list[str] = []
        many = self.steps >= FEW_STEPS
        if many and not self._changed:
            found.append("every observation was the same: they do not depend on the actions")
        found += self._observation_findings()
        if many and self.nonzero == 0:
            found.append(f"no reward in {self.steps:,} random steps: learning may take very long")
        elif many and self.reward_min == self.reward_max and len(set(self.lengths)) <= 1:
            found.append(
                f"every step had the same reward ({self.reward_min:g}): "
                "so far nothing separates good actions from bad ones"
            )
        if many and not self.lengths and describe(self.env)["max_episode_steps"] is None:
            found.append(
                f"no episode ended in {self.steps:,} steps and no time limit is known: "
                "set max_episode_steps if episodes can go on for ever"
            )
        found += self._length_findings()
        if episodes_differ is None:
            episodes_differ = self._differ or self._same_starts < _COMPARISONS
        if not episodes_differ:
            found.append(
                "every episode begins the same: the start is fixed, or reset() seeds itself"
            )
        speed = self.steps / max(seconds, 1e-9)
        if many and speed < 100:
            found.append(f"the environment is slow: {speed:.0f} steps/s")
        if replay_bytes > 8 * 2**30:
            found.append(
                f"the replay buffer takes {replay_bytes / 2**30:.1f} GiB: "
                "lower image_size or the capacity"
            )
        return found

    def _observation_findings(self) -> list[str]:
        """Return warnings about the values of adapted observations."""
        if not self.steps:
            return []
        adapter = adapter_of(self.env)
        shapes = {} if adapter is None else adapter.adapt_observation.raw_shapes
        found: list[str] = []
        for leaf in self.observations.leaves:
            low, high = self.ranges[leaf.name]
            where = f" of {leaf.name!r}" if leaf.name else ""
            if leaf.kind == "image" and high < _DARK:
                found.append(
                    f"the pictures{where} are almost black (brightest value {high:g} of 255): they "
                    "hold codes rather than colours, or the bounds of the observation space do "
                    "not match"
                )
            if leaf.kind == "vector":
                found += _vector_findings(where, max(abs(low), abs(high)), shapes.get(leaf.name))
        return found

    def _length_findings(self) -> list[str]:
        """Return warnings about the lengths of finished episodes."""
        lengths = self.lengths
        if lengths and max(lengths) == 1:
            return ["every episode lasted one step: there is nothing for a world model to learn"]
        limit_like = len(lengths) > 2 and len(set(lengths)) == 1 and lengths[0] % 10 == 0
        if limit_like and not self.ends["truncated"]:  # time limits are round numbers
            return [
                f"every episode terminated after exactly {lengths[0]} steps: "
                "if that is a time limit, return truncated instead of terminated"
            ]
        return []


def _vector_findings(where: str, largest: float, raw: tuple[int, ...] | None) -> list[str]:
    """Return warnings about a vector, from its largest absolute value and its raw shape."""
    found = []
    if largest > 100:
        found.append(f"the vectors{where} hold values beyond 100: bring them to the order of 1")
    if raw is not None and len(raw) > 1 and math.prod(raw) >= _LONG_VECTOR:
        found.append(
            f"observations{where} of shape {raw} are read as vectors of {math.prod(raw):,} "
            "numbers: if they are pictures, declare them uint8, or with the bounds 0 and 1"
        )
    return found
