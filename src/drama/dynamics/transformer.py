"""A causal transformer with a sliding window, so that its state has a bounded size.

Each layer attends to the last ``context`` steps of the same episode, the current one included.
The state is what the next step may still look at: keys and values of the last ``context - 1``
steps. Stacked layers see further, ``layers * (context - 1)`` steps back, as stacked convolutions
do. A position matters only through its distance (a learned bias per head and distance), so
nothing depends on where in an episode or a window a step lies.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drama.dynamics.base import register
from drama.dynamics.config import DynamicsConfig
from drama.norm import RMSNorm
from drama.ssm.checks import check_is_first


class AttentionState(NamedTuple):
    """The steps a layer can still look at, oldest first, ``W = context - 1`` of them."""

    key: Tensor
    """``(B, W, D)``."""
    value: Tensor
    """``(B, W, D)``."""
    valid: Tensor
    """Which of them hold a step of the current episode, bool ``(B, W)``."""


class TransformerState(NamedTuple):
    """States of all layers, the first layer first."""

    layers: tuple[AttentionState, ...]


class TransformerBlock(nn.Module):
    """Pre-norm residual block: windowed self-attention, then a perceptron four times as wide."""

    def __init__(self, width: int, num_heads: int, context: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.context = context
        self.norm = RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, context))
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            RMSNorm(width),
            nn.Linear(width, 4 * width, bias=False),
            nn.SiLU(),
            nn.Linear(4 * width, width, bias=False),
        )

    def init_state(self, batch_size: int) -> AttentionState:
        """Return a state in which no step is valid."""
        weight = self.out.weight
        past = weight.new_zeros(batch_size, self.context - 1, weight.shape[0])
        return AttentionState(past, past, torch.zeros_like(past[..., 0], dtype=torch.bool))

    def forward(
        self, x: Tensor, is_first: Tensor | None, state: AttentionState
    ) -> tuple[Tensor, AttentionState]:
        """Mix a window ``(B, T, D)``; one step is a window with T = 1."""
        length, past = x.shape[1], self.context - 1
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        key = torch.cat([state.key.to(key.dtype), key], dim=1)  # (B, W+T, D)
        value = torch.cat([state.value.to(value.dtype), value], dim=1)
        valid = F.pad(state.valid, (0, length), value=True)

        visible = valid[:, None].expand(-1, length, -1)  # (B, T, W+T)
        if is_first is not None:
            # A step sees what has the same count of resets; what came before the window counts 0.
            episode = F.pad(is_first.long().cumsum(1), (past, 0))  # (B, W+T)
            visible = visible & (episode[:, past:, None] == episode[:, None])
        attended = F.scaled_dot_product_attention(
            self._heads(query), self._heads(key), self._heads(value), self._bias(visible, query)
        )
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        valid, key, value = visible[:, -1, length:], key[:, length:], value[:, length:]
        if is_first is not None or torch.is_grad_enabled():
            # Slots of another episode are emptied, so that equal situations have equal states. With
            # no reset they are empty already, and only pass on no gradient.
            key, value = (t.masked_fill(~valid[..., None], 0) for t in (key, value))
        return x + self.mlp(x), AttentionState(key, value, valid)

    def _bias(self, visible: Tensor, query: Tensor) -> Tensor:
        """Return the additive mask ``(B, H, T, W+T)``: minus infinity, or the bias by distance."""
        length, past = query.shape[1], self.context - 1
        steps = torch.arange(length, device=query.device)
        slots = torch.arange(length + past, device=query.device)
        distance = (steps[:, None] + past) - slots  # (T, W+T)
        inside = (distance >= 0) & (distance < self.context)
        bias = self.distance_bias[:, distance.clamp(0, past)]  # (H, T, W+T)
        hidden = ~(visible & inside)[:, None]
        return bias.masked_fill(hidden, -math.inf).to(query.dtype)

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        # (B, H, T, D / H)
        return x.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


@register("transformer")
class TransformerDynamics(nn.Module):
    """``config.layers`` blocks and a final RMSNorm, ``(B, T, D) -> (B, T, D)``."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.num_heads, config.context)
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.width)

    def init_state(self, batch_size: int) -> TransformerState:
        """Return empty windows for all layers."""
        blocks = cast("list[TransformerBlock]", self.blocks)
        return TransformerState(tuple(block.init_state(batch_size) for block in blocks))

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: TransformerState | None = None
    ) -> tuple[Tensor, TransformerState]:
        """Read a window ``(B, T, D)``; see :class:`drama.dynamics.SequenceModel`."""
        check_is_first("transformer", is_first, *x.shape[:2])
        if state is None:
            state = self.init_state(x.shape[0])
        states = []
        for block, layer in zip(self.blocks, state.layers, strict=True):
            x, new = block(x, is_first, layer)
            states.append(new)
        return self.norm(x), TransformerState(tuple(states))

    def step(self, x: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Read one step ``(B, D)``."""
        y, state = self.forward(x[:, None], None, state)
        return y[:, 0], state
