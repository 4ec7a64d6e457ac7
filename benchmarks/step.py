"""Phases of a full training step on a CPU: as in a run, and as plain eager float32.

``python -m benchmarks.step`` measures world-model update, imagination and behaviour update of a
preset at its own sizes and writes ``docs/assets/performance/step.json`` and its block of
``docs/performance.md``. Both cases run the same code alternately in one process:

- *as run*: precision of ``auto``, channels-last images, freed memory kept;
- *plain*: float32, images as ``(N, C, H, W)`` in memory, the system's memory management.

With kept memory, the first updates of a run still allocate; seven steps were measured to suffice.
Each sample is of the eighth step, and memory is released before the other case.

``--compiled`` adds the step with `training.compile`: compilation time and speed-up.

**The floor** is the time of the world-model update's convolutions and linear layers, forward and
backward, each timed alone at its shape, layout and number type in the update. The rest of the
update (batch norm, SiLU, the scan, sampling, losses, optimiser) adds to it.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import measure
from drama import Agent, presets
from drama.config import Config
from drama.training.memory import keep_freed_memory
from drama.training.trainer import Trainer

PHASES = ("world_model", "imagination", "behaviour")
NAMES = {
    "world_model": "world-model update",
    "imagination": "imagination",
    "behaviour": "actor-critic update",
}


def small(config: Config, env: str) -> Config:
    """Return the preset on a CPU with a replay just large enough for full batches of windows."""
    rows = max(4 * config.world_model.batch_size * config.world_model.batch_length, 1000)
    return replace(
        config,
        device="cpu",
        env=replace(config.env, id=env),
        replay=replace(config.replay, capacity=rows),
        training=replace(config.training, warmup_steps=10**9),
    )


def build(config: Config, rows: int) -> Trainer:
    """Return a trainer whose replay holds ``rows`` transitions of random play."""
    agent = Agent(config=config)
    trainer = Trainer(config, agent.env, agent.world_model, agent.behaviour)
    while trainer.replay.total < rows:
        trainer.collect()
    return trainer


def in_plain_layout(trainer: Trainer) -> None:
    """Have images computed as ``(N, C, H, W)`` in memory."""
    for part in (trainer.learner.world_model.encoder, trainer.learner.world_model.decoder):
        part.to(memory_format=torch.contiguous_format)
        for module in part.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.register_forward_pre_hook(lambda _module, given: (given[0].contiguous(),))


STEPS_TO_SETTLE = 7
"""Steps before a sample with kept memory, at the published sizes."""


@dataclass(frozen=True)
class Case:
    """One variant of the step."""

    trainer: Trainer
    keep_memory: bool

    @property
    def unmeasured(self) -> int:
        """Steps before each sample."""
        return STEPS_TO_SETTLE if self.keep_memory else 1

    def context(self) -> contextlib.AbstractContextManager[object]:
        return keep_freed_memory() if self.keep_memory else contextlib.nullcontext()

    def phases(self) -> dict[str, float]:
        """Seconds of each phase of one step."""
        trainer, clock = self.trainer, self.trainer.clock
        clock.flush()
        trainer.update("world_model")
        trainer.update("behaviour")
        seconds = clock.flush()
        return {phase: seconds[phase] for phase in PHASES}


def measure_cases(cases: dict[str, Case], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Time the phases of the cases alternately; unmeasured steps precede every sample."""
    samples = {name: {phase: [] for phase in (*PHASES, "step")} for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            with case.context():
                for _ in range(case.unmeasured):
                    case.phases()
                seconds = case.phases()
            seconds["step"] = sum(seconds.values())
            for phase, value in seconds.items():
                samples[name][phase].append(value)
    return samples


# ----------------------------------------------------------------------------------- the floor


@dataclass(frozen=True)
class Product:
    """A convolution or linear layer with its input in the update."""

    module: nn.Module
    shape: tuple[int, ...]
    needs_input_grad: bool


def products(trainer: Trainer) -> list[Product]:
    """Return all convolutions and linear layers of a world-model update, with input shapes."""
    found: list[Product] = []

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(Product(module, tuple(given[0].shape), given[0].requires_grad))

    hooks = [
        module.register_forward_pre_hook(note)
        for module in trainer.learner.world_model.modules()
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    ]
    trainer.update("world_model")
    for hook in hooks:
        hook.remove()
    # The layers of Mamba hand their projections' weights to the product directly.
    c = trainer.config.world_model
    window = (c.batch_size, c.batch_length)
    for module in trainer.learner.world_model.dynamics.modules():
        if isinstance(module, nn.Linear) and all(p.module is not module for p in found):
            found.append(Product(module, (*window, module.in_features), True))
    return found


def floor(trainer: Trainer, rounds: int) -> dict[str, float]:
    """Return seconds of the products of a world-model update alone, by kind."""
    totals = {"convolutions": 0.0, "linear layers": 0.0}
    for product in products(trainer):
        module, images = product.module, len(product.shape) == 4
        x = torch.randn(product.shape, dtype=trainer.learner.dtype)
        if images:
            x = x.contiguous(memory_format=torch.channels_last)
        weight = module.weight.detach().to(trainer.learner.dtype)  # type: ignore[union-attr, operator]
        x.requires_grad_(product.needs_input_grad)
        weight.requires_grad_()
        run = _product(module, x, weight)
        with torch.no_grad():
            dy = torch.ones_like(run())
        leaves = [x, weight] if product.needs_input_grad else [weight]

        def both(
            run: Callable[[], Tensor] = run, leaves: list[Tensor] = leaves, dy: Tensor = dy
        ) -> object:
            return torch.autograd.grad(run(), leaves, dy)

        samples = measure.interleaved({"": both}, rounds=rounds, warmup=1)[""]
        kind = "convolutions" if images else "linear layers"
        totals[kind] += measure.spread(samples)["median"]
    return totals


def _product(module: nn.Module, x: Tensor, weight: Tensor) -> Callable[[], Tensor]:
    if isinstance(module, nn.Conv2d):
        return lambda: nn.functional.conv2d(x, weight, None, module.stride, module.padding)
    if isinstance(module, nn.ConvTranspose2d):
        return lambda: nn.functional.conv_transpose2d(
            x, weight, None, module.stride, module.padding, module.output_padding
        )
    return lambda: nn.functional.linear(x, weight)


# ------------------------------------------------------------------------------------- the run


def compiled(config: Config, as_run: Trainer, rounds: int) -> dict[str, Any]:
    """Return seconds of the first compiled step, and phases of later ones."""
    training = replace(config.training, compile=True)
    trainer = build(replace(config, training=training), config.replay.capacity)
    case = Case(trainer, True)
    with keep_freed_memory():
        began = time.perf_counter()
        case.phases()
        first = time.perf_counter() - began
    samples = measure_cases({"compiled": case, "as run": Case(as_run, True)}, rounds)
    return {
        "first step": first,
        "seconds": {k: measure.spread(v) for k, v in samples["compiled"].items()},
        "against as run": {
            k: measure.quotients(v, samples["as run"][k]) for k, v in samples["compiled"].items()
        },
    }


def run(
    preset: str, env: str, threads: int, rounds: int, command: str, *, with_compiled: bool = False
) -> dict[str, Any]:
    """Measure a preset; return the content of the published file."""
    torch.set_num_threads(threads)
    config = presets.preset(preset)
    config = small(config, env)
    rows = config.replay.capacity
    plain = replace(config, training=replace(config.training, precision="float32"))
    as_run, plainly = build(config, rows), build(plain, rows)
    in_plain_layout(plainly)
    cases = {"as run": Case(as_run, True), "plain": Case(plainly, False)}
    machine = measure.machine(threads)
    samples = measure_cases(cases, rounds)
    with keep_freed_memory():
        alone = floor(as_run, rounds)
    update = measure.spread(samples["as run"]["world_model"])["median"]
    extra = {"compiled": compiled(config, as_run, rounds)} if with_compiled else {}
    return {
        **extra,
        "command": command,
        "machine": machine,
        "preset": preset,
        "env": env,
        "precision": str(as_run.learner.dtype).removeprefix("torch."),
        "seconds": {
            name: {phase: measure.spread(values) for phase, values in phases.items()}
            for name, phases in samples.items()
        },
        "times faster": {
            phase: measure.quotients(samples["plain"][phase], samples["as run"][phase])
            for phase in (*PHASES, "step")
        },
        "floor": alone,
        "update over floor": update / sum(alone.values()),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the block of the performance page."""
    rows = []
    for phase in (*PHASES, "step"):
        fast, plain = (result["seconds"][case][phase]["median"] for case in ("as run", "plain"))
        times = result["times faster"][phase]
        rows.append(
            [
                NAMES.get(phase, "**total**"),
                f"{fast:.2f} s",
                f"{plain:.2f} s",
                f"{times['median']:.1f} ({times['lower']:.1f} to {times['upper']:.1f})",
            ]
        )
    header = [
        f"`{result['preset']}` on `{result['env']}`",
        f"as run ({result['precision']})",
        "plain (float32, NCHW)",
        "speed-up",
    ]
    alone = result["floor"]
    notes = []
    if "compiled" in result:
        found = result["compiled"]
        ratio, update = (found["against as run"][k]["median"] for k in ("step", "world_model"))
        notes = [
            f"With `training.compile` the first step takes {found['first step']:.0f} s, later "
            f"steps {ratio:.2f}× the time without it (world-model update: {update:.2f}×)."
        ]
    return "\n\n".join(
        [
            measure.table(header, rows),
            *notes,
            f"World-model update: {result['update over floor']:.2f}× the time of its convolutions "
            f"({alone['convolutions']:.2f} s) and linear layers ({alone['linear layers']:.2f} s) "
            "alone.",
            measure.provenance(result),
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.step")
    parser.add_argument("--preset", default="xs", choices=sorted(presets.PRESETS))
    parser.add_argument("--env", default="ALE/Pong-v5")
    parser.add_argument("--threads", type=int, default=measure.physical_cores())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    parser.add_argument("--compiled", action="store_true", help="also measure training.compile")
    parser.add_argument("--print-only", action="store_true", help="print the block, write no file")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    command = f"python -m benchmarks.step --preset {options.preset} --env {options.env}"
    command += " --compiled" if options.compiled else ""
    result = run(
        options.preset,
        options.env,
        options.threads,
        options.rounds,
        command,
        with_compiled=options.compiled,
    )
    print(markdown(result))
    print(f"{time.perf_counter() - began:.0f} s")
    if not options.print_only:
        name = "step" if options.preset == "xs" else f"step-{options.preset}"
        measure.publish(options.docs, name, result, markdown)


if __name__ == "__main__":
    main()
