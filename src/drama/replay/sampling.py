"""Which window next: scores over the two counters of every row, and the draw itself.

``v`` counts how often a row was drawn to train the world model, ``b`` how often to start an
imagination, the latter divided by (imagination batch / training batch) so that both are on one
scale. All functions are pure. Scores are log-weights up to a constant; -inf bars a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drama.errors import ReplayError
from drama.ops.dispatch import on_cpu

NOTHING_TO_DRAW = (
    "no row may be drawn yet: the sampling rule gives every one weight 0. The end of an episode "
    "starts no dream, so that episodes of one step leave none without "
    "behaviour.start_at_episode_starts; replay.sampler dfs-trained leaves out what the world model "
    "has not been trained on"
)
"""Of a dream: a window of the world model may end on any row."""


def uniform_scores(v: Tensor) -> Tensor:
    """Every row alike: zeros of the shape of ``v``."""
    return torch.zeros_like(v)


def dfs_world_model_scores(v: Tensor, tau: float) -> Tensor:
    """``-v / tau``: rows drawn less often come first."""
    return -v / tau


def dfs_behaviour_scores(
    v: Tensor, b: Tensor, tau: float, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """``(v - alpha b - beta max(0, v - b)) / tau``.

    With ``alpha = beta = 1`` this is ``min(0, v - b) / tau``: rows trained on at least as often
    as dreamt from are alike, over-dreamt ones fade.
    """
    return (v - alpha * b - beta * (v - b).clamp_min(0.0)) / tau


def learnt_first_scores(
    v: Tensor, b: Tensor, tau: float, alpha: float = 1.0, beta: float = 1.0
) -> Tensor:
    """The DFS score times the learnt share ``1 - exp(-v / tau)`` of a row.

    The paper's stated aim is to start from transitions that the world model has learnt
    sufficiently, yet its formula lets never-trained rows pass. Here they have weight 0, and the
    weight rises to DFS's own once ``v`` is a few times ``tau``.
    """
    return dfs_behaviour_scores(v, b, tau, alpha, beta) + (-torch.expm1(-v / tau)).log()


def draw(
    scores: Tensor,
    count: int,
    generator: torch.Generator | None = None,
    *,
    replacement: bool = False,
) -> Tensor:
    """Draw ``count`` indices with probability ``softmax(scores)``.

    Without replacement this is the Gumbel top-k draw, the same law as drawing one after the
    other and removing each. Where fewer than ``count`` rows have any weight, the whole batch
    is drawn with replacement instead. No host sync.

    Args:
        scores: ``(N,)``, at least one of them finite. Any offset: the maximum is taken off
            first, so counters of any size are safe.
        count: Indices to draw.
        generator: Source of randomness.
        replacement: Whether repeats are allowed.

    Returns:
        ``(count,)`` int64.

    Raises:
        ReplayError: No row has any weight. Looked at on the CPU only, elsewhere it would wait.
    """
    top_score = scores.max()
    if on_cpu(scores) and not torch.isfinite(top_score):
        raise ReplayError(NOTHING_TO_DRAW)
    scores = scores - top_score
    probs = scores.exp()
    # The inverse of the cumulated weights; searchsorted never returns a row of weight 0.
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
