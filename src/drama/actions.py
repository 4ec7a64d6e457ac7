"""The action space: everything that the package does with actions except stepping environments.

Only ``Discrete`` so far. Another kind of action needs another class like :class:`ActionSpace`, with
a distribution like :class:`Categorical`; the rest of the package calls their methods. The exception
is the one-step lookahead, which enumerates actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from drama.errors import CheckpointError, EnvError
from drama.ops.categorical import Randomness, mix_uniform, sample_categorical, uniform_numbers
from drama.types import Action


class Categorical(NamedTuple):
    """A stochastic policy over discrete actions."""

    log_probs: Tensor
    """Log-probabilities ``(..., A)``, float32 or float64."""

    def sample(self, random: Randomness) -> Tensor:
        """Sample actions ``(...)``."""
        return sample_categorical(self.log_probs, random)

    def mode(self) -> Tensor:
        """Return the most probable actions ``(...)``."""
        return self.log_probs.argmax(dim=-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return the log-probabilities ``(...)`` of actions ``(...)``."""
        return self.log_probs.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropy ``(...)`` in nats."""
        return -(self.log_probs.exp() * self.log_probs).sum(dim=-1)


@dataclass(frozen=True)
class ActionSpace:
    """``count`` discrete actions, numbered from 0; tensors of them are ``(...)`` int64."""

    count: int
    """Number of actions A."""

    shape: ClassVar[tuple[int, ...]] = ()
    """Shape of one action."""
    dtype: ClassVar[torch.dtype] = torch.int64
    """Type of actions in the replay and in the models."""
    padding: ClassVar[Action] = 0
    """Stored with an episode's final observation, where there is no action."""

    def __str__(self) -> str:
        """Return the range of actions."""
        return f"0..{self.count - 1}"

    @classmethod
    def of(cls, space: spaces.Space[Any]) -> ActionSpace:
        """Return the actions of an adapted environment's action space."""
        assert isinstance(space, spaces.Discrete)  # see drama.envs.spaces.ActionAdapter
        return cls(int(space.n))

    # -- the models ---------------------------------------------------------------------------

    @property
    def encoded_size(self) -> int:
        """Size of an encoded action."""
        return self.count

    @property
    def policy_size(self) -> int:
        """Outputs of the actor network."""
        return self.count

    def encode(self, action: Tensor, dtype: torch.dtype) -> Tensor:
        """Return one-hot vectors ``(..., A)`` of actions ``(...)``; zeros for the null action."""
        # F.one_hot range-checks its input and returns int64.
        one_hot = action.unsqueeze(-1) == torch.arange(self.count, device=action.device)
        return one_hot.to(dtype)

    def null(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Return null actions, which encode to 0."""
        return torch.full(shape, -1, device=device)

    def every(self, device: torch.device) -> Tensor:
        """Return all actions, ``(A,)``."""
        return torch.arange(self.count, device=device)

    def policy(self, outputs: Tensor) -> Categorical:
        """Return the policy for outputs ``(..., A)`` of the actor, which are logits."""
        return Categorical(mix_uniform(outputs, 0.0))  # in float32, also under autocast

    def noise(self, batch: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return random numbers for ``batch`` samples of a policy, see ``Categorical.sample``."""
        return uniform_numbers((batch,), like, generator)

    # -- environments -------------------------------------------------------------------------

    def random(self, rng: np.random.Generator) -> Action:
        """Return a uniformly random action."""
        return int(rng.integers(self.count))

    def check(self, action: Any) -> Action:
        """Return ``action`` as an action of this space.

        Raises:
            EnvError: It is none.
        """
        try:
            index = int(action)
        except (TypeError, ValueError):
            index = -1
        if not 0 <= index < self.count or index != action:
            raise EnvError(f"action {action!r} is not one of {self}")
        return index

    def to_host(self, action: Tensor) -> list[Action]:
        """Return a batch of actions ``(B,)`` as environments take them."""
        taken: list[Action] = action.tolist()
        return taken

    def to_tensor(self, actions: Sequence[Action], device: torch.device) -> Tensor:
        """Return actions as a batch ``(B,)``."""
        return torch.tensor(actions, dtype=self.dtype, device=device)

    # -- files --------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint records of the space, JSON-able."""
        return {"num_actions": self.count}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ActionSpace:
        """Return the space of a checkpoint."""
        return cls(state["num_actions"])

    def pack(self, actions: Sequence[Action]) -> Tensor:
        """Return the log of actions as a checkpoint stores it: ``(N,)`` int32."""
        return torch.tensor(actions, dtype=torch.int32)

    def unpack(self, packed: Tensor) -> list[Action]:
        """Return the log of actions of a checkpoint.

        Raises:
            CheckpointError: An action is none of this space.
        """
        if not self.contains(packed):
            raise CheckpointError(f"a saved action is none of {self}")
        return self.to_host(packed)

    def contains(self, actions: Tensor) -> bool:
        """Whether all ``actions`` are of this space."""
        return not bool((actions < 0).any() | (actions >= self.count).any())
