"""Samplers: which windows of the replay an update sees.

``v`` counts how often a transition was sampled to train the world model, ``b`` how often to start
an imagination, divided by (imagination batch / training batch) so that both are on one scale.
Scores are log-probabilities up to a constant; -inf excludes a transition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from drama.config import ReplayConfig
from drama.errors import ReplayError
from drama.ops.dispatch import on_cpu

Purpose = Literal["world_model", "behaviour"]

NOTHING_TO_SAMPLE = (
    "no transition can be sampled yet: the sampler gives each probability 0. Imagination does not "
    "start at the end of an episode; replay.sampler dfs-trained excludes transitions that the "
    "world model has not been trained on"
)
"""Only imagination can meet this: a window of the world model may end at any transition."""


class Sampler:
    """Base of all samplers: scores each transition and samples with ``softmax(scores)``.

    A subclass defines `scores`; ``@SAMPLERS.register("name")`` makes it a value of
    ``replay.sampler``. One that sets `wants_losses` receives the loss of every window that the
    world model was trained on through `update`; what it keeps goes into `state`.

    Args:
        config: Settings of the replay.
        device: Device of the replay.
    """

    wants_losses = False

    def __init__(self, config: ReplayConfig, device: torch.device) -> None:
        self.config = config
        self.device = device

    def scores(self, purpose: Purpose, v: Tensor, b: Tensor) -> Tensor:
        """Score the slots as window ends.

        Args:
            purpose: Which update the windows are for.
            v: How often each was sampled for the world model, ``(N,)`` floating point.
            b: How often each was sampled for imagination, scaled, ``(N,)``.

        Returns:
            ``(N,)``. On an accelerator it must not synchronise with the host.
        """
        raise NotImplementedError

    def sample(
        self, scores: Tensor, count: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Sample slots from their scores, -inf where no window of the needed length ends.

        Returns:
            ``(count,)`` int64.
        """
        return sample_indices(scores, count, generator)

    def update(self, slots: Tensor, losses: Tensor) -> None:
        """Receive the losses of world-model windows, if ``wants_losses``.

        Args:
            slots: Slot of each window's last transition, ``(B,)`` int64; may repeat.
            losses: Loss of each window, ``(B,)`` float32.
        """

    def state(self) -> dict[str, Tensor]:
        """Return the tensors to save in a checkpoint, by name."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `state` returned.

        Raises:
            CheckpointError: A tensor is missing or does not fit.
        """


class Uniform(Sampler):
    """Every transition has the same probability."""

    def scores(self, purpose: Purpose, v: Tensor, b: Tensor) -> Tensor:
        """Return zeros."""
        return uniform_scores(v)


class DFS(Sampler):
    """The paper's dynamic frequency-based sampling (its section 2.4)."""

    def __init__(self, config: ReplayConfig, device: torch.device) -> None:
        super().__init__(config, device)
        self.tau, self.imagination_tau = config.temperatures()

    def scores(self, purpose: Purpose, v: Tensor, b: Tensor) -> Tensor:
        """Favour transitions trained on less often, or imagined from less than trained on."""
        c = self.config
        if purpose == "world_model":
            return dfs_world_model_scores(v, self.tau)
        return dfs_behaviour_scores(v, b, self.imagination_tau, c.alpha, c.beta)


class DFSTrained(DFS):
    """DFS whose imagination starts only from transitions that the world model was trained on."""

    def scores(self, purpose: Purpose, v: Tensor, b: Tensor) -> Tensor:
        """Weight DFS by the trained share for imagination."""
        c = self.config
        if purpose == "world_model":
            return super().scores(purpose, v, b)
        return dfs_trained_scores(v, b, self.imagination_tau, c.alpha, c.beta)


def uniform_scores(v: Tensor) -> Tensor:
    """Return zeros of the shape of ``v``."""
    return torch.zeros_like(v)


def dfs_world_model_scores(v: Tensor, tau: float) -> Tensor:
    """``-v / tau``: transitions sampled less often are more probable."""
    return -v / tau


def dfs_behaviour_scores(
    v: Tensor, b: Tensor, tau: float, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """``(v - alpha b - beta max(0, v - b)) / tau``.

    With ``alpha = beta = 1`` this is ``min(0, v - b) / tau``: uniform over transitions trained on
    at least as often as imagined from, lower for the others.
    """
    return (v - alpha * b - beta * (v - b).clamp_min(0.0)) / tau


def dfs_trained_scores(
    v: Tensor, b: Tensor, tau: float, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """Multiply the DFS probability by the trained share ``1 - exp(-v / tau)``.

    The paper aims to start from transitions that the world model has learnt sufficiently, but its
    formula admits transitions that were never trained on. Here these have probability 0, and the
    factor approaches 1 once ``v`` is a few times ``tau``.
    """
    return dfs_behaviour_scores(v, b, tau, alpha, beta) + (-torch.expm1(-v / tau)).log()


def sample_indices(
    scores: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    *,
    replacement: bool = False,
) -> Tensor:
    """Sample ``count`` indices with probability ``softmax(scores)``.

    Without replacement this is Gumbel top-k sampling, which equals sampling one after the other
    and removing each. If fewer than ``count`` entries have positive probability, the whole batch
    is sampled with replacement instead. No host synchronisation.

    Args:
        scores: ``(N,)``, at least one of them finite. The maximum is subtracted first, so counters
            of any size are safe.
        count: Indices to sample.
        generator: Source of randomness.
        replacement: Whether repeats are allowed.

    Returns:
        ``(count,)`` int64.

    Raises:
        ReplayError: All probabilities are 0. Checked on the CPU only: elsewhere it synchronises.
    """
    top_score = scores.max()
    if on_cpu(scores) and not torch.isfinite(top_score):
        raise ReplayError(NOTHING_TO_SAMPLE)
    scores = scores - top_score
    probs = scores.exp()
    # Inverse of the cumulative distribution; searchsorted never returns an index of probability 0.
    cumulated = probs.cumsum(0)
    points = torch.rand(count, dtype=scores.dtype, device=scores.device, generator=generator)
    repeated = torch.searchsorted(cumulated, points * cumulated[-1], right=True)
    repeated = repeated.clamp_max(scores.shape[0] - 1)
    if replacement or scores.shape[0] < count:
        return repeated
    noise = (
        torch.empty_like(scores)
        .exponential_(generator=generator)
        .clamp_min(torch.finfo(scores.dtype).tiny)
    )
    top = torch.topk(scores - noise.log(), count)
    enough = torch.isfinite(top.values[-1])
    return torch.where(enough, top.indices, repeated)
