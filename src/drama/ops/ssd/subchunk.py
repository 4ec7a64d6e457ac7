"""First subchunk of heads that forget too fast for one chunk of the factored form.

:mod:`drama.ops.ssd.factored` scales all decays of a chunk relative to one point ``m``. Where a head
forgets by more than the number type holds in the whole chunk, but not in its halves, ``m`` is put
in the second half: rows of that half are then right, and what the first half sends there underflows
only where it is forgotten anyway. What is missing is the first half's own rows, which are computed
here relative to a point of their own. Only for these heads, so that the rest of the window keeps
one large chunk (secondary chunking in gated linear attention, arXiv 2312.06635).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from drama.ops.ssd.chunking import first_half
from drama.ops.ssd.decay import split_cumsum


class FirstSubchunk(NamedTuple):
    """Tensors saved for its backward pass, of ``S`` heads and ``h`` steps."""

    x: Tensor
    """``(B, S, h, P)``, in the type of decays."""
    into: Tensor
    """``2^(m - l_j) Δ_j``: ``(B, S, h, 1)``."""
    column: Tensor
    """``2^(m - l_j)``, same shape."""
    row: Tensor
    """``2^(l_i - m)``, same shape."""
    scaled: Tensor
    """``X̃``, in the type of matrix products: ``(B, S, h, P)``."""
    scores: Tensor
    """Scores of the heads' groups, ``(B, S, h, h)``."""
    mixed: Tensor
    """``Z``: ``(B, S, h, P)``."""

    @classmethod
    def add_to(
        cls, y: Tensor, x: Tensor, dt: Tensor, logs: Tensor, scores: Tensor, heads: Tensor
    ) -> FirstSubchunk:
        """Add the outputs of the first subchunk to ``y``.

        Args:
            y: Modified in place, ``(B, K, H, P)``.
            x: ``(B, K, H, P)``.
            dt: ``(B, K, H)``.
            logs: Log-decays ``(B, K, H)``.
            scores: Masked products of C and B, ``(B, G, K, K)``.
            heads: Indices of the split heads, ``(S,)``.
        """
        steps, dtype = first_half(x.shape[1]), logs.dtype
        values = x[:, :steps, heads].transpose(1, 2).to(dtype)
        dt, logs = (v[:, :steps, heads].transpose(1, 2) for v in (dt, logs))  # (B, S, h)
        coarse, fine = split_cumsum(logs)
        middle = coarse[..., -1:] / 2
        row = (torch.exp2(coarse - middle) * torch.exp2(fine))[..., None]
        column = (torch.exp2(middle - coarse) * torch.exp2(-fine))[..., None]
        into = column * dt[..., None]
        scaled = (values * into).to(scores.dtype)
        groups = group_of(heads, x.shape[2], scores.shape[1])
        scores = scores[:, groups, :steps, :steps]
        mixed = torch.matmul(scores, scaled)
        outputs = mixed.to(dtype) * row
        y[:, :steps, heads] += outputs.transpose(1, 2).to(y.dtype)
        return cls(values, into, column, row, scaled, scores, mixed)

    def backward(self, dy: Tensor, heads: Tensor, pairs: Tensor | None) -> Gradients:
        """Return the gradients.

        Args:
            dy: Gradient of ``y``, ``(B, K, H, P)``.
            heads: As in :meth:`add_to`.
            pairs: Strictly lower, 1 where no reset lies between, ``(1, B, 1, K, K)``; None
                without resets.
        """
        dtype = self.row.dtype
        upstream = dy[:, : self.x.shape[2], heads].transpose(1, 2).to(dtype)
        dmixed = (upstream * self.row).to(self.scaled.dtype)
        dsums = (dmixed.to(dtype) * self.mixed.to(dtype)).sum(-1, keepdim=True)
        dscores = torch.matmul(dmixed, self.scaled.transpose(-1, -2))
        dscaled = torch.matmul(self.scores.transpose(-1, -2), dmixed).to(dtype)
        along = (dscaled * self.x).sum(-1, keepdim=True)
        dsums -= along * self.into
        if pairs is None:
            dlogs = dsums.flip(2).cumsum(2).flip(2)
        else:
            steps = dsums.shape[2]
            within = pairs[0, :, :, :steps, :steps].to(dtype)  # (B, 1, h, h)
            dlogs = torch.matmul(within.transpose(-1, -2), dsums).add_(dsums)
        return Gradients(
            (dscaled * self.into).transpose(1, 2),
            (along * self.column)[..., 0].transpose(1, 2),
            dlogs.mul_(math.log(2))[..., 0].transpose(1, 2),
            dscores,
        )


class Gradients(NamedTuple):
    """Gradients of the first subchunk, to be added to those of the chunk."""

    x: Tensor
    """``(B, h, S, P)``"""
    dt: Tensor
    """``(B, h, S)``"""
    logs: Tensor
    """Of log-decays, ``(B, h, S)``."""
    scores: Tensor
    """Unmasked, may overflow above the diagonal: ``(B, S, h, h)``."""


def group_of(heads: Tensor, total: int, groups: int) -> Tensor:
    """Return the group of each head, of ``total`` heads in ``groups`` groups."""
    return torch.div(heads, total // groups, rounding_mode="floor")
