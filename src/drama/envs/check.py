"""Reports whether an environment suits the agent, from a short run of random actions."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from drama.envs.adapt import AdaptedEnv, adapt
from drama.envs.description import describe
from drama.envs.guard import guards_of
from drama.envs.make import default_image_size, make_env
from drama.envs.spaces import ObservationAdapter
from drama.envs.survey import EnvSurvey
from drama.envs.wrappers import env_name
from drama.errors import EnvError
from drama.text import size
from drama.types import Obs, Transition, same_obs

_COMPARED_STEPS = 20
"""Steps after a reset over which episodes are compared."""
_COMPARED_EPISODES = 5


@dataclass(frozen=True)
class ObservationRange:
    """Shape, dtype, smallest and largest value of observations."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    def __str__(self) -> str:
        """Return one line, such as ``(64, 64, 3) uint8, 0 .. 236 seen``."""
        return f"{self.shape} {self.dtype}, {self.low:g} .. {self.high:g} seen"


@dataclass(frozen=True)
class LeafReport:
    """How one leaf of the observations is read, and what it costs."""

    name: str
    """Empty if observations are one array."""
    raw: ObservationRange
    """As the environment returns it (Atari: after its preprocessing)."""
    adapted: ObservationRange
    """As the agent reads it."""
    reading: str
    """How it is read: :attr:`drama.envs.ObservationAdapter.reading`."""
    replay_bytes: int
    """Memory in a full replay buffer, in bytes."""

    def __str__(self) -> str:
        """Return the reading, the raw range and the memory in one line."""
        return f"{self.reading}; {self.raw}; {size(self.replay_bytes)} in the replay"


@dataclass(frozen=True)
class EnvReport:
    """Report on an environment under random actions."""

    env_id: str
    steps: int
    """Steps taken."""
    leaves: tuple[LeafReport, ...]
    """Leaves of the observations that are read."""
    skipped: tuple[str, ...]
    """Names of the text leaves, which are not read."""
    num_actions: int
    action_names: tuple[str, ...]
    """Names of the actions, if the environment defines them."""
    reward_min: float
    reward_mean: float
    reward_max: float
    reward_nonzero: float
    """Fraction of steps with a reward other than zero."""
    episode_lengths: tuple[int, ...]
    """Lengths of the finished episodes, in steps."""
    terminated: int
    """Episodes that terminated."""
    truncated: int
    """Episodes that were truncated without terminating in the same step."""
    steps_per_second: float
    deterministic: bool | None
    """Whether two copies with the same seed agree; None for an object, which is not copied."""
    episodes_differ: bool
    """Whether some of five episodes differ from the first under the same actions."""
    replay_capacity: int
    """Transitions that ``replay_bytes`` is for."""
    replay_bytes: int
    """Memory for the observations of a full replay buffer, in bytes."""
    protocol: dict[str, Any] = field(repr=False)
    """From :func:`drama.envs.describe`."""
    warnings: tuple[str, ...] = ()
    """Properties that may prevent learning; empty if none was found."""

    def render(self) -> str:
        """Return the report as text, one fact a line."""
        lengths = self.episode_lengths
        episodes = "none finished"
        if lengths:
            episodes = (
                f"{len(lengths)} finished, {self.terminated} terminated, {self.truncated} "
                f"truncated; length {min(lengths)} .. {max(lengths)}, mean {np.mean(lengths):.1f}"
            )
        names = f" ({', '.join(self.action_names)})" if self.action_names else ""
        same = {True: "yes", False: "NO", None: "not checked (give an id to check it)"}
        facts = {
            "environment": self.env_id,
            **self._observations(),
            "actions": f"{self.num_actions}{names}",
            "rewards": (
                f"{self.reward_min:g} .. {self.reward_max:g}, mean {self.reward_mean:.4g}, "
                f"nonzero in {self.reward_nonzero:.1%} of {self.steps} steps"
            ),
            "episodes": episodes,
            "time limit": str(self.protocol["max_episode_steps"] or "none"),
            "speed": f"{self.steps_per_second:,.0f} steps/s",
            "same seed, same run": same[self.deterministic],
            "episodes differ": same[self.episodes_differ],
            "replay memory": f"{size(self.replay_bytes)} for {self.replay_capacity:,} transitions",
        }
        width = max(map(len, facts))
        lines = [f"{name:<{width}}  {value}" for name, value in facts.items()]
        lines += [f"warning: {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join(lines)

    def _observations(self) -> dict[str, str]:
        """Return the facts about the observations by title."""
        first = self.leaves[0]
        if not first.name:
            return {
                "observations": str(first.raw),
                "read as": first.reading,
                "as the agent reads": str(first.adapted),
            }
        skipped = {f"observation {name}": "text, not read" for name in self.skipped}
        return {f"observation {leaf.name}": str(leaf) for leaf in self.leaves} | skipped


class _Recorder:
    """Wraps an observation adapter and records the ranges of the raw leaves by name."""

    def __init__(self, adapter: ObservationAdapter) -> None:
        self.adapter = adapter
        self.ranges = {leaf.name: (np.inf, -np.inf) for leaf, _ in adapter.leaves}

    def __call__(self, obs: Any) -> Obs:
        for leaf, _ in self.adapter.leaves:
            values, (low, high) = np.asarray(leaf.of(obs)), self.ranges[leaf.name]
            self.ranges[leaf.name] = min(low, float(values.min())), max(high, float(values.max()))
        return self.adapter(obs)


def check_env(
    env: str | gym.Env[Any, Any],
    steps: int = 300,
    seed: int = 0,
    *,
    replay_capacity: int = 100_000,
    **make_kwargs: Any,
) -> EnvReport:
    """Run a random policy and report on the environment.

    Args:
        env: An id, or an environment object, which is stepped a little more than ``steps`` times
            and left open.
        steps: Steps of the main run, at least 1. Two more runs of the same length check
            determinism if ``env`` is an id.
        seed: Seed of the environment and of the actions.
        replay_capacity: Transitions to compute the replay memory for.
        **make_kwargs: Passed to :func:`drama.envs.make_env` with an id.

    Raises:
        EnvError: As :func:`drama.envs.make_env` and :func:`drama.envs.adapt`, or ``steps`` or
            ``replay_capacity`` is smaller than 1.
        EnvFaultError: The environment broke its contract during the run.
    """
    if steps < 1 or replay_capacity < 1:
        raise EnvError(
            f"steps and replay_capacity must be at least 1, got {steps} and {replay_capacity}"
        )
    deterministic: bool | None = None
    if isinstance(env, str):
        make = functools.partial(make_env, env, seed, **make_kwargs)
        adapted = make()
        deterministic = _same_runs(make, steps, seed)
    elif make_kwargs:
        raise EnvError(f"{', '.join(make_kwargs)}: only usable with an id")
    else:
        adapted = adapt(env, image_size=default_image_size(env), seed=seed)
    assert isinstance(adapted, AdaptedEnv)
    try:
        return _measure(adapted, steps, seed, replay_capacity, deterministic)
    finally:
        if isinstance(env, str):
            adapted.close()


def _measure(
    env: AdaptedEnv, steps: int, seed: int, replay_capacity: int, deterministic: bool | None
) -> EnvReport:
    adapter = env.adapt_observation
    assert isinstance(adapter, ObservationAdapter)
    recorder = _Recorder(adapter)
    survey = EnvSurvey(env)
    rng = np.random.default_rng(seed)
    space = env.action_space
    assert isinstance(space, gym.spaces.Discrete)
    actions = rng.integers(space.n, size=steps)
    env.adapt_observation = recorder  # type: ignore[assignment]
    try:
        elapsed = _play(env, actions, survey)
        differ = _episodes_differ(env, actions[:_COMPARED_STEPS])
    finally:
        env.adapt_observation = adapter
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    replay_bytes = adapter.observations.nbytes * replay_capacity
    found = survey.findings(seconds=elapsed, replay_bytes=replay_bytes, episodes_differ=differ)
    if deterministic is False:
        found.append("two copies with the same seed went different ways: runs cannot be repeated")
    for guard in guards_of(env):
        found += guard.notes
        guard.notes.clear()
    return EnvReport(
        env_id=env_name(env),
        steps=steps,
        leaves=tuple(
            LeafReport(
                name=raw.name,
                raw=ObservationRange(
                    part.raw_space.shape, str(part.raw_space.dtype), *recorder.ranges[raw.name]
                ),
                adapted=ObservationRange(
                    part.leaf.shape, part.leaf.dtype, *survey.ranges[raw.name]
                ),
                reading=part.reading,
                replay_bytes=part.leaf.nbytes * replay_capacity,
            )
            for raw, part in adapter.leaves
        ),
        skipped=adapter.skipped,
        num_actions=int(space.n),
        action_names=tuple(meanings()) if callable(meanings) else (),
        reward_min=survey.reward_min,
        reward_mean=survey.reward_sum / steps,
        reward_max=survey.reward_max,
        reward_nonzero=survey.nonzero / steps,
        episode_lengths=tuple(survey.lengths),
        terminated=survey.ends["terminated"],
        truncated=survey.ends["truncated"],
        steps_per_second=steps / max(elapsed, 1e-9),
        deterministic=deterministic,
        episodes_differ=differ,
        replay_capacity=replay_capacity,
        replay_bytes=replay_bytes,
        protocol=describe(env),
        warnings=tuple(found),
    )


def _play(env: AdaptedEnv, actions: npt.NDArray[np.int64], survey: EnvSurvey) -> float:
    """Step with ``actions``, add the transitions to ``survey``; return the seconds of stepping."""
    obs, _ = env.reset()
    is_first, elapsed = True, 0.0
    for action in actions.tolist():
        start = time.perf_counter()
        following, reward, terminated, truncated, _ = env.step(action)
        elapsed += time.perf_counter() - start
        survey.add(Transition(obs, is_first, action, reward, terminated, truncated, False))
        obs, is_first = following, False
        if terminated or truncated:
            survey.add(Transition(obs, False, 0, 0.0, False, False, True))
            start = time.perf_counter()
            obs, _ = env.reset()
            elapsed += time.perf_counter() - start
            is_first = True
    return elapsed


_Trace = list[tuple[Obs, float, bool, bool]]
"""Observations, each with the reward and the two flags of the step that led to it."""


def _run(env: gym.Env[Any, Any], actions: npt.NDArray[np.int64]) -> _Trace:
    """Return the results of ``actions`` from the next episode on."""
    trace: _Trace = [(env.reset()[0], 0.0, False, False)]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        trace.append((obs, float(reward), terminated, truncated))
        if terminated or truncated:
            trace.append((env.reset()[0], 0.0, False, False))
    return trace


def _agree(left: _Trace, right: _Trace) -> bool:
    return len(left) == len(right) and all(
        same_obs(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(left, right, strict=True)
    )


def _same_runs(make: Callable[[], gym.Env[Any, Any]], steps: int, seed: int) -> bool:
    runs = []
    for _ in range(2):
        env = make()
        space = env.action_space
        assert isinstance(space, gym.spaces.Discrete)
        runs.append(_run(env, np.random.default_rng(seed).integers(space.n, size=steps)))
        env.close()
    return _agree(*runs)


def _episodes_differ(env: gym.Env[Any, Any], actions: npt.NDArray[np.int64]) -> bool:
    # Several: a game with few starts sometimes begins two consecutive episodes alike.
    first = _run(env, actions)
    return not all(_agree(first, _run(env, actions)) for _ in range(_COMPARED_EPISODES - 1))
