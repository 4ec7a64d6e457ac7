"""Checks on a GPU: agreement with the CPU and with eager updates, and no synchronisation.

Each check takes a small configuration with its device, returns its measurements, and raises
AssertionError on failure. On a CPU the same code compares the CPU with itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from drama import Agent
from drama.config import Config
from drama.ops.categorical import uniform_numbers
from drama.ssm import selective_scan, ssd
from drama.training.collector import Choice
from drama.training.device import autocast
from drama.training.graphs import EAGER_CALLS
from drama.training.trainer import Trainer
from drama.types import Batch


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference / the norm of ``expected``; NaN never passes."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-12))


def require(distances: dict[str, float], limit: float) -> dict[str, Any]:
    """Return the largest distance; all must be at most ``limit``."""
    worst = max(distances, key=lambda name: distances[name])
    bad = {name: value for name, value in distances.items() if not value <= limit}
    assert not bad, f"distances above {limit}: {bad}"
    return {"largest": distances[worst], "where": worst, "limit": limit, "compared": len(distances)}


def exact_float32() -> None:
    """Disable TF32 in comparisons."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def scans(config: Config) -> dict[str, Any]:
    """Compare both scans in float32, forward and backward, with float64 on the CPU."""
    exact_float32()
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    batch, length, heads, headdim, states = 2, 200, 4, 32, 16
    is_first = torch.rand(batch, length, generator=generator) < 0.02
    two = {
        "ssd": (
            ssd,
            [
                normal(batch, length, heads, headdim),
                normal(batch, length, heads).exp() * 0.1,
                -normal(heads).exp(),
                normal(batch, length, 1, states),
                normal(batch, length, 1, states),
            ],
        ),
        "selective_scan": (
            selective_scan,
            [
                normal(batch, length, headdim),
                normal(batch, length, headdim).exp() * 0.1,
                -normal(headdim, states).exp(),
                normal(batch, length, states),
                normal(batch, length, states),
            ],
        ),
    }
    distances: dict[str, float] = {}
    for name, (scan, inputs) in two.items():
        results = []
        for device, dtype in (("cpu", torch.float64), (config.device, torch.float32)):
            leaves = [x.to(device, dtype).requires_grad_() for x in inputs]
            y, state = scan(*leaves, is_first=is_first.to(device))  # type: ignore[operator]
            grads = torch.autograd.grad(y.square().sum() + state.sum(), leaves)
            results.append([y, state, *grads])
        for index, (expected, found) in enumerate(zip(*results, strict=True)):
            distances[f"{name} {index}"] = distance(found, expected)
    return require(distances, 1e-4)


def _pair(config: Config) -> tuple[Agent, Agent, Batch]:
    """Return the same agent on the CPU and on the device, and windows of real transitions."""
    host = Agent(config=dataclasses.replace(config, device="cpu"))
    there = Agent(config=config)
    for name in ("world_model", "behaviour"):
        getattr(there, name).load_state_dict(getattr(host, name).state_dict())
    made = Trainer(host.config, host.env, host.world_model, host.behaviour)
    while made.replay.total < config.training.warmup_steps:
        made.collect()
    return host, there, made.replay.windows(torch.arange(40, 48), 24)


def _losses(config: Config, dtype: torch.dtype) -> dict[str, float]:
    exact_float32()
    host, there, batch = _pair(config)
    c = config.world_model
    generator = torch.Generator().manual_seed(0)
    shape = (*batch.action.shape, c.latent_variables)
    numbers = uniform_numbers(shape, batch.reward, generator)
    results = []
    for agent, kind in ((host, torch.float32), (there, dtype)):
        agent.world_model.train()
        with autocast(agent.device, kind):
            loss, metrics = agent.world_model.loss(batch.to(agent.device), numbers.to(agent.device))
        agent.world_model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grads = torch.cat([p.grad.flatten().cpu() for p in agent.world_model.parameters()])
        results.append({**metrics, "gradient": grads})
    for agent in (host, there):
        agent.env.close()
    return {name: distance(results[1][name], value) for name, value in results[0].items()}


def loss_float32(config: Config) -> dict[str, Any]:
    """Compare world-model loss and gradient in float32 with the CPU."""
    return require(_losses(config, torch.float32), 1e-3)


def loss_bfloat16(config: Config) -> dict[str, Any]:
    """Compare the same with bfloat16 matrix products with float32 on the CPU."""
    return require(_losses(config, torch.bfloat16), 0.05)


def _trained(config: Config, updates: int, **training: Any) -> tuple[dict[str, Tensor], Any]:
    """Make updates on fixed transitions; return weights and trainer."""
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, **training))
    agent = Agent(config=config)
    made = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    while made.replay.total < config.training.warmup_steps:
        made.collect()
    for _ in range(updates):
        for purpose in made.learner.updates:
            made.update(purpose)
    weights = {
        f"{part} {name}": tensor.detach().float().cpu()
        for part in ("world_model", "behaviour")
        for name, tensor in getattr(agent, part).state_dict().items()
    }
    return weights, made


def graphs(config: Config) -> dict[str, Any]:
    """Compare weights after replayed and after eager updates."""
    updates = EAGER_CALLS + 5
    replayed, made = _trained(config, updates, cuda_graphs=True)
    eager, other = _trained(config, updates, cuda_graphs=False)
    for trainer in (made, other):
        trainer.collector.stream.env.close()
    found = require({name: distance(replayed[name], t) for name, t in eager.items()}, 0.02)
    expected = other.random.state()["loop"]
    for name, state in made.random.state()["loop"].items():
        same = torch.equal(state, expected[name])
        assert same, f"{name} differs between graphs and eager updates"
    counted = {k: o.updates for k, o in made.learner.optimisers.items()}
    assert set(counted.values()) == {updates}, counted
    return {**found, "updates": updates}


def no_waiting(config: Config) -> dict[str, Any]:
    """Check that updating, acting and storing never wait for the GPU: debug mode would raise."""
    _, made = _trained(config, 2, cuda_graphs=False)
    if config.device == "cuda":
        torch.cuda.synchronize()
    try:
        for purpose in made.learner.updates:
            with _no_synchronisation(config.device):
                made.update(purpose)
        made.collector.begin()
        with _no_synchronisation(config.device):
            action, state = made.collector.act()
        choice = Choice(made.collector.player.actions.to_host(action)[0], state)
        end = made.collector.take(choice)
        with _no_synchronisation(config.device):
            made.collector.store(end)
    finally:
        made.collector.stream.env.close()
    return {"checked": config.device == "cuda"}


@contextlib.contextmanager
def _no_synchronisation(device: str) -> Iterator[None]:
    """Raise where an operation waits for the GPU."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


CHECKS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "scans": scans,
    "loss, float32": loss_float32,
    "loss, bfloat16": loss_bfloat16,
    "graphs": graphs,
    "no waiting": no_waiting,
}
"""Checks by name."""
