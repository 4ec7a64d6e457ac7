"""Cutting long elementwise work into blocks that stay in a processor's cache."""

from __future__ import annotations

import math

import torch

from drama.place import on_cpu

# 512 KiB of float32 for each thread: a few of them fit second-level caches,
# and what threads wait for each other at the end of an operation is small beside it.
_BLOCK_ELEMENTS = 2**17


def row_blocks(
    rows: int, row_elements: int, device: torch.device, *, elements: int = _BLOCK_ELEMENTS
) -> list[slice]:
    """Cut a long elementwise computation over rows into blocks whose intermediates stay in cache.

    On a CPU most of the time of such a chain goes into writing intermediates to fresh memory and
    reading them back. A GPU would rather have one large launch, and gets one block.

    Args:
        rows: Number of rows.
        row_elements: Elements of one row.
        device: Where the computation runs.
        elements: About how many of them a block holds for each thread.

    Returns:
        Slices that cover ``range(rows)`` in order, all of one length but the last.
    """
    blocks = 1
    if on_cpu(device):
        blocks = round(rows * row_elements / (elements * torch.get_num_threads()))
    size = math.ceil(rows / min(max(blocks, 1), rows)) if rows else 1
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]
