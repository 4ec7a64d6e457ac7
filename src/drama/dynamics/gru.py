"""A layer-normalised GRU, as in the deterministic path of Dreamer's world models."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from drama.dynamics.checks import check_step, check_window
from drama.dynamics.config import DynamicsConfig
from drama.ops.checks import check_is_first, check_optional


class GRUState(NamedTuple):
    """Hidden states of all layers."""

    hidden: Tensor
    """``(B, layers, D)``, in the type of the weights, under autocast too."""


class GRUCell(nn.Module):
    """One recurrent layer with LayerNorm before the gates; update gates start mostly closed.

    ``[r, c, u] = LayerNorm(W x + U h)``; ``c = tanh(σ(r) c)``; ``u = σ(u - 1)``;
    ``h' = u c + (1 - u) h``. Source: Hafner et al., 2020, arXiv 2010.02193.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.input = nn.Linear(width, 3 * width, bias=False)
        self.recurrent = nn.Linear(width, 3 * width, bias=False)
        self.norm = nn.LayerNorm(3 * width)

    def forward(self, read: Tensor, hidden: Tensor) -> Tensor:
        """Return the next hidden state ``(B, D)`` from ``input(x)`` ``(B, 3 D)`` and ``hidden``."""
        reset, candidate, update = self.norm(read + self.recurrent(hidden)).chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        # lerp needs one type: that of the state.
        update = torch.sigmoid(update - 1).to(hidden.dtype)
        return torch.lerp(hidden, candidate.to(hidden.dtype), update)


class GRUDynamics(nn.Module):
    """``config.layers`` GRU layers."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.width = config.width
        self.cells = nn.ModuleList(GRUCell(config.width) for _ in range(config.layers))

    def init_state(self, batch_size: int) -> GRUState:
        """Return zeros for all layers."""
        like = next(self.parameters())
        return GRUState(like.new_zeros(batch_size, len(self.cells), self.width))

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: GRUState | None = None
    ) -> tuple[Tensor, GRUState]:
        """Read a window ``(B, T, D)``; see :class:`drama.dynamics.SequenceModel`."""
        check_window(x, self.width, state, GRUState)
        check_is_first("gru", is_first, *x.shape[:2])
        if state is None:
            state = self.init_state(x.shape[0])
        self._check_hidden(state)
        keep = None if is_first is None else (~is_first)[..., None].to(state.hidden.dtype)
        last = []
        for index, cell in enumerate(cast("list[GRUCell]", self.cells)):
            # Input products for all steps at once. The gradient of unbind costs O(T), that of
            # indexing step by step O(T²).
            reads = cell.input(x).unbind(1)
            hidden = state.hidden[:, index]
            outputs = []
            for t, read in enumerate(reads):
                if keep is not None:
                    hidden = hidden * keep[:, t]
                hidden = cell(read, hidden)
                outputs.append(hidden)
            x = torch.stack(outputs, dim=1)
            last.append(hidden)
        return x, GRUState(torch.stack(last, dim=1))

    def step(self, x: Tensor, state: GRUState) -> tuple[Tensor, GRUState]:
        """Read one step ``(B, D)``."""
        check_step(x, self.width, state, GRUState)
        self._check_hidden(state)
        hidden = []
        for index, cell in enumerate(cast("list[GRUCell]", self.cells)):
            x = cell(cell.input(x), state.hidden[:, index])
            hidden.append(x)
        return x, GRUState(torch.stack(hidden, dim=1))

    def _check_hidden(self, state: GRUState) -> None:
        shape = (state.hidden.shape[0], len(self.cells), self.width)
        check_optional("gru", hidden=(state.hidden, shape))
