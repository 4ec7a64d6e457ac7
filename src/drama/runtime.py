"""Run exported agents with NumPy and ONNX Runtime alone: nothing here imports PyTorch.

    agent = OnnxAgent("catch.onnx")
    action, state = agent.predict(obs, state, episode_start, deterministic=True)

The files are written by ``drama export RUN --onnx FILE``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drama.errors import CheckpointError, ConfigError, EnvError

FORMAT = 1
"""Version of the exported files that this package writes and reads."""


class OnnxState(NamedTuple):
    """State that an acting agent carries from one observation to the next."""

    tensors: tuple[npt.NDArray[Any], ...]
    """Tensors of the sequence model and the deterministic state, ``(B, ...)`` each."""


class OnnxAgent:
    """An exported agent, with Stable-Baselines3's ``predict``.

    Args:
        path: A file of ``drama export RUN --onnx FILE``.
        threads: Threads of ONNX Runtime.
        seed: Seed of the random numbers, used only with ``deterministic=False`` and in the
            one-step lookahead.

    Attributes:
        metadata: What the file says of itself: environment, spaces, versions.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: The file is missing, damaged, or of another version.
    """

    def __init__(self, path: str | Path, *, threads: int = 1, seed: int | None = None) -> None:
        self.path = Path(path)
        self._session = _session(self.path, threads)
        self.metadata = _metadata(self._session, self.path)
        self._rng = np.random.default_rng(seed)
        spec = self.metadata["observation"]
        self._shape, self._dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
        self._names = [entry["name"] for entry in self.metadata["state"]]
        self._adapter: Any = None

    def __repr__(self) -> str:
        """Return file and environment."""
        return f"OnnxAgent({str(self.path)!r}, {self.metadata['env']})"

    def predict(
        self,
        observation: npt.NDArray[Any],
        state: OnnxState | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[npt.NDArray[Any], OnnxState]:
        """Choose actions, as `drama.Agent.predict`.

        A batch is computed one observation at a time.

        Args:
            observation: One observation or a batch, raw as the environment returns it or adapted
                as the agent sees it. If shape and type fit both, it is taken as adapted, and
                actions count from 0.
            state: What the last call returned; None starts new episodes.
            episode_start: ``(B,)`` bool, where a new episode starts whatever ``state`` holds.
            deterministic: Most probable latents and action.

        Returns:
            Actions of the environment, ``(B,)`` or a scalar for one observation, and the state
            for the next call.

        Raises:
            EnvError: An argument does not fit the environment or another argument.
        """
        obs, single, raw = self._as_batch(observation)
        start = self._starts(state, episode_start, len(obs))
        tensors = self._zeros(len(obs)) if state is None else state.tensors
        rows = [
            self._step(
                obs[i : i + 1], start[i : i + 1], [t[i : i + 1] for t in tensors], deterministic
            )
            for i in range(len(obs))
        ]
        action, *after = (np.concatenate(column) for column in zip(*rows, strict=True))
        if raw:
            action = action + self.metadata["actions"]["start"]
        return (action[0] if single else action), OnnxState(tuple(after))

    def _step(
        self,
        obs: npt.NDArray[Any],
        is_first: npt.NDArray[np.bool_],
        state: list[npt.NDArray[Any]],
        greedy: bool,
    ) -> list[npt.NDArray[Any]]:
        feeds: dict[str, Any] = {"obs": obs, "is_first": is_first}
        feeds.update(zip(self._names, state, strict=True))
        if not greedy:
            feeds["greedy"] = np.zeros(1, bool)
        if not greedy or self.metadata["lookahead"]:
            feeds["uniform"] = self._rng.random(self.metadata["numbers"], dtype=np.float32)
        outputs: list[npt.NDArray[Any]] = self._session.run(None, feeds)
        return outputs

    def _zeros(self, count: int) -> tuple[npt.NDArray[Any], ...]:
        # Their values do not matter: the first frame of an episode ignores them.
        return tuple(
            np.zeros((count, *entry["shape"][1:]), entry["dtype"])
            for entry in self.metadata["state"]
        )

    def _starts(
        self, state: OnnxState | None, episode_start: npt.NDArray[Any] | None, count: int
    ) -> npt.NDArray[np.bool_]:
        """Return where an episode starts, ``(count,)``."""
        if state is None:
            return np.ones(count, dtype=bool)
        if not isinstance(state, OnnxState):
            kind = type(state).__name__
            raise EnvError(f"state must be what the last call returned, or None, got {kind}")
        if len(state.tensors[0]) != count:
            raise EnvError(f"state is of {len(state.tensors[0])} environments, not {count}")
        return episode_starts(episode_start, count)

    def _as_batch(self, observation: npt.ArrayLike) -> tuple[npt.NDArray[Any], bool, bool]:
        """Return observations as an adapted batch, whether it was a single one, whether raw."""
        obs = np.asarray(observation)
        if obs.dtype.kind == "f" and not np.isfinite(obs).all():
            raise EnvError("an observation contains NaN or Inf")
        for single in (True, False):
            batch = obs[None] if single else obs
            if batch.ndim and batch.shape[1:] == self._shape and batch.dtype == self._dtype:
                return np.ascontiguousarray(batch), single, False
        raw = self.metadata["raw_observation"]
        for single in (True, False):
            batch = obs[None] if single else obs
            if raw is not None and batch.ndim and batch.shape[1:] == tuple(raw["shape"]):
                return self._adapt(batch, raw), single, True
        raise EnvError(
            f"an observation of shape {obs.shape} and type {obs.dtype} does not fit "
            f"{self._shape} {self._dtype}"
        )

    def _adapt(self, batch: npt.NDArray[Any], raw: dict[str, Any]) -> npt.NDArray[Any]:
        """Map raw observations to adapted ones; pictures need Gymnasium and OpenCV."""
        if "image_size" not in raw:
            return np.ascontiguousarray(batch.reshape(len(batch), -1), np.float32)
        if self._adapter is None:
            self._adapter = _adapter(raw)
        adapted: npt.NDArray[Any] = self._adapter.batch(batch)
        return adapted


def episode_starts(given: npt.NDArray[Any] | None, count: int) -> npt.NDArray[np.bool_]:
    """Return ``predict``'s argument ``episode_start`` as ``(count,)`` bool; None: no start.

    Raises:
        EnvError: It is not bool or numeric, or of another size.
    """
    start = np.zeros(count, bool) if given is None else np.asarray(given)
    if start.dtype.kind not in "biuf":
        raise EnvError(f"episode_start must be bool ({count},), got {given!r}")
    if start.size != count:
        raise EnvError(f"episode_start has {start.size} entries for {count} observations")
    return start.reshape(count).astype(bool)


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("OnnxAgent needs ONNX Runtime: pip install onnxruntime") from error
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own types, for damage
        raise CheckpointError(f"{path} is damaged: it is not an ONNX file") from error


def _metadata(session: Any, path: Path) -> dict[str, Any]:
    text = session.get_modelmeta().custom_metadata_map.get("drama")
    if text is None:
        raise CheckpointError(f"{path} was not written by `drama export --onnx`")
    metadata: dict[str, Any] = json.loads(text)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is of format {metadata.get('format')}, written by drama "
            f"{metadata.get('drama')}; this version reads format {FORMAT}: export it again"
        )
    return metadata


def _adapter(raw: dict[str, Any]) -> Any:
    try:
        from gymnasium import spaces

        from drama.envs.spaces import ObservationAdapter
    except ImportError as error:
        raise ConfigError(
            f"raw pictures need the module {error.name!r}: install it, or pass adapted observations"
        ) from error
    low, high = (
        np.broadcast_to(np.asarray(raw[k], raw["dtype"]), raw["shape"]) for k in ("low", "high")
    )
    space = spaces.Box(low, high, dtype=np.dtype(raw["dtype"]).type)
    return ObservationAdapter(space, raw["image_size"], channels_last=raw["channels_last"])
