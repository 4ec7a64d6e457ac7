"""Cache blocking: splits long elementwise computations into blocks that fit the CPU's cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from drama.ops.dispatch import on_cpu

# 512 KiB of float32 per thread: a few blocks fit the second-level cache, and the time that threads
# wait for each other at the end of an operation is small.
_BLOCK_ELEMENTS = 2**17
# Measured: the step of a recurrence has few, short operations, and is faster with longer blocks.
_STATE_ELEMENTS = 2**18


def row_blocks(
    rows: int, row_elements: int, device: torch.device, *, elements: int = _BLOCK_ELEMENTS
) -> list[slice]:
    """Split rows into blocks for a chain of elementwise operations.

    On the CPU such a chain is bound by memory: each intermediate is written and read again. A block
    keeps them in cache. Elsewhere there is one block, hence one launch.

    Args:
        rows: Number of rows.
        row_elements: Elements of one row.
        device: Device of the computation.
        elements: Approximate number of elements of a block, per thread.

    Returns:
        Slices that cover ``range(rows)`` in order, of equal length except the last.
    """
    blocks = 1
    if on_cpu(device):
        blocks = round(rows * row_elements / (elements * torch.get_num_threads()))
    size = math.ceil(rows / min(max(blocks, 1), rows)) if rows else 1
    return [slice(begin, min(begin + size, rows)) for begin in range(0, rows, size)]


def tiles(
    rows: int, columns: int, elements: int, device: torch.device
) -> list[tuple[slice, slice]]:
    """Split ``(rows, columns)`` into blocks of whole rows, or of parts of one row.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        elements: Elements of one row and column.
        device: Device of the computation.

    Returns:
        Slices of rows and columns.
    """
    return [
        (block, part)
        for block in row_blocks(rows, columns * elements, device)
        for part in row_blocks(columns, (block.stop - block.start) * elements, device)
    ]


def state_blocks(state: Tensor) -> list[slice]:
    """Split a batch of recurrent states ``(B, ...)`` so that a block stays in cache for a step."""
    return row_blocks(
        len(state), math.prod(state.shape[1:]), state.device, elements=_STATE_ELEMENTS
    )
