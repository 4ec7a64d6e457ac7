"""Add a sequence model of your own: register a backbone, then name it in the configuration.

This one keeps a leaky average of what it has read, at a rate that each step decides. A package
can offer such a class without being imported first, by an entry point of the group
``drama.dynamics``; then ``drama train --dynamics leaky`` knows it too.

``python examples/custom_dynamics.py`` checks it; with ``--train`` it learns Catch for a while.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

import drama
from drama.dynamics import DynamicsConfig, make_dynamics, register


class LeakyState(NamedTuple):
    memory: Tensor  # (B, D): tensors, batch first, of one shape whatever has been read


@register("leaky")
class LeakyDynamics(nn.Module):
    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.rate = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def init_state(self, batch_size: int) -> LeakyState:
        return LeakyState(self.value.weight.new_zeros(batch_size, self.value.out_features))

    def step(self, x: Tensor, state: LeakyState) -> tuple[Tensor, LeakyState]:
        # In training the layers may compute in bfloat16 (autocast); a state keeps its own type.
        value, rate = (layer(x).to(state.memory.dtype) for layer in (self.value, self.rate))
        memory = torch.lerp(state.memory, value, torch.sigmoid(rate))
        return x + memory.to(x.dtype), LeakyState(memory)

    def forward(
        self, x: Tensor, is_first: Tensor | None = None, state: LeakyState | None = None
    ) -> tuple[Tensor, LeakyState]:
        state = state or self.init_state(len(x))
        outputs = []
        for t, read in enumerate(x.unbind(1)):
            if is_first is not None:  # forget the episode before
                state = LeakyState(state.memory.masked_fill(is_first[:, t, None], 0.0))
            y, state = self.step(read, state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


def train(steps: int) -> drama.Agent:
    config = drama.presets.quick()
    dynamics = replace(config.world_model.dynamics, name="leaky")
    config = replace(config, world_model=replace(config.world_model, dynamics=dynamics))
    agent = drama.Agent("drama/Catch-v0", config)
    agent.learn(steps)
    return agent


if __name__ == "__main__":
    model = make_dynamics(DynamicsConfig(name="leaky", width=8))
    window = torch.randn(2, 5, 8)
    parallel, final = model(window)
    state = model.init_state(2)
    for t in range(5):
        output, state = model.step(window[:, t], state)
        torch.testing.assert_close(output, parallel[:, t])
    torch.testing.assert_close(state, final)
    print("one pass over the window equals its steps")
    if "--train" in sys.argv:
        train(1500)
