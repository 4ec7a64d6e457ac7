"""Agents whose policy and world model are random but decided, and dreams computed by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tests.training.runs import tiny

from drama import Agent
from drama.export.modules import DreamStep, Encode, flat_state
from drama.export.random import PageRandom
from drama.export.starts import Start


def made(env: str, changes: dict[str, Any] | None = None) -> Agent:
    """An untrained agent; its actor, which begins uniform, gets random weights."""
    agent = Agent(env, tiny({"env.id": env, **(changes or {})}), seed=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (agent.behaviour.actor.out, agent.world_model.reward_head.out):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        for layer in (agent.world_model.prior_head, agent.world_model.termination_head.out):
            layer.weight.mul_(4)
        if len(agent.observation_space.shape or ()) == 1:  # small numbers, almost one latent
            agent.world_model.encoder.layers[0].weight.mul_(20)
            agent.world_model.encoder.layers[-1].weight.mul_(4)
    return agent


def saved(agent: Agent, path: Path) -> Path:
    agent.save(path)
    return path


class Moment(NamedTuple):
    obs: np.ndarray[Any, Any]
    reward: float
    end: float
    policy: np.ndarray[Any, Any]
    value: float
    latent: list[int]


@torch.no_grad()
def dream(agent: Agent, start: Start, seed: int, actions: Sequence[int]) -> list[Moment]:
    """The dream that the page shows, by PyTorch: the moment of the start and of each action."""
    encode, step = Encode(agent.player).eval(), DreamStep(agent.player).eval()
    random = PageRandom(seed)
    variables = agent.world_model.latent_variables
    state, moments = flat_state(step.state), []

    def numbers() -> torch.Tensor:
        return torch.from_numpy(random.uniform(variables)).view(1, variables, 1)

    def run(action: int, observed: torch.Tensor | None, is_first: bool) -> None:
        nonlocal state
        uniform = numbers() if observed is None else torch.zeros(1, variables, 1)
        given = torch.zeros_like(state[0]) if observed is None else observed
        obs, reward, end, policy, value, *after = step(
            torch.tensor([action]),
            uniform,
            torch.ones(1),
            given,
            torch.tensor([observed is not None]),
            torch.tensor([is_first]),
            *state,
        )
        state = tuple(after)
        latent = state[0].view(variables, -1).argmax(-1).tolist()
        numbers_of = (float(reward), float(end), policy[0].numpy(), float(value))
        moments.append(Moment(obs[0].numpy(), *numbers_of, latent))

    for t, frame in enumerate(start.obs):
        observed = encode(torch.from_numpy(np.array(frame))[None], numbers())
        run(0 if t == 0 else int(start.action[t - 1]), observed, t == 0)
    del moments[:-1]
    for action in actions:
        run(action, None, False)
    return moments
