"""Do reconstructions show moving objects? ``python -m lab.moving_objects objects LABEL=RUN ...``.

The world model is trained further on the run's replay, with other settings each; the policy is
unused. The result is the share of the squared deviation from the median frame that reconstructions
explain, in regions where only one object moves: 1 for a perfect one, 0 for the median frame.

The run is copied, never written to. Each call adds to ``lab/assets/moving_objects-objects.json``,
or replaces the entry of the same run and case, and rewrites that block in ``lab/log.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from benchmarks import measure
from torch import Tensor

from drama.world_model import WorldModel
from lab.runs import Changes, Part, Row, continued, options_of, record

MODELS: Mapping[str, Changes] = {
    "as it was": {},
    "0.1 times the KL weight": {"world_model.beta_dyn": 0.1, "world_model.beta_rep": 0.01},
    "motion weight 10": {"world_model.motion_weight": 10.0},
}
PLACES: Mapping[str, Mapping[str, tuple[slice, slice]]] = {
    "ALE/Pong-v5": {
        "left paddle": (slice(12, 58), slice(5, 9)),
        "right paddle": (slice(12, 58), slice(55, 60)),
        "ball": (slice(12, 58), slice(10, 54)),
    }
}
"""Pixel rows and columns of a 64 x 64 frame where nothing else moves."""


def pixels(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Train each model further, and measure its reconstructions."""
    for case in options.cases or MODELS:
        with continued(run, MODELS[case]) as (agent, trainer):
            places = PLACES[agent.config.env.id]
            rows = torch.arange(0, len(trainer.replay) - 1, 29)
            frames = trainer.replay.windows(rows, 1).obs[:, 0]
            shares = {"0": shown(agent.world_model, frames, places)}
            trainer.meter.clear()
            for update in range(1, options.updates + 1):
                trainer.update("world_model")
                if update % options.every == 0:
                    shares[str(update)] = shown(agent.world_model, frames, places)
            kl = round(trainer.meter.means()["world_model/kl"], 2)
            yield case, {"shares": shares, "kl": kl}


@torch.no_grad()
def shown(
    model: WorldModel, frames: Tensor, places: Mapping[str, tuple[slice, slice]]
) -> dict[str, float]:
    """Share of the squared deviation from the median frame that reconstructions explain."""
    model.eval()
    latent = model.sample(model.posterior(frames), torch.Generator().manual_seed(0))
    real = frames.float() / 255
    median = real.median(dim=0).values
    off = (median - real).square().sum(dim=-1)
    error = (model.decoder(latent).float() - real).square().sum(dim=-1)
    moved = off > 0.02  # not the noise of resizing
    found = {}
    for name, (rows, columns) in places.items():
        here = moved[:, rows, columns]
        left, all_of_it = (t[:, rows, columns][here].sum() for t in (error, off))
        found[name] = round(1 - float(left / all_of_it), 2)
    return found


def pixels_table(results: Sequence[Row]) -> str:
    """Shares at the start and after the last update, by region."""
    places = list(results[0]["shares"]["0"])
    looks = list(results[0]["shares"])
    header = ("", "", *(f"{place}, after {look}" for place in places for look in looks), "KL")
    rows = [
        (
            r["label"],
            r["case"],
            *(f"{r['shares'][look][place]:.2f}" for place in places for look in looks),
            f"{r['kl']:.1f}",
        )
        for r in results
    ]
    return measure.table(header, rows)


PARTS: Mapping[str, Part] = {"objects": (pixels, pixels_table)}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, add to the file, rewrite the block."""
    parser = options_of("moving_objects", __doc__, PARTS)
    parser.add_argument("--cases", nargs="+", help="only these cases")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--every", type=int, default=300)
    options = parser.parse_args(argv)
    record(f"moving_objects-{options.what}", PARTS[options.what], options, ("updates",))


if __name__ == "__main__":
    main()
