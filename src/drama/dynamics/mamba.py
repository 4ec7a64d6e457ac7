"""Stacks of Mamba blocks: the paper's sequence model (Mamba-2) and its ablation (Mamba-1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from drama.dynamics.base import Unroll
from drama.dynamics.checks import check_layers, check_step, check_window
from drama.dynamics.config import DynamicsConfig
from drama.ops.rms_norm import RMSNorm, rms_scale
from drama.ssm import Mamba1, Mamba1State, Mamba2, Mamba2State
from drama.ssm.unroll import Mamba2Unroll as MixerUnroll


class MambaState(NamedTuple):
    """States of all layers, the first layer first."""

    layers: tuple[Mamba1State | Mamba2State, ...]


class MambaBlock(nn.Module):
    """Pre-norm residual block: ``x + mixer(RMSNorm(x))``."""

    mixer: Any

    def __init__(self, width: int, mixer: Mamba1 | Mamba2) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.mixer = mixer

    def forward(
        self, x: Tensor, is_first: Tensor | None, state: Mamba1State | Mamba2State | None
    ) -> tuple[Tensor, Mamba1State | Mamba2State]:
        """Mix a window ``(B, T, D)``."""
        y, state = self.mixer(self.norm(x), is_first, state)
        return x + y, state

    def step(
        self, x: Tensor, state: Mamba1State | Mamba2State, *, inplace: bool
    ) -> tuple[Tensor, Mamba1State | Mamba2State]:
        """Mix one step ``(B, D)``; overwrites ``state`` if ``inplace``."""
        y, state = self.mixer.step(self.norm(x), state, inplace=inplace)
        return x + y, state

    def peek(self, x: Tensor, state: Mamba1State | Mamba2State) -> Tensor:
        """Output of a step ``(B, D)``, where the mixer can compute it without the next state."""
        y: Tensor = self.norm(x)
        own = hasattr(self.mixer, "peek")
        y = self.mixer.peek(y, state) if own else self.mixer.step(y, state)[0]
        return x + y


class MambaStack(nn.Module):
    """Pre-norm residual blocks and a final RMSNorm, ``(B, T, D) -> (B, T, D)``."""

    def __init__(self, width: int, layers: int, mixer: Callable[[], Mamba1 | Mamba2]) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.ModuleList(MambaBlock(width, mixer()) for _ in range(layers))
        self.norm = RMSNorm(width)

    def init_state(self, batch_size: int) -> MambaState:
        """Return zero states for all layers."""
        blocks = cast("list[MambaBlock]", self.blocks)
        return MambaState(tuple(block.mixer.init_state(batch_size) for block in blocks))

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: MambaState | None = None
    ) -> tuple[Tensor, MambaState]:
        """Read a window ``(B, T, D)``; see :class:`drama.dynamics.SequenceModel`."""
        check_window(x, self.width, state, MambaState)
        if state is not None:
            check_layers(state.layers, len(self.blocks))
        states = []
        for index, block in enumerate(self.blocks):
            x, new = block(x, is_first, None if state is None else state.layers[index])
            states.append(new)
        return self.norm(x), MambaState(tuple(states))

    def step_(self, x: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """Read one step ``(B, D)`` and overwrite ``state``, which dominates the cost of a step."""
        return self.step(x, state, inplace=True)

    def step(
        self, x: Tensor, state: MambaState, *, inplace: bool = False
    ) -> tuple[Tensor, MambaState]:
        """Read one step ``(B, D)``."""
        check_step(x, self.width, state, MambaState)
        check_layers(state.layers, len(self.blocks))
        states = []
        blocks = cast("list[MambaBlock]", self.blocks)
        for block, layer in zip(blocks, state.layers, strict=True):
            x, new = block.step(x, layer, inplace=inplace)
            states.append(new)
        return self.norm(x), MambaState(tuple(states))

    def peek(self, x: Tensor, state: MambaState) -> Tensor:
        """Output of a step ``(B, D)``, without the next state."""
        check_step(x, self.width, state, MambaState)
        check_layers(state.layers, len(self.blocks))
        for block, layer in zip(cast("list[MambaBlock]", self.blocks), state.layers, strict=True):
            x = block.peek(x, layer)
        output: Tensor = self.norm(x)
        return output


class Mamba2Unroll(Unroll):
    """Steps of a stack of Mamba-2 blocks in the dual form, see :mod:`drama.ssm.unroll`."""

    def __init__(self, stack: MambaStack, batch_size: int, steps: int) -> None:
        blocks = cast("list[MambaBlock]", list(stack.blocks))
        self.layers = [MixerUnroll(block.mixer, batch_size, steps) for block in blocks]
        self.norms = [*(block.norm for block in blocks), stack.norm]
        self.dtype = self.layers[0].rates.dtype
        self.read = 0
        """Steps read."""

    def step(self, x: Tensor) -> Tensor:
        """Read one step ``(B, D)``; returns its output ``(B, D)``."""
        y = self.peek(x)
        self.read += 1
        return y

    def peek(self, x: Tensor) -> Tensor:
        """Return the output of a step ``(B, D)`` without reading it."""
        x = x.to(self.dtype)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer.read(self._normalised(norm, x), self.read)
        return self._normalised(self.norms[-1], x)

    def _normalised(self, norm: RMSNorm, x: Tensor) -> Tensor:
        return (x * rms_scale(x, norm.eps)).mul_(norm.weight)

    def reset(self, rows: Tensor) -> None:
        """Return some sequences of the batch to the start of an episode, bool ``(B,)``."""
        for layer in self.layers:
            layer.reset(rows)


class Mamba2Dynamics(MambaStack):
    """``config.layers`` Mamba-2 blocks."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__(
            config.width,
            config.layers,
            lambda: Mamba2(
                config.width,
                d_state=config.d_state,
                d_conv=config.d_conv,
                expand=config.expand,
                headdim=config.headdim,
                chunk_size=config.chunk_size,
                backend=config.backend,
            ),
        )

    @torch.no_grad()
    def unroll(self, batch_size: int, steps: int) -> Mamba2Unroll:
        """Return the start of ``batch_size`` sequences of at most ``steps`` steps."""
        return Mamba2Unroll(self, batch_size, steps)


class Mamba1Dynamics(MambaStack):
    """``config.layers`` Mamba-1 blocks."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__(
            config.width,
            config.layers,
            lambda: Mamba1(
                config.width,
                d_state=config.d_state,
                d_conv=config.d_conv,
                expand=config.expand,
                backend=config.backend,
            ),
        )
