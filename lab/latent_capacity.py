"""Does the latent encode moving objects? ``python -m lab.latent_capacity``.

World models alone are trained on random play of MinAtar's Freeway (actions repeated for 24 steps on
average), with the settings of ``experiments/minatar.toml`` and the changes of each case. The result
is the squared reconstruction error, summed over a frame and averaged over the updates since the
last evaluation, compared with that of the mean frame, which shows no cars.

Writes ``lab/assets/latent_capacity.json`` and the block ``latent_capacity`` of ``lab/log.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks import measure

import drama
from drama.suite import load_spec
from drama.suite.override import override
from drama.training.trainer import Trainer
from lab import LAB, LOG

SPEC = measure.ROOT / "experiments" / "minatar.toml"
GAME = "MinAtar/Freeway-v1"
LARGER = {"world_model.latent_variables": 32, "world_model.filters": (32, 64)}
LIGHTER = {"world_model.beta_dyn": 0.1, "world_model.beta_rep": 0.01}
CASES: Mapping[str, Mapping[str, Any]] = {
    "as in minatar.toml": {},
    "twice the latent variables and filters": LARGER,
    "0.1 times the KL weight": LIGHTER,
    "both": {**LARGER, **LIGHTER},
}


def train(changes: Mapping[str, Any], steps: int, updates: int, every: int) -> dict[str, Any]:
    """Return reconstruction errors at every evaluation, and that of the mean frame."""
    config = override(load_spec(str(SPEC)).variant("drama").config, changes)
    warmup = {"training.warmup_steps": 10**6, "training.random_action_repeat": 24}
    agent = drama.Agent(GAME, override(config, warmup), device="cpu")
    trainer = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    for _ in range(steps):
        trainer.collect()
    frames = trainer.replay.windows(torch.arange(steps // 2), 1).obs.float() / 255
    rows = []
    for update in range(1, updates + 1):
        trainer.update("world_model")
        if update % every == 0:
            rows.append(round(trainer.meter.means()["world_model/reconstruction"], 2))
            trainer.meter.clear()
    mean_frame = frames.flatten(0, 1).var(0, correction=0).sum()
    return {"reconstruction": rows, "mean_frame": round(float(mean_frame), 2)}


def markdown(result: Mapping[str, Any]) -> str:
    """The block of the page."""
    looks = range(result["every"], result["updates"] + 1, result["every"])
    header = ("squared error of a frame, after updates", *(f"{n:,}" for n in looks))
    rows = [(name, *(f"{v:.1f}" for v in case["reconstruction"])) for name, case in result["cases"]]
    mean = result["cases"][0][1]["mean_frame"]
    rows.append(("the mean frame", *(f"{mean:.1f}" for _ in looks)))
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train every case and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m lab.latent_capacity")
    parser.add_argument("--steps", type=int, default=15_000, help="steps of random play")
    parser.add_argument("--updates", type=int, default=750)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--lab", type=Path, default=LAB)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    cases = []
    for name, changes in CASES.items():
        cases.append((name, train(changes, args.steps, args.updates, args.every)))
        print(name, cases[-1][1], flush=True)
    result = {
        "command": "python -m lab.latent_capacity",
        "updates": args.updates,
        "every": args.every,
        "machine": measure.machine(1),
        "cases": cases,
    }
    place = args.lab / "assets"
    place.mkdir(parents=True, exist_ok=True)
    (place / "latent_capacity.json").write_text(
        json.dumps(result, indent=1) + "\n", encoding="utf-8"
    )
    measure.replace_block(args.lab / LOG, "latent_capacity", markdown(result))


if __name__ == "__main__":
    main()
