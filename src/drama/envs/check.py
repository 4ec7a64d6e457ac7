"""Tells whether an environment is fit for the agent, from a short random run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from drama.envs.adapt import AdaptedEnv, adapt
from drama.envs.guard import env_name
from drama.envs.identity import describe
from drama.envs.make import default_image_size, make_env
from drama.envs.mapping import ObservationAdapter
from drama.errors import EnvError

_COMPARED_STEPS = 20
"""Steps after a reset over which episodes are compared."""
_COMPARED_EPISODES = 5


@dataclass(frozen=True)
class ObservationRange:
    """Shape, dtype and the smallest and largest value seen."""

    shape: tuple[int, ...]
    dtype: str
    low: float
    high: float

    def __str__(self) -> str:
        """Return one line, say ``(64, 64, 3) uint8, 0 .. 236 seen``."""
        return f"{self.shape} {self.dtype}, {self.low:g} .. {self.high:g} seen"


@dataclass(frozen=True)
class EnvReport:
    """What a random policy saw of an environment."""

    env_id: str
    steps: int
    """Steps taken."""
    raw: ObservationRange
    """Observations as the environment returns them (Atari: after its preprocessing)."""
    adapted: ObservationRange
    """Observations as the agent reads them."""
    num_actions: int
    action_names: tuple[str, ...]
    """Names of the actions, if the environment knows them."""
    reward_min: float
    reward_mean: float
    reward_max: float
    reward_nonzero: float
    """Fraction of steps with a reward other than zero."""
    episode_lengths: tuple[int, ...]
    """Lengths of the finished episodes, in steps."""
    terminated: int
    """Episodes that ended by the rules of the task."""
    truncated: int
    """Episodes that were cut off (and did not end by the rules in the same step)."""
    steps_per_second: float
    deterministic: bool | None
    """Whether two copies with one seed agree; None if given an object, which cannot be copied."""
    episodes_differ: bool
    """Whether some of five episodes differ from the first under the same actions."""
    replay_capacity: int
    """Transitions that ``replay_bytes`` is for."""
    replay_bytes: int
    """Memory for the observations of a full replay buffer, in bytes."""
    protocol: dict[str, Any] = field(repr=False)
    """From :func:`drama.envs.describe`."""
    warnings: tuple[str, ...] = ()
    """What may keep an agent from learning here; empty if nothing was found."""

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
        rows = {
            "environment": self.env_id,
            "observations": str(self.raw),
            "as the agent reads": str(self.adapted),
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
            "replay memory": (
                f"{self.replay_bytes / 1e9:.3g} GB for {self.replay_capacity:,} transitions"
            ),
        }
        width = max(map(len, rows))
        lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
        lines += [f"warning: {text}" for text in self.warnings] or ["no warnings"]
        return "\n".join(lines)


class _Recorder:
    """Stands in for an environment's observation adapter and keeps the ranges that pass it."""

    def __init__(self, adapter: ObservationAdapter) -> None:
        self.adapter = adapter
        self.raw = [np.inf, -np.inf]
        self.adapted = [np.inf, -np.inf]

    def __call__(self, obs: npt.ArrayLike) -> Any:
        adapted = self.adapter(obs)
        for seen, values in ((self.raw, np.asarray(obs)), (self.adapted, adapted)):
            seen[0] = min(seen[0], float(values.min()))
            seen[1] = max(seen[1], float(values.max()))
        return adapted


def check_env(
    env: str | gym.Env[Any, Any],
    steps: int = 300,
    seed: int = 0,
    *,
    replay_capacity: int = 100_000,
    **make_kwargs: Any,
) -> EnvReport:
    """Run a random policy and report what the agent would meet.

    Args:
        env: An id, or an environment object; the object is used up to ``steps`` and a few more
            and is left open.
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
    if isinstance(env, str):
        env_id = env
        adapted = make_env(env_id, seed, **make_kwargs)

        def copies() -> gym.Env[Any, Any]:
            return make_env(env_id, seed, **make_kwargs)

        deterministic: bool | None = _same_runs(copies, steps, seed)
    else:
        if make_kwargs:
            raise EnvError(f"{', '.join(make_kwargs)}: only usable with an id")
        adapted = adapt(env, image_size=default_image_size(env), seed=seed)
        deterministic = None
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
    env.adapt_observation = recorder  # type: ignore[assignment]
    rng = np.random.default_rng(seed)
    space = env.action_space
    assert isinstance(space, gym.spaces.Discrete)
    actions = rng.integers(space.n, size=steps)
    rewards = np.zeros(steps)
    lengths: list[int] = []
    ends: Counter[str] = Counter()
    try:
        first, _ = env.reset()
        changed = False
        length, elapsed = 0, 0.0
        for index, action in enumerate(actions):
            start = time.perf_counter()
            obs, reward, terminated, truncated, _ = env.step(action)
            elapsed += time.perf_counter() - start
            rewards[index] = reward
            changed = changed or not np.array_equal(obs, first)
            length += 1
            if terminated or truncated:
                lengths.append(length)
                ends["terminated" if terminated else "truncated"] += 1
                length = 0
                start = time.perf_counter()
                env.reset()
                elapsed += time.perf_counter() - start
        differ = _episodes_differ(env, actions[:_COMPARED_STEPS])
    finally:
        env.adapt_observation = adapter
    protocol = describe(env)
    meanings = getattr(env.unwrapped, "get_action_meanings", None)
    seen = recorder.adapted
    report = EnvReport(
        env_id=env_name(env),
        steps=steps,
        raw=ObservationRange(
            adapter.raw_space.shape, str(adapter.raw_space.dtype), recorder.raw[0], recorder.raw[1]
        ),
        adapted=ObservationRange(adapter.space.shape, str(adapter.space.dtype), seen[0], seen[1]),
        num_actions=int(space.n),
        action_names=tuple(meanings()) if callable(meanings) else (),
        reward_min=float(rewards.min()),
        reward_mean=float(rewards.mean()),
        reward_max=float(rewards.max()),
        reward_nonzero=float((rewards != 0).mean()),
        episode_lengths=tuple(lengths),
        terminated=ends["terminated"],
        truncated=ends["truncated"],
        steps_per_second=steps / max(elapsed, 1e-9),
        deterministic=deterministic,
        episodes_differ=differ,
        replay_capacity=replay_capacity,
        replay_bytes=int(np.prod(adapter.space.shape))
        * adapter.space.dtype.itemsize
        * replay_capacity,
        protocol=protocol,
    )
    found = tuple(_warnings(report, is_image=adapter.is_image, changed=changed))
    return replace(report, warnings=found)


def _run(
    env: gym.Env[Any, Any], actions: npt.NDArray[np.int64]
) -> list[tuple[npt.NDArray[Any], float, bool, bool]]:
    """Return what ``actions`` yield from the next episode on."""
    obs, _ = env.reset()
    seen = [(np.array(obs), 0.0, False, False)]
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((np.array(obs), float(reward), terminated, truncated))
        if terminated or truncated:
            obs, _ = env.reset()
            seen.append((np.array(obs), 0.0, False, False))
    return seen


def _agree(
    left: list[tuple[npt.NDArray[Any], float, bool, bool]],
    right: list[tuple[npt.NDArray[Any], float, bool, bool]],
) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a[0], b[0]) and a[1:] == b[1:] for a, b in zip(left, right, strict=True)
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
    # Several, for a game with few starts begins two in a row alike now and then.
    first = _run(env, actions)
    return not all(_agree(first, _run(env, actions)) for _ in range(_COMPARED_EPISODES - 1))


def _warnings(report: EnvReport, *, is_image: bool, changed: bool) -> list[str]:
    """Return one line for each thing that may keep an agent from learning."""
    found: list[str] = []
    lengths = report.episode_lengths
    if not changed:
        found.append("every observation was the same: the agent sees nothing of what it does")
    if is_image and report.adapted.high < 32:
        found.append(
            f"the pictures are almost black (brightest value {report.adapted.high:g} of 255): "
            "do the bounds of the observation space match the values?"
        )
    if not is_image and max(abs(report.adapted.low), abs(report.adapted.high)) > 100:
        found.append("the vectors hold values beyond 100: bring them to the order of 1")
    if report.reward_nonzero == 0:
        found.append(f"no reward in {report.steps} random steps: learning may take very long")
    elif report.reward_min == report.reward_max and len(set(lengths)) <= 1:
        found.append("every step had the same reward: nothing tells good actions from bad ones")
    if not lengths and report.protocol["max_episode_steps"] is None:
        found.append(
            f"no episode ended in {report.steps} steps and there is no time limit: "
            "set max_episode_steps"
        )
    if lengths and max(lengths) == 1:
        found.append("every episode lasted one step: there is nothing for a world model to learn")
    elif (
        len(lengths) > 2
        and len(set(lengths)) == 1
        and lengths[0] % 10 == 0  # time limits are round numbers
        and report.truncated == 0
    ):
        found.append(
            f"every episode terminated after exactly {lengths[0]} steps: "
            "if that is a time limit, return truncated instead of terminated"
        )
    if report.deterministic is False:
        found.append("two copies with the same seed went different ways: runs cannot be repeated")
    if not report.episodes_differ:
        found.append("every episode begins the same: the start is fixed, or reset() seeds itself")
    if report.steps_per_second < 100:
        found.append(f"slow: {report.steps_per_second:.0f} steps/s")
    if report.replay_bytes > 8 * 2**30:
        found.append(
            f"the replay buffer takes {report.replay_bytes / 2**30:.1f} GiB: "
            "lower image_size or the capacity"
        )
    return found
