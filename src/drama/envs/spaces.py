"""Pure maps between an environment's spaces and the agent's.

The agent observes an image, ``Box(0, 255, (H, W, C), uint8)``, a vector,
``Box(-inf, inf, (N,), float32)``, categorical variables, ``MultiDiscrete`` of rank 1, or a ``Dict``
of these. It acts in ``Discrete(n)``, counted from 0.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from drama.envs.leaves import LeafAdapter, RawLeaf, is_text, leaf_adapter, raw_leaves
from drama.errors import EnvError, UnsupportedSpaceError
from drama.observations import ALL, ObsSpace, matching
from drama.text import one_line
from drama.types import Action, Obs, ObsArray

SUPPORTED_ACTIONS = "Discrete(n) with n >= 2"


def check_positive(name: str, value: object) -> None:
    """Raise an :class:`EnvError` unless ``value`` is a positive integer or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise EnvError(f"{name} must be a positive integer or None, got {value!r}")


class ObservationAdapter:
    """The pure map from a raw observation space to the agent's.

    A space that is neither Dict nor Tuple is mapped to one array. The leaves of Dicts and Tuples,
    nested or not, become the entries of one dictionary, named by their path: ``robot/camera``,
    ``0``. Each is mapped by its adapter (:mod:`drama.envs.leaves`). Text among them is skipped.

    Args:
        space: The raw observation space.
        image_size: Side of adapted pictures in pixels, or None to keep their size.
        channels_last: Whether the last axis of a 3-D image is known to be the channel axis;
            otherwise the shape decides.
        observe: Patterns of the leaves that are read, see :func:`drama.observations.matching`.

    Attributes:
        raw_space: The space given.
        leaves: Adapters of the leaves that are read, with the way to each in the raw space.
        observations: The agent's observations.
        space: Gymnasium's space of them.
        skipped: Names of the text leaves that are skipped.
        is_identity: Whether observations pass unchanged.

    Raises:
        UnsupportedSpaceError: A leaf is of a kind that is not read, or empty.
        EnvError: ``image_size`` is not a positive integer.
        ConfigError: A pattern of ``observe`` fits no leaf.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        image_size: int | None = None,
        *,
        channels_last: bool = False,
        observe: Sequence[str] = ALL,
    ) -> None:
        check_positive("image_size", image_size)
        self.raw_space = space
        found = raw_leaves(space)
        kept = matching(observe, [leaf.name for leaf in found], "env.observe")
        wanted = [leaf for leaf in found if leaf.name in kept]
        text = [leaf for leaf in wanted if is_text(leaf.space) and leaf.name not in observe]
        self.skipped = tuple(leaf.name for leaf in text) if len(text) < len(wanted) else ()
        self.leaves: list[tuple[RawLeaf, LeafAdapter]] = [
            (leaf, leaf_adapter(leaf, image_size, channels_last=channels_last))
            for leaf in wanted
            if leaf.name not in self.skipped
        ]
        self.observations = ObsSpace(tuple(adapter.leaf for _, adapter in self.leaves))
        self.space = self.observations.space
        self.is_identity = all(adapter.is_identity for _, adapter in self.leaves) and (
            self.observations.single is not None
            or (isinstance(space, spaces.Dict) and list(space) == list(self.space))  # type: ignore[call-overload]
        )

    @property
    def reading(self) -> str:
        """Summary of the map in one line: how each leaf is read, and what is not."""
        parts = [
            f"{raw.name}: {adapter.reading}" if raw.name else adapter.reading
            for raw, adapter in self.leaves
        ]
        return "; ".join([*parts, *(f"{name}: text, not read" for name in self.skipped)])

    @property
    def raw_shapes(self) -> dict[str, tuple[int, ...]]:
        """Raw shapes of the leaves that are read, by name."""
        return {raw.name: adapter.raw_space.shape for raw, adapter in self.leaves}

    def __call__(self, obs: Any) -> Obs:
        """Map one observation of the raw space to new arrays of ``space``.

        An environment may return the same array at every step and overwrite it.
        """
        return self._map(obs, lambda leaf, raw: np.array(leaf.batch(raw[None])[0], order="C"))

    def batch(self, obs: Any) -> Obs:
        """Map observations, each leaf ``(B, *raw shape)``, to ``(B, *adapted shape)``.

        Raises:
            EnvError: A shape does not fit the raw space, or the values do not convert to its dtype.
        """
        return self._map(obs, lambda leaf, raw: leaf.batch(raw))

    def _map(self, obs: Any, function: Callable[[LeafAdapter, npt.NDArray[Any]], ObsArray]) -> Obs:
        found: dict[str, ObsArray] = {}
        for raw, adapter in self.leaves:
            try:
                part = raw.of(obs)
            except (LookupError, TypeError) as error:
                raise EnvError(
                    f"an observation of type {type(obs).__name__} without {raw.name!r} does not "
                    f"fit {one_line(self.raw_space)}"
                ) from error
            found[adapter.leaf.column] = function(adapter, np.asarray(part))
        return self.observations.from_columns(found)


def _unsupported_action(space: spaces.Space[Any]) -> UnsupportedSpaceError:
    """Return the error, which names a wrapper that makes ``space`` discrete."""
    if not isinstance(space, spaces.Space):
        wrapper = "it is no gymnasium.spaces.Space"
    elif isinstance(space, spaces.Discrete):
        wrapper = "one action leaves nothing to choose"
    elif isinstance(space, spaces.Box) and space.is_bounded("both") and space.shape:
        wrapper = "gymnasium.wrappers.DiscretizeAction(env, bins=3) makes it discrete"
    else:
        wrapper = (
            "gymnasium.wrappers.TransformAction(env, function of an index, "
            "gymnasium.spaces.Discrete(n)) makes it discrete"
        )
    text = one_line(space)
    return UnsupportedSpaceError(
        f"action space {text} is not supported: {wrapper}; supported: {SUPPORTED_ACTIONS}"
    )


class ActionAdapter:
    """The map from the agent's actions, counted from 0, to the environment's.

    Args:
        space: The raw action space.

    Attributes:
        raw_space: The space given.
        space: ``Discrete(n)`` starting at 0.

    Raises:
        UnsupportedSpaceError: The space is not discrete, or offers fewer than two actions.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        if not isinstance(space, spaces.Discrete) or int(space.n) < 2:
            raise _unsupported_action(space)
        self.raw_space = space
        self._start = int(space.start)
        from drama.actions import ActionSpace  # on first use: environments need no torch

        self._actions = ActionSpace.of(space)
        self.space = spaces.Discrete(self._actions.count)
        self.is_identity = self._start == 0

    def __call__(self, action: Any) -> Action:
        """Return the environment's action for the agent's ``action``.

        Raises:
            EnvError: ``action`` is not an integer from 0 to ``n - 1``.
        """
        return self._actions.check(action) + self._start


def as_rgb(frames: ObsArray) -> ObsArray:
    """Return frames as RGB: one hue per channel, the brightest of each pixel.

    Args:
        frames: uint8 ``(..., H, W, C)``. Three channels are taken as RGB.

    Returns:
        uint8 ``(..., H, W, 3)``.
    """
    count = frames.shape[-1]
    if count == 3:
        return frames
    hues = [colorsys.hsv_to_rgb(index / count, 0.7, 1.0) for index in range(count)]
    palette = np.array(hues, np.float32)  # (C, 3)
    picture = (frames[..., None] * palette).max(axis=-2)  # (..., H, W, C, 3) -> (..., H, W, 3)
    rgb: ObsArray = np.rint(picture).astype(np.uint8)
    return rgb
