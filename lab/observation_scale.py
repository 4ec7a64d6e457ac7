"""What enters the latent, by loss and scale of observations? ``python -m lab.observation_scale``.

World models alone are trained on random play with the settings of `quick` and the changes of each
case. Measured is the squared error of reconstructed held-out observations, for each channel of an
image or entry of a vector (in symlog space), relative to the error of the training mean: 1 means
that the latent holds nothing of it.

Writes ``lab/assets/observation_scale.json`` and the block ``observation_scale`` of ``lab/log.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks import measure
from torch import Tensor

import drama
from drama import presets
from drama.suite.override import override
from drama.training.trainer import Trainer
from drama.world_model import symlog
from lab import LAB, LOG

SQUARED = {
    "world_model.image_loss": "squared-error",
    "world_model.standardise_obs": False,
    "world_model.spatial_latents": 0,
    "world_model.latent_variables": 16,
    "world_model.latent_classes": 16,
    "replay.random_shift": (0, 0),
}
CROSS = {**SQUARED, "world_model.image_loss": "cross-entropy"}
CASES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "MinAtar/Asterix-v1": {
        "squared error": SQUARED,
        "squared error, mean image": {**SQUARED, "world_model.standardise_obs": True},
        "cross-entropy": CROSS,
        "cross-entropy, mean image": {**CROSS, "world_model.standardise_obs": True},
    },
    "CartPole-v1": {
        "symlog": SQUARED,
        "symlog, standardised": {**SQUARED, "world_model.standardise_obs": True},
    },
}
PARTS = {
    "MinAtar/Asterix-v1": ("player", "enemy", "trail", "gold"),
    "CartPole-v1": ("position", "velocity", "angle", "angular velocity"),
}
"""Channels or entries of an observation."""
HELD_OUT = 1000
"""Transitions of random play that are not trained on."""


def collected(game: str, changes: Mapping[str, Any], seed: int, steps: int) -> Trainer:
    """Return a trainer whose replay holds ``steps`` steps of random play."""
    random_play = {"training.warmup_steps": 10**6, "replay.capacity": 100_000}
    config = override(presets.quick(), {**changes, **random_play})
    agent = drama.Agent(game, config, seed=seed, device="cpu")
    trainer = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    for _ in range(steps):
        trainer.collect()
    return trainer


def observations(trainer: Trainer, steps: int) -> Tensor:
    """Return the observations of a replay in random order, ``(steps, ...)``."""
    generator = torch.Generator().manual_seed(0)
    return trainer.replay.sample("world_model", steps, 2, generator).obs[:, -1]


def errors(trainer: Trainer, held_out: Tensor, training: Tensor) -> list[float]:
    """Relative error of each channel or entry."""
    model, image = trainer.learner.world_model, held_out.dim() == 4

    def scaled(obs: Tensor) -> Tensor:
        return obs.float() / 255 if image else symlog(obs.float())

    with torch.no_grad():
        posterior = model.posterior(held_out)
        decoded = model.decode(model.sample(posterior, torch.Generator().manual_seed(0)))
    over = tuple(range(held_out.dim() - 1))
    real, mean = scaled(held_out), scaled(training).mean(0)
    error = (scaled(decoded) - real).square().mean(over) / (mean - real).square().mean(over)
    return [round(value, 2) for value in error.tolist()]


def train(game: str, changes: Mapping[str, Any], steps: int, updates: int) -> list[float]:
    """Train on ``steps`` steps; return the errors on others."""
    trainer = collected(game, changes, 0, steps)
    held_out = observations(collected(game, changes, 1, HELD_OUT), HELD_OUT // 2)
    for _ in range(updates):
        trainer.update("world_model")
    return errors(trainer, held_out, observations(trainer, min(steps, 1000)))


def markdown(result: Mapping[str, Any]) -> str:
    """The block of the page."""
    text = f"`{result['command']}`: {result['updates']} updates on {result['steps']:,} steps."
    for game, cases in result["games"].items():
        rows = [(name, *(f"{value:.2f}" for value in values)) for name, values in cases.items()]
        text += f"\n\n{measure.table((game, *PARTS[game]), rows)}"
    return text


def main(argv: Sequence[str] | None = None) -> None:
    """Train every case and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m lab.observation_scale")
    parser.add_argument("--steps", type=int, default=4000, help="steps of random play")
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--lab", type=Path, default=LAB)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    games: dict[str, dict[str, list[float]]] = {}
    for game, cases in CASES.items():
        for name, changes in cases.items():
            found = train(game, changes, args.steps, args.updates)
            games.setdefault(game, {})[name] = found
            print(game, name, found, flush=True)
    result = {
        "command": "python -m lab.observation_scale",
        "steps": args.steps,
        "updates": args.updates,
        "machine": measure.machine(1),
        "games": games,
    }
    place = args.lab / "assets"
    place.mkdir(parents=True, exist_ok=True)
    (place / "observation_scale.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    measure.replace_block(args.lab / LOG, "observation_scale", markdown(result))


if __name__ == "__main__":
    main()
