"""Named batches of the package, and the alignment that they share.

Transition ``t`` is ``(obs_t, is_first_t, action_t, reward_t, terminated_t, truncated_t)``:
the reward and both flags are the outcome of ``action_t`` taken at ``obs_t``. An episode of
``n`` actions takes ``n + 1`` transitions: the last holds its final observation, is marked
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
Action = int
"""One action on the host: in transitions, in the log of actions and at the environment."""


class Transition(NamedTuple):
    """One transition, as the environment loop appends it to the replay."""

    obs: ObsArray
    """Observation ``o_t``: ``(H, W, C)`` uint8 or ``(N,)`` float32."""
    is_first: bool
    """Whether ``o_t`` is the first observation of an episode."""
    action: Action
    """Action ``a_t`` taken at ``o_t``; padding if ``is_last``."""
    reward: float
    """Reward of ``a_t``; 0 if ``is_last``."""
    terminated: bool
    """Whether ``a_t`` ended the episode in the task."""
    truncated: bool
    """Whether the episode was cut off after ``a_t`` (a time limit, say)."""
    is_last: bool
    """Whether this only stores the final observation of an episode."""


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
    """``(B, T)`` bool; transitions whose action, reward and flags are padding."""
    slot: Tensor | None = None
    """``(B, T)`` int64, slots in the replay: equal slots are equal transitions."""

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``; copies from the host to CUDA do not wait for it."""
        columns = {
            name: pinned(column, device).to(device, non_blocking=device.type == "cuda")
            for name, column in self._asdict().items()
            if column is not None
        }
        return Batch(**columns)


def pinned(x: Tensor, device: torch.device) -> Tensor:
    """Return ``x`` in page-locked memory if it is on the host and ``device`` is CUDA.

    From pageable memory a copy of more than 64 KiB first waits for the work on the device.
    PyTorch keeps the page-locked memory until the copy is done.
    """
    return x.pin_memory() if device.type == "cuda" and x.device.type == "cpu" else x


class Rollout(NamedTuple):
    """Imagined trajectories of ``H`` actions from ``B`` starts."""

    features: Tensor
    """Policy features ``concat(z_t, d_{t-1})`` for ``t = 0 .. H``: ``(B, H + 1, Z + D)``."""
    action: Tensor
    """``(B, H)`` int64."""
    log_prob: Tensor
    """Log-probability of each action under the policy that sampled it, ``(B, H)``."""
    reward: Tensor
    """Predicted reward of each action plus any intrinsic reward, ``(B, H)``."""
    termination: Tensor
    """Predicted probability that each action ended the episode, ``(B, H)``."""
    q_values: Tensor | None = None
    """One-step Q-values of all actions, ``(B, H, A)``, with ``actor_gradient="all-actions"``."""


class PolicyState(NamedTuple):
    """State that an acting agent carries from one observation to the next, batch first."""

    dynamics: Any
    """State of the sequence model, a NamedTuple of tensors."""
    deter: Tensor
    """Deterministic state ``d_{t-1}``; zeros before the first action of an episode: ``(B, D)``."""
