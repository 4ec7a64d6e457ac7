"""Is the world model overfitted to its replay? ``python -m lab.overfitting WHAT LABEL=RUN ...``.

``WHAT`` is one of

- ``heldout``: error of reconstructions and of frames predicted one step ahead, and KL divergence of
  the prior, on training transitions and on held-out episodes of the same policy.
- ``rewards``: reward recall and false-positive rate of the reward head, given frame and action, on
  training transitions and on held-out episodes of the same policy.

The run is copied, never written to. Each call adds to ``lab/assets/overfitting-WHAT.json``, or
replaces the entry of the same run and case, and rewrites the block of that name in ``lab/log.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from benchmarks import measure
from torch import Tensor

from drama.replay import ReplayBuffer
from drama.world_model import WorldModel
from drama.world_model.latent import kl_divergence
from lab.runs import Part, Row, continued, options_of, played, record


def whole(replay: ReplayBuffer, length: int) -> Tensor:
    """Slots where windows of ``length`` steps end, oldest first, none across the write position."""
    oldest = max(replay.total - replay.capacity, 0)
    return torch.arange(oldest, replay.total)[length - 1 :] % replay.capacity


@torch.no_grad()
def errors(model: WorldModel, replay: ReplayBuffer, length: int, windows: int) -> Row:
    """Squared errors of a frame with the run's weights, and KL in nats per step."""
    ends = whole(replay, length)[1:-1]
    ends = ends[torch.linspace(0, len(ends) - 1, windows).long().unique()]
    batch, generator = replay.windows(ends, length), torch.Generator().manual_seed(0)
    seen = model.eval().observe(batch, generator)
    linked = ~batch.is_first[:, 1:]
    prior = model.prior(seen.deter[:, :-1])
    kl = kl_divergence(seen.posterior[:, 1:], prior)[linked]
    frame = model.decoder.loss(seen.stoch, batch.obs, batch.is_first)
    # The first frame only gives the motion weight of the second: its latent does not matter.
    ahead = torch.cat([seen.stoch[:, :1], model.sample(prior, generator)], dim=1)
    predicted = model.decoder.loss(ahead, batch.obs, batch.is_first)[:, 1:][linked]
    found = {"frame": frame, "predicted": predicted, "kl": kl}
    return {key: round(float(values.mean()), 2) for key, values in found.items()}


def held_out(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Compare training transitions with held-out episodes."""
    with continued(run, {}) as (agent, trainer):
        length = agent.config.world_model.batch_length
        yield (
            "training transitions",
            errors(agent.world_model, trainer.replay, length, options.windows),
        )
        rows = min(agent.config.replay.capacity, options.windows * length)
        replay = played(agent, options.seed, rows)
        yield "held-out episodes", errors(agent.world_model, replay, length, options.windows)


@torch.no_grad()
def predicted_rewards(model: WorldModel, replay: ReplayBuffer, length: int, windows: int) -> Row:
    """Reward recall and false-positive rate, as shares of the rewards."""
    reward, slots = replay.columns["reward"], whole(replay, length)
    paid = reward[: len(replay)]
    paid = paid[paid != 0].abs()
    found: Row = {"paid": len(paid), "predicted": None, "made_up": None}
    # The final observation of an episode has no action, so no reward to predict.
    acted, pays = ~replay.columns["is_last"][slots], reward[slots] != 0
    for name, there in (("predicted", pays), ("made_up", acted & ~pays)):
        ends = slots[there]
        ends = ends[torch.linspace(0, len(ends) - 1, min(windows, len(ends))).long()]
        if not len(paid) or not len(ends):
            continue
        batch = replay.windows(ends, length)
        deter = model.eval().observe(batch, torch.Generator().manual_seed(0)).deter[:, -1]
        said, real = model.reward(deter), batch.reward[:, -1]
        if name == "predicted":
            share = (said * real.sign()).sum() / real.abs().sum()
        else:
            share = said.abs().mean() / paid.mean()
        found[name] = round(float(share), 4)
    return found


def rewards(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Compare predicted rewards on training transitions and in held-out episodes."""
    with continued(run, {}) as (agent, trainer):
        asked = (agent.config.world_model.batch_length, options.windows)
        yield "training transitions", predicted_rewards(agent.world_model, trainer.replay, *asked)
        rows = min(agent.config.replay.capacity, 4 * options.windows * asked[0])
        replay = played(agent, options.seed, rows)
        yield "held-out episodes", predicted_rewards(agent.world_model, replay, *asked)


def held_out_table(results: Sequence[Row]) -> str:
    """Two rows a run."""
    header = ("", "", "squared error of a frame", "predicted", "KL of a step, nats")
    keys = ("frame", "predicted", "kl")
    rows = [(r["label"], r["case"], *(f"{r[key]:.2f}" for key in keys)) for r in results]
    return measure.table(header, rows)


def rewards_table(results: Sequence[Row]) -> str:
    """Two rows a run."""
    header = ("", "", "rewarded transitions", "reward recall", "false-positive rate")

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.1f} %"

    keys = ("predicted", "made_up")
    rows = [
        (r["label"], r["case"], f"{r['paid']:,}", *(percent(r[key]) for key in keys))
        for r in results
    ]
    return measure.table(header, rows)


PARTS: Mapping[str, Part] = {
    "heldout": (held_out, held_out_table),
    "rewards": (rewards, rewards_table),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, add to the file, rewrite the block."""
    parser = options_of("overfitting", __doc__, PARTS)
    parser.add_argument("--windows", type=int, default=60)
    options = parser.parse_args(argv)
    record(f"overfitting-{options.what}", PARTS[options.what], options)


if __name__ == "__main__":
    main()
