"""A causal transformer with a sliding window, so that its state has a bounded size.

Each layer attends to the last ``context`` steps of the same episode, including the current one.
The state holds keys and values of the last ``context - 1`` steps. Stacked layers have a receptive
field of ``layers * (context - 1)`` earlier steps. Positions enter only as distances (a learned bias
per head and distance), so outputs do not depend on the position in an episode or a window.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from drama.dynamics.checks import check_layers, check_step, check_window
from drama.dynamics.config import DynamicsConfig
from drama.ops.checks import check_is_first, check_optional
from drama.ops.rms_norm import RMSNorm


class AttentionState(NamedTuple):
    """Keys and values of the last ``W = context - 1`` steps, oldest first."""

    key: Tensor
    """``(B, W, D)``."""
    value: Tensor
    """``(B, W, D)``."""
    valid: Tensor
    """Steps of the current episode, bool ``(B, W)``."""


class TransformerState(NamedTuple):
    """States of all layers, the first layer first."""

    layers: tuple[AttentionState, ...]


class TransformerBlock(nn.Module):
    """Pre-norm residual block: windowed self-attention, then an MLP of width 4 D."""

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
        """Return a state without valid steps."""
        weight = self.out.weight
        past = weight.new_zeros(batch_size, self.context - 1, weight.shape[0])
        return AttentionState(past, past, torch.zeros_like(past[..., 0], dtype=torch.bool))

    def forward(
        self, x: Tensor, is_first: Tensor | None, state: AttentionState | None
    ) -> tuple[Tensor, AttentionState]:
        """Mix a window ``(B, T, D)``; one step is a window with T = 1.

        ``P`` is the number of slots before the window: 0 without a state.
        """
        length, kept = x.shape[1], self.context - 1
        past = 0 if state is None else kept
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        valid = torch.ones_like(x[..., 0], dtype=torch.bool)
        if state is not None:
            window = (x.shape[0], kept, x.shape[2])
            check_optional(
                "transformer",
                key=(state.key, window),
                value=(state.value, window),
                valid=(state.valid, window[:2]),
            )
            key = torch.cat([state.key.to(key.dtype), key], dim=1)  # (B, P+T, D)
            value = torch.cat([state.value.to(value.dtype), value], dim=1)
            valid = torch.cat([state.valid, valid], dim=1)

        visible = valid[:, None].expand(-1, length, -1)  # (B, T, P+T)
        if is_first is not None:
            # A step attends to steps with the same count of resets; earlier ones count 0.
            episode = F.pad(is_first.long().cumsum(1), (past, 0))  # (B, P+T)
            visible = visible & (episode[:, past:, None] == episode[:, None])
        bias = self._bias(None if state is None and is_first is None else visible, length, past)
        attended = F.scaled_dot_product_attention(
            self._heads(query), self._heads(key), self._heads(value), bias.to(query.dtype)
        )
        x = x + self.out(attended.transpose(1, 2).flatten(-2))
        missing = kept - past
        valid = F.pad(visible[:, -1], (missing, 0))[:, length:]
        key, value = (F.pad(t, (0, 0, missing, 0))[:, length:] for t in (key, value))
        if is_first is not None or torch.is_grad_enabled():
            # Zero the slots of other episodes: equal histories have equal states. Without resets
            # they are zero already; the mask then only stops their gradient.
            key, value = (t.masked_fill(~valid[..., None], 0) for t in (key, value))
        return x + self.mlp(x), AttentionState(key, value, valid)

    def _bias(self, visible: Tensor | None, length: int, past: int) -> Tensor:
        """Return the additive attention mask ``(1 or B, H, T, P+T)``: bias by distance, or -inf.

        Args:
            visible: Steps that may be attended to if near enough, bool ``(B, T, P+T)``; None: all.
            length: T.
            past: P.
        """
        slots = torch.arange(length + past, device=self.distance_bias.device)
        distance = slots[past:, None] - slots  # (T, P+T)
        inside = (distance >= 0) & (distance < self.context)
        bias = self.distance_bias[:, distance.clamp(0, self.context - 1)]  # (H, T, P+T)
        shown = inside if visible is None else (visible & inside)[:, None]
        bias = bias.masked_fill(~shown, -math.inf)
        return bias[None] if visible is None else bias

    def _heads(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        # (B, H, T, D / H)
        return x.view(batch, length, self.num_heads, width // self.num_heads).transpose(1, 2)


class TransformerDynamics(nn.Module):
    """``config.layers`` blocks and a final RMSNorm, ``(B, T, D) -> (B, T, D)``."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.width = config.width
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.num_heads, config.context)
            for _ in range(config.layers)
        )
        self.norm = RMSNorm(config.width)

    def init_state(self, batch_size: int) -> TransformerState:
        """Return states without valid steps for all layers."""
        blocks = cast("list[TransformerBlock]", self.blocks)
        return TransformerState(tuple(block.init_state(batch_size) for block in blocks))

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: TransformerState | None = None
    ) -> tuple[Tensor, TransformerState]:
        """Read a window ``(B, T, D)``; see :class:`drama.dynamics.SequenceModel`."""
        check_window(x, self.width, state, TransformerState)
        if state is not None:
            check_layers(state.layers, len(self.blocks))
        check_is_first("transformer", is_first, *x.shape[:2])
        states = []
        for index, block in enumerate(self.blocks):
            x, new = block(x, is_first, None if state is None else state.layers[index])
            states.append(new)
        return self.norm(x), TransformerState(tuple(states))

    def step(self, x: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Read one step ``(B, D)``."""
        check_step(x, self.width, state, TransformerState)
        check_layers(state.layers, len(self.blocks))
        y, state = self.forward(x[:, None], None, state)
        return y[:, 0], state
