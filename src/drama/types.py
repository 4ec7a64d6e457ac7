"""The named batches that travel through the package, and the one alignment they all share.

Transition ``t`` is ``(obs_t, is_first_t, action_t, reward_t, terminated_t, truncated_t)``:
the reward and both flags are the outcome of ``action_t`` taken at ``obs_t``. An episode of
``n`` actions takes ``n + 1`` rows: the last row holds its final observation, is marked
``is_last``, and its action, reward and flags are padding.

Shape comments use ``B`` batch, ``T`` time, ``Z`` flattened stochastic latent, ``D``
deterministic state, ``A`` actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from torch import Tensor

ObsArray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]


class Transition(NamedTuple):
    """One row of experience, as the environment loop hands it to the replay buffer."""

    obs: ObsArray
    """Observation ``o_t``: ``(H, W, C)`` uint8 or ``(N,)`` float32."""
    is_first: bool
    """Whether ``o_t`` is the first observation of an episode."""
    action: int
    """Action ``a_t`` taken at ``o_t``; 0 on an ``is_last`` row, where it is ignored."""
    reward: float
    """Reward of ``a_t``; 0 on an ``is_last`` row."""
    terminated: bool
    """Whether ``a_t`` ended the episode by the rules of the task."""
    truncated: bool
    """Whether the episode was cut off after ``a_t`` (a time limit, say)."""
    is_last: bool
    """Whether this row only stores an episode's final observation."""


class Batch(NamedTuple):
    """Windows of experience, ``(B, T, ...)``."""

    obs: Tensor
    """``(B, T, H, W, C)`` uint8 or ``(B, T, N)`` float32."""
    is_first: Tensor
    """``(B, T)`` bool."""
    action: Tensor
    """``(B, T)`` int64."""
    reward: Tensor
    """``(B, T)`` float32."""
    terminated: Tensor
    """``(B, T)`` bool."""
    truncated: Tensor
    """``(B, T)`` bool."""
    is_last: Tensor
    """``(B, T)`` bool; rows whose action, reward and flags are padding."""
    slot: Tensor | None = None
    """``(B, T)`` int64, where each row lives in the replay: equal slots are equal rows."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        # Safe from pageable memory on CUDA, which stages it first; other devices do not promise it.
        columns = {
            name: column.to(device, non_blocking=device.type == "cuda")
            for name, column in self._asdict().items()
            if column is not None
        }
        return Batch(**columns)


class Rollout(NamedTuple):
    """Imagined trajectories of ``H`` actions from ``B`` starts."""

    features: Tensor
    """Policy inputs ``concat(latent_t, d_{t-1})`` for ``t = 0 .. H``: ``(B, H + 1, Z + D)``."""
    action: Tensor
    """``(B, H)`` int64."""
    log_prob: Tensor
    """Log-probability of each action under the policy that drew it, ``(B, H)``."""
    reward: Tensor
    """Predicted reward of each action, ``(B, H)``."""
    termination: Tensor
    """Predicted probability that each action ended the episode, ``(B, H)``."""
    q_values: Tensor | None = None
    """What every action promised, taken or not, where that was asked for: ``(B, H, A)``."""


class PolicyState(NamedTuple):
    """What an acting agent carries from one observation to the next, batch first."""

    dynamics: Any
    """State of the sequence model, a NamedTuple of tensors."""
    deter: Tensor
    """Deterministic state ``d_{t-1}``; zeros before the first action of an episode: ``(B, D)``."""
