"""Adapts any Gymnasium environment with discrete actions to the agent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit

from drama.envs.guard import FaultGuard
from drama.envs.spaces import ActionAdapter, ObservationAdapter, check_positive
from drama.envs.wrappers import STATISTICS_KEY, env_name, is_monitor, wrappers_of
from drama.errors import EnvError
from drama.observations import ALL
from drama.text import one_line
from drama.types import Obs


class AdaptedEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An environment with adapted spaces, and a seed that is used once.

    Use :func:`adapt`, which also adds the guard, the time limit and the episode statistics.

    Args:
        env: A guarded environment.
        observation: Map of its observations.
        action: Map of the agent's actions.
        seed: Seed of the first ``reset``, or None.
        protocol: Further facts for :func:`drama.envs.describe`.
        settings: Arguments of :func:`drama.make_env` but for the seed, if it made ``env``.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        observation: ObservationAdapter,
        action: ActionAdapter,
        *,
        seed: int | None = None,
        protocol: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        RecordConstructorArgs.__init__(
            self, observation=observation, action=action, seed=seed, protocol=protocol
        )
        super().__init__(env)
        self.adapt_observation = observation
        self.adapt_action = action
        self.observation_space = observation.space
        self.action_space = action.space
        self.seed = seed
        self.protocol = protocol or {}
        self.settings = settings
        self._first_seed = seed
        self.calls = 0
        """Number of calls of ``reset`` and ``step``, failed ones included."""

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]  # a property in gym.Wrapper too
        """Specification from which ``gymnasium.make`` makes the same environment."""
        if self.settings is None or self._cached_spec is not None:
            return super().spec
        core = self.env.spec
        self._cached_spec = EnvSpec(
            env_name(self.env),
            "drama.envs.make:from_spec",
            reward_threshold=None if core is None else core.reward_threshold,
            nondeterministic=core is not None and core.nondeterministic,
            order_enforce=False,
            disable_env_checker=True,
            kwargs={"seed": self.seed, **self.settings},
        )
        return self._cached_spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode.

        The first call uses the seed given at construction and later ones none, so that episodes
        differ and the run is reproducible. A ``seed`` given here takes precedence.
        """
        if seed is None:
            seed = self._first_seed
        self._first_seed = None
        self.calls += 1
        obs, info = self.env.reset(seed=seed, options=options)
        return self.adapt_observation(obs), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step with an action of the agent, counted from 0."""
        self.calls += 1
        obs, reward, terminated, truncated, info = self.env.step(self.adapt_action(action))
        counted = info.pop(STATISTICS_KEY, None)
        if counted is not None and "episode" not in info:  # a monitor's own count comes first
            info = {**info, "episode": counted}  # the environment may keep its dictionary
        return self.adapt_observation(obs), float(reward), terminated, truncated, info


def adapt(  # noqa: PLR0913 (keywords of env.*)
    env: gym.Env[Any, Any],
    *,
    image_size: int | None = None,
    max_episode_steps: int | None = None,
    observe: Sequence[str] = ALL,
    seed: int | None = None,
    protocol: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
) -> gym.Env[Any, Any]:
    """Adapt an environment object to the agent.

    From the inside out: :class:`~drama.envs.guard.FaultGuard`, Gymnasium's ``TimeLimit`` (if
    requested) and ``RecordEpisodeStatistics`` (unless there is a monitor), and
    :class:`AdaptedEnv`. An adapted environment is returned unchanged if nothing would change.

    Args:
        env: Any Gymnasium environment whose spaces are supported.
        image_size: Side of the adapted picture in pixels; None keeps its size.
        max_episode_steps: Truncate episodes after so many steps; None adds no limit.
        observe: Patterns of the leaves of a Dict or Tuple observation that are read.
        seed: Seed of the first ``reset``.
        protocol: Further facts for :func:`drama.envs.describe`.
        settings: Arguments of :func:`drama.make_env` but for the seed, if it made ``env``.

    Returns:
        An environment with ``Box(0, 255, (H, W, C), uint8)``, ``Box(-inf, inf, (N,), float32)`` or
        ``MultiDiscrete`` observations, or a ``Dict`` of these, and ``Discrete(n)`` actions counted
        from 0.

    Raises:
        UnsupportedSpaceError: Its observation or action space is not supported.
        ConfigError: A pattern of ``observe`` fits no leaf.
        EnvError: It is not a Gymnasium environment, or an argument is out of range.
    """
    require_env(env)
    check_positive("max_episode_steps", max_episode_steps)
    for name in ("observation_space", "action_space"):
        if getattr(env, name, None) is None:
            raise EnvError(f"{env_name(env)} has no {name}; a gymnasium.Env must define it")
    observation = ObservationAdapter(
        env.observation_space,
        image_size,
        channels_last=isinstance(env, AdaptedEnv),
        observe=observe,
    )
    action = ActionAdapter(env.action_space)
    unchanged = observation.is_identity and action.is_identity
    if (
        isinstance(env, AdaptedEnv)
        and unchanged
        and max_episode_steps is None
        and seed is None
        and not protocol
        and settings is None
    ):
        return env
    inherited = env.protocol if isinstance(env, AdaptedEnv) else {}
    wrapped: gym.Env[Any, Any] = FaultGuard(env, observe)
    if max_episode_steps is not None:
        wrapped = TimeLimit(wrapped, max_episode_steps)
    if not any(is_monitor(layer) for layer in wrappers_of(env)):
        wrapped = RecordEpisodeStatistics(wrapped, stats_key=STATISTICS_KEY)
    facts = {**inherited, **(protocol or {})}
    return AdaptedEnv(wrapped, observation, action, seed=seed, protocol=facts, settings=settings)


def require_env(env: object) -> None:
    """Raise an :class:`EnvError` unless ``env`` is a Gymnasium environment."""
    if not isinstance(env, gym.Env):
        kind = f"{type(env).__module__}.{type(env).__qualname__}"
        raise EnvError(f"{kind} is not a gymnasium.Env{instead_of(env)}")


def is_vectorised(env: object) -> bool:
    """Whether an object holds several environments: Gymnasium's or Stable-Baselines3's."""
    return isinstance(env, gym.vector.VectorEnv) or (
        hasattr(env, "num_envs") and hasattr(env, "reset") and not isinstance(env, gym.Env)
    )


def instead_of(env: object) -> str:
    """Return the end of an error message: how to make an environment of ``env``."""
    if is_vectorised(env):
        return "; it is several environments side by side, and the agent learns from one of them"
    if hasattr(env, "step") or hasattr(env, "reset"):
        return "; if it follows the old Gym API, port it or wrap it with shimmy"
    return "; if it makes one, call it" if callable(env) else ""


def adapter_of(env: gym.Env[Any, Any]) -> AdaptedEnv | None:
    """Return the outermost adapter around ``env``, or None."""
    return next((layer for layer in wrappers_of(env) if isinstance(layer, AdaptedEnv)), None)


def as_batch(
    observation: Any, adapted: ObservationAdapter, adapter: AdaptedEnv | None
) -> tuple[Obs, bool, bool]:
    """Return observations as an adapted batch, whether it was a single one, and whether it was raw.

    Args:
        observation: One observation or a batch, adapted or raw; adapted if both are possible.
        adapted: The map of the adapted space to itself.
        adapter: Maps raw observations; None accepts adapted ones only.

    Raises:
        EnvError: The observation fits neither the raw nor the adapted space, or a vector holds
            NaN or Inf.
    """
    readings = [(adapted, False)]
    if adapter is not None:
        readings.append((adapter.adapt_observation, True))
    for mapping, raw in readings:
        arrays = _arrays(observation, mapping)
        for single in (True, False):
            batch = [array[None] if single else array for array in arrays]
            if batch and all(
                array.ndim
                and len(array) == len(batch[0])
                and array.shape[1:] == leaf.raw_space.shape
                and (raw or array.dtype == leaf.raw_space.dtype)
                for array, (_, leaf) in zip(batch, mapping.leaves, strict=True)
            ):
                leaves = zip(batch, mapping.leaves, strict=True)
                found = {leaf.leaf.column: leaf.batch(array) for array, (_, leaf) in leaves}
                return mapping.observations.from_columns(found), single, raw
    raise EnvError(f"{_shown(observation)} does not fit {one_line(adapted.space)}")


def _arrays(observation: Any, mapping: ObservationAdapter) -> list[npt.NDArray[Any]]:
    """Return the leaves of an observation as arrays; none if it is built otherwise.

    Raises:
        EnvError: A leaf is no array, or holds NaN or Inf.
    """
    found = []
    for raw, _ in mapping.leaves:
        try:
            part = raw.of(observation)
        except (LookupError, TypeError):
            return []
        try:
            array = np.asarray(part)
        except (TypeError, ValueError) as error:
            raise EnvError(
                f"an observation must be an array, got {type(part).__name__}{_of_reset(part)}"
            ) from error
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise EnvError("an observation contains NaN or Inf")
        found.append(array)
    return found


def _of_reset(observation: Any) -> str:
    """Return advice about what ``reset`` returned, if it is that; else nothing."""
    if isinstance(observation, tuple) and len(observation) and isinstance(observation[-1], dict):
        return "; reset() returns (obs, info), of which obs is wanted"
    return ""


def _shown(observation: Any) -> str:
    """Return an observation that does not fit, as the beginning of an error message."""
    if isinstance(observation, Mapping):
        return f"an observation of {', '.join(map(str, observation)) or 'nothing'}"
    try:
        obs = np.asarray(observation)
    except (TypeError, ValueError):  # parts of different shapes
        return f"an observation of {len(observation)} parts{_of_reset(observation)}"
    return f"an observation of shape {obs.shape} and type {obs.dtype}"
