"""Layout, scales and reset masks of the factored form."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drama.ops.ssd.chunking import first_half
from drama.ops.ssd.decay import split_cumsum


class Layout(NamedTuple):
    """View of ``(B, T, H, ...)`` as ``(chunks, B, G, K, H/G, ...)``.

    Chunks come first, so that all but the first and all but the last are contiguous: the first
    reads no state unless one is given, and the final state often needs no gradient.
    """

    chunks: int
    groups: int

    def inward(self, x: Tensor) -> Tensor:
        """View time in chunks and heads in groups."""
        x = torch.unflatten(torch.unflatten(x, 2, (self.groups, -1)), 1, (self.chunks, -1))
        return x.transpose(2, 3).transpose(0, 1)

    def outward(self, x: Tensor) -> Tensor:
        """Invert :meth:`inward`."""
        return x.transpose(0, 1).transpose(2, 3).flatten(1, 2).flatten(2, 3)

    def state_inward(self, state: Tensor) -> Tensor:
        """View states ``(B, H, P, N)`` as ``(B, G, H/G, P, N)``."""
        return torch.unflatten(state, 1, (self.groups, -1))


class Scales(NamedTuple):
    """Powers of two, per step and head or per chunk and head."""

    row: Tensor
    """``2^(l_i - m)``: ``(chunks, B, G, K, H/G, 1)``."""
    column: Tensor
    """``2^(m - l_j)``, same shape."""
    begin: Tensor
    """``2^m``, broadcast over states: ``(chunks, B, G, H/G, 1, 1)``."""
    end: Tensor
    """``2^(l_K - m)``, same shape."""

    @classmethod
    def of(cls, logs: Tensor, split_heads: Tensor | None) -> Scales:
        """Compute from log-decays.

        Args:
            logs: ``(chunks, B, G, K, H/G)``.
            split_heads: Heads whose ``m`` lies in the second half of their chunk, or None.
        """
        coarse, fine = (v.transpose(-1, -2) for v in split_cumsum(logs.transpose(-1, -2)))
        middle = coarse[..., -1:, :] / 2
        if split_heads is not None:
            groups, per_group = logs.shape[2], logs.shape[4]
            split = torch.zeros(groups * per_group, dtype=torch.bool, device=logs.device)
            split[split_heads] = True
            split = split.view(groups, 1, per_group)
            steps = first_half(logs.shape[3])
            middle = middle + split * coarse[..., steps - 1 : steps, :] / 2
        # Products of powers: powers of sums would be rounded first.
        row = torch.exp2(coarse - middle) * torch.exp2(fine)
        if split_heads is not None:
            row[..., :steps, :].masked_fill_(split, 0.0)
        column = torch.exp2(middle - coarse) * torch.exp2(-fine)
        begin, end = (
            v.transpose(-1, -2)[..., None] for v in (torch.exp2(middle), row[..., -1:, :])
        )
        return cls(row[..., None], column[..., None], begin, end)


class Masks(NamedTuple):
    """Masks of resets, shared by all heads."""

    pairs: Tensor
    """Strictly lower, and no reset between: ``(K, K)`` or ``(chunks, B, 1, K, K)``."""
    reads: Tensor | None
    """Steps before the chunk's first reset, ``(chunks, B, 1, K, 1)``."""
    writes: Tensor | None
    """Steps from the chunk's last reset on, same shape."""

    @classmethod
    def of(cls, is_first: Tensor | None, chunks: int, scores: Tensor) -> Masks:
        """Compute from resets ``(B, T)``; ``scores`` ``(..., K, K)`` gives type and size."""
        dtype = scores.dtype
        lower = torch.ones(scores.shape[-2:], dtype=dtype, device=scores.device).tril_(-1)
        if is_first is None:
            return cls(lower, None, None)
        resets = torch.unflatten(is_first, 1, (chunks, -1)).transpose(0, 1).cumsum(-1)
        resets = resets[:, :, None, :, None]
        same = resets == resets.transpose(-1, -2)
        return cls(
            same.to(dtype) * lower,
            (resets == 0).to(dtype),
            (resets == resets[..., -1:, :]).to(dtype),
        )


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return ``x * mask``, or ``x`` where there is no mask."""
    return x if mask is None else x * mask
