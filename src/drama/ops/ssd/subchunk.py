"""The first half of a chunk, for heads that forget too fast for the whole of it.

:mod:`drama.ops.ssd.factored` measures the decays of a chunk from one middle. Where it forgets by
more than the number type can hold, but neither of its halves does, a head's middle is put in its
second half: there everything is then right, and what the first half sends is 0 where it would be
forgotten in any case. What remains is the first half by itself, from a middle of its own. That is
done here, for these heads only, which are few: the rest of the window keeps its one large chunk.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from drama.ops.ssd.decay import split_cumsum


class FirstHalf(NamedTuple):
    """What the backward pass needs of it. ``S`` heads, and ``h`` steps."""

    x: Tensor
    """``(B, S, h, P)``, in the type of the decays."""
    into: Tensor
    """``2^(m - l_j) Δ_j``: ``(B, S, h, 1)``."""
    column: Tensor
    """``2^(m - l_j)``, likewise."""
    row: Tensor
    """``2^(l_i - m)``, likewise."""
    scaled: Tensor
    """``X̃``, in the type of matrix products: ``(B, S, h, P)``."""
    scores: Tensor
    """Those of the heads' groups, ``(B, S, h, h)``."""
    mixed: Tensor
    """``Z``: ``(B, S, h, P)``."""

    @classmethod
    def add_to(
        cls, y: Tensor, x: Tensor, dt: Tensor, logs: Tensor, scores: Tensor, heads: Tensor
    ) -> FirstHalf:
        """Add the first half's outputs to ``y``.

        Args:
            y: Changed in place, ``(B, K, H, P)``.
            x: ``(B, K, H, P)``.
            dt: ``(B, K, H)``.
            logs: Log-decays, likewise.
            scores: Masked products of C and B, ``(B, G, K, K)``.
            heads: Which to do, ``(S,)``.
        """
        steps, dtype = half(x.shape[1]), logs.dtype
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
            dy: That of ``y``, ``(B, K, H, P)``.
            heads: Which were done, ``(S,)``.
            pairs: Strictly lower, 1 where no reset lies between, ``(1, B, 1, K, K)``; None if there
                are no resets.
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
    """Of the first half alone, to be added to those of the chunk."""

    x: Tensor
    """``(B, h, S, P)``"""
    dt: Tensor
    """``(B, h, S)``"""
    logs: Tensor
    """Of the log-decays, likewise."""
    scores: Tensor
    """Before any mask, and beyond the number type above the diagonal: ``(B, S, h, h)``."""


def half(steps: int) -> int:
    """Return how many of so many steps are the first half."""
    return math.ceil(steps / 2)


def group_of(heads: Tensor, total: int, groups: int) -> Tensor:
    """Return the group of each head, of ``total`` heads in ``groups`` groups."""
    return torch.div(heads, total // groups, rounding_mode="floor")
