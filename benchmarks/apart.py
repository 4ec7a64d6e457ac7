"""Take a finished run apart: ``python -m benchmarks.apart WHAT RUN ...``.

When an agent does not learn, its parts can be asked one at a time. ``WHAT`` is one of

- ``held-out``: error of reconstructions and of frames foretold one step ahead, and divergence of
  the prior, on rows that the world model learnt from and on new episodes of the same policy. Far
  apart, it has learnt the rows by heart.
- ``rewards``: what the reward head foretells, frame and action known, where a reward is paid and
  where none is, on rows that it learnt from and in new episodes of the same policy.
- ``unseeing``: whether the policy looks. It plays, and then actions are drawn that are as frequent
  as its own, whatever the frame shows. If they return as much, it has learnt no more than that.
- ``policy``: the world model stays as it is, and new policies learn in its dreams, with other
  settings each; then they play. If one of them does well, the model was not what was missing.
- ``lookahead``: the agent plays so many episodes, each the first of an environment, by its policy
  alone and with the world model asked what each action promises. If the latter returns more, the
  model knows what the policy has not learnt.
- ``pixels``: the policy stays away, and the world model learns on from the run's experience, with
  other settings each. Told is how much of what differs from the median frame its reconstructions
  show, in places where one thing only moves: 1 is all, 0 as little as the median frame.

The run is copied, never written to. Each call adds to ``docs/assets/results/apart-WHAT.json``, or
replaces what it had for the same run and case, and rewrites the block of that name of
``docs/results.md``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import drama
from benchmarks import measure
from drama.behaviour import make_behaviour
from drama.config import Config
from drama.replay import ReplayBuffer
from drama.suite.override import override
from drama.training.checkpoint import find_checkpoint
from drama.training.events import Event, Listener
from drama.training.optim import Optimiser
from drama.training.trainer import Trainer
from drama.world_model import WorldModel
from drama.world_model.latent import kl_divergence

Changes = Mapping[str, Any]
Row = dict[str, Any]

POLICIES: Mapping[str, Changes] = {
    "entropy bonus 1e-3": {"behaviour.entropy": 1e-3},
    "entropy bonus 3e-3": {"behaviour.entropy": 3e-3},
    "entropy bonus 6e-3": {"behaviour.entropy": 6e-3},
    "3e-3, half as many dreams of 32 steps": {
        "behaviour.entropy": 3e-3,
        "behaviour.horizon": 32,
        "behaviour.batch_size": 32,
    },
}
MODELS: Mapping[str, Changes] = {
    "as it was": {},
    "a tenth of the weight on the KL": {"world_model.beta_dyn": 0.1, "world_model.beta_rep": 0.01},
    "pixels that move count 10 times": {"world_model.motion_weight": 10.0},
}
PLACES: Mapping[str, Mapping[str, tuple[slice, slice]]] = {
    "ALE/Pong-v5": {
        "left paddle": (slice(12, 58), slice(5, 9)),
        "right paddle": (slice(12, 58), slice(55, 60)),
        "ball": (slice(12, 58), slice(10, 54)),
    }
}
"""Rows and columns of a 64 x 64 frame where nothing else moves."""


@contextlib.contextmanager
def continued(run: Path, changes: Changes) -> Iterator[tuple[drama.Agent, Trainer]]:
    """A copy of a run as it was left, with some settings changed."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "run"
        shutil.copytree(run, copy)
        checkpoint, _ = find_checkpoint(copy)
        config = override(Config.from_json(checkpoint.text("config.json")), changes)
        agent = drama.Agent.load(copy, config=config, device="cpu")
        parts = (agent.config, agent.env, agent.world_model, agent.behaviour)
        trainer = Trainer(*parts, run_dir=copy)
        trainer.load(checkpoint)
        try:
            yield agent, trainer
        finally:
            trainer.close()
            agent.env.close()


def whole(replay: ReplayBuffer, length: int) -> Tensor:
    """Slots in which windows of so many rows end, oldest first, none over the write position."""
    oldest = max(replay.total - replay.capacity, 0)
    return torch.arange(oldest, replay.total)[length - 1 :] % replay.capacity


@torch.no_grad()
def errors(model: WorldModel, replay: ReplayBuffer, length: int, windows: int) -> Row:
    """Squared errors of a frame, weighted as the run weighs them, and nats of a step's KL."""
    ends = whole(replay, length)[1:-1]
    ends = ends[torch.linspace(0, len(ends) - 1, windows).long().unique()]
    batch, generator = replay.windows(ends, length), torch.Generator().manual_seed(0)
    seen = model.eval().observe(batch, generator)
    linked = ~batch.is_first[:, 1:]
    prior = model.prior(seen.deter[:, :-1])
    kl = kl_divergence(seen.posterior[:, 1:], prior)[linked]
    frame = model.decoder.loss(seen.stoch, batch.obs, batch.is_first)
    # The first row only says what the second differs from, so it is given any latent.
    ahead = torch.cat([seen.stoch[:, :1], model.sample(prior, generator)], dim=1)
    foretold = model.decoder.loss(ahead, batch.obs, batch.is_first)[:, 1:][linked]
    found = {"frame": frame, "foretold": foretold, "kl": kl}
    return {key: round(float(values.mean()), 2) for key, values in found.items()}


def held_out(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Compare what was learnt from with what was not."""
    with continued(run, {}) as (agent, trainer):
        length = agent.config.world_model.batch_length
        yield "rows learnt from", errors(agent.world_model, trainer.replay, length, options.windows)
        rows = min(agent.config.replay.capacity, options.windows * length)
        replay = played(agent, options.seed, rows)
        yield "new episodes", errors(agent.world_model, replay, length, options.windows)


@torch.no_grad()
def foretold_rewards(model: WorldModel, replay: ReplayBuffer, length: int, windows: int) -> Row:
    """What is foretold of rows that pay and of rows that do not, as shares of what is paid."""
    reward, slots = replay.columns["reward"], whole(replay, length)
    paid = reward[: len(replay)]
    paid = paid[paid != 0].abs()
    found: Row = {"paid": len(paid), "foretold": None, "made_up": None}
    # Nothing is done on the last frame of an episode, so its row has no reward to foretell.
    acted, pays = ~replay.columns["is_last"][slots], reward[slots] != 0
    for name, there in (("foretold", pays), ("made_up", acted & ~pays)):
        ends = slots[there]
        ends = ends[torch.linspace(0, len(ends) - 1, min(windows, len(ends))).long()]
        if not len(paid) or not len(ends):
            continue
        batch = replay.windows(ends, length)
        deter = model.eval().observe(batch, torch.Generator().manual_seed(0)).deter[:, -1]
        said, real = model.reward(deter), batch.reward[:, -1]
        if name == "foretold":
            share = (said * real.sign()).sum() / real.abs().sum()
        else:
            share = said.abs().mean() / paid.mean()
        found[name] = round(float(share), 4)
    return found


def rewards(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Ask for the rewards of what was learnt from and of what was not."""
    with continued(run, {}) as (agent, trainer):
        asked = (agent.config.world_model.batch_length, options.windows)
        yield "rows learnt from", foretold_rewards(agent.world_model, trainer.replay, *asked)
        rows = min(agent.config.replay.capacity, 4 * options.windows * asked[0])
        replay = played(agent, options.seed, rows)
        yield "new episodes", foretold_rewards(agent.world_model, replay, *asked)


def played(agent: drama.Agent, seed: int, rows: int) -> ReplayBuffer:
    """Rows of new episodes of the agent's policy."""
    trainer = beginning(agent, seed)
    while trainer.replay.total < rows:
        trainer.collect()
    return trainer.replay


def beginning(agent: drama.Agent, seed: int, *listeners: Listener) -> Trainer:
    """A trainer about to act with the agent's policy, in new episodes."""
    # A trainer seeds its environment: the run's own seed would bring the run's episodes back.
    # And nothing is to be learnt from what is measured, which overlapping would begin at once.
    training = dataclasses.replace(agent.config.training, overlap=False)
    config = dataclasses.replace(agent.config, seed=seed, training=training)
    parts = (agent.new_env(seed), agent.world_model, agent.behaviour)
    trainer = Trainer(config, *parts, listeners=listeners)
    trainer.collector.step = config.training.warmup_steps  # the policy acts from the first row on
    return trainer


def unseeing(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Play with the policy, and with actions as frequent as its own that look at nothing."""
    with continued(run, {}) as (agent, _):
        seeing: list[float] = []

        def hear(event: Event, payload: Any) -> None:
            if event == "episode":
                seeing.append(payload.ret)

        trainer = beginning(agent, options.seed, hear)
        while len(seeing) < options.episodes:
            trainer.collect()
        counts = np.bincount(trainer.stream.actions, minlength=agent.world_model.num_actions)
        shares = counts / counts.sum()
        env, rng = agent.new_env(options.seed), np.random.default_rng(options.seed)
        blind = [blindly(env, shares, rng) for _ in range(options.episodes)]
        env.close()
    row = {"shares": shares.round(3).tolist()}
    returns = {"seeing": seeing, "unseeing": blind}
    yield "drawn actions", row | {k: sorted(round(r, 2) for r in v) for k, v in returns.items()}


def blindly(env: gym.Env[Any, Any], shares: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Return of one episode of actions drawn with these probabilities."""
    env.reset()
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(int(rng.choice(len(shares), p=shares)))
        total, over = total + float(reward), terminated or truncated
    return total


def policy(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Learn each policy anew in the dreams of the same model, and let it play."""
    for case in options.cases or POLICIES:
        with continued(run, POLICIES[case]) as (agent, trainer):
            forget(agent, trainer)
            for _ in range(options.updates):
                trainer.update("behaviour")
            means = trainer.meter.means()
            row: Row = {"updates": options.updates, "episodes": options.episodes}
            row |= {key: round(means[f"behaviour/{key}"], 3) for key in ("entropy", "return")}
            for name, greedy in (("greedy", True), ("drawn", False)):
                count = options.episodes
                found = agent.evaluate(count, greedy=greedy, num_envs=count, seed=options.seed)
                row[name] = sorted(round(e.ret, 2) for e in found.episodes)
            yield case, row


def lookahead(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Play by the policy alone and with the model asked, the same episodes."""
    agent, count = drama.Agent.load(run, device="cpu"), options.episodes
    for futures in (0, options.futures):
        row: Row = {"futures": futures, "episodes": count}
        for name, greedy in (("greedy", True), ("drawn", False)):
            found = agent.evaluate(count, greedy=greedy, num_envs=count, lookahead=futures)
            row[name] = sorted(round(e.ret, 2) for e in found.episodes)
        yield f"{futures} futures of each action" if futures else "the policy alone", row
    agent.env.close()


def forget(agent: drama.Agent, trainer: Trainer) -> None:
    """Put a new policy and a new optimiser in the place of those of the run."""
    config = agent.config
    size = config.world_model.stoch_size + config.world_model.dynamics.width
    new = make_behaviour(config.behaviour, size, agent.world_model.num_actions)
    agent.behaviour.load_state_dict(new.state_dict())
    optimiser = Optimiser(agent.behaviour.named_parameters(), config.behaviour.optim)
    trainer.learner.optimisers["behaviour"] = optimiser
    trainer.meter.clear()


def pixels(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Let each model learn on, and look at what its reconstructions show."""
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


# -- telling -----------------------------------------------------------------------------------


def held_out_table(results: Sequence[Row]) -> str:
    """Two rows a run."""
    header = ("", "", "squared error of a frame", "foretold", "KL of a step, nats")
    keys = ("frame", "foretold", "kl")
    rows = [(r["label"], r["case"], *(f"{r[key]:.2f}" for key in keys)) for r in results]
    return measure.table(header, rows)


def rewards_table(results: Sequence[Row]) -> str:
    """Two rows a run."""
    header = ("", "", "rows that pay", "foretold of what they pay", "foretold of others")

    def percent(share: float | None) -> str:
        return "" if share is None else f"{100 * share:.1f} %"

    keys = ("foretold", "made_up")
    rows = [
        (r["label"], r["case"], f"{r['paid']:,}", *(percent(r[key]) for key in keys))
        for r in results
    ]
    return measure.table(header, rows)


def unseeing_table(results: Sequence[Row]) -> str:
    """A row a run: how often it takes which action, and the two means with their errors."""
    header = ("", "actions taken, each", "policy", "as often, without looking")
    rows = []
    for r in results:
        means = [mean_and_error(r[key]) for key in ("seeing", "unseeing")]
        rows.append((r["label"], " ".join(f"{share:.2f}" for share in r["shares"]), *means))
    return measure.table(header, rows)


def mean_and_error(returns: Sequence[float]) -> str:
    """Mean, and in brackets its standard error."""
    error = np.std(returns, ddof=1) / len(returns) ** 0.5
    return f"{np.mean(returns):.2f} ({error:.2f})"


def lookahead_table(results: Sequence[Row]) -> str:
    """A row for each way of acting."""
    header = ("", "acts by", "episodes", "greedy", "drawn")
    rows = [
        (
            r["label"],
            r["case"],
            str(r["episodes"]),
            *(mean_and_error(r[mode]) for mode in ("greedy", "drawn")),
        )
        for r in results
    ]
    return measure.table(header, rows)


def policy_table(results: Sequence[Row]) -> str:
    """A row for each new policy: means, and the spread that one number would hide."""
    dreams = ("entropy, mean while learning", "return in dreams, likewise")
    header = ("", "policy learnt anew", "updates", *dreams, "greedy", "drawn")
    rows = []
    for r in results:
        played = []
        for mode in ("greedy", "drawn"):
            mean = sum(r[mode]) / len(r[mode])
            played.append(f"{mean:.1f} ({r[mode][0]:g} to {r[mode][-1]:g})")
        numbers = (str(r["updates"]), f"{r['entropy']:.2f}", f"{r['return']:.2f}")
        rows.append((r["label"], r["case"], *numbers, *played))
    return measure.table(header, rows)


def pixels_table(results: Sequence[Row]) -> str:
    """What is shown at the start, and after the last update, place by place."""
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


Part = tuple[
    Callable[[Path, argparse.Namespace], Iterator[tuple[str, Row]]], Callable[[Sequence[Row]], str]
]
PARTS: Mapping[str, Part] = {
    "held-out": (held_out, held_out_table),
    "rewards": (rewards, rewards_table),
    "unseeing": (unseeing, unseeing_table),
    "policy": (policy, policy_table),
    "lookahead": (lookahead, lookahead_table),
    "pixels": (pixels, pixels_table),
}


def markdown(what: str, result: Mapping[str, Any]) -> str:
    """The block of the page."""
    commands = "\n".join(f"`{command}`" for command in result["commands"])
    return f"{commands}\n\n{PARTS[what][1](result['results'])}"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, add to the file, rewrite the block."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog="python -m benchmarks.apart",
    )
    parser.add_argument("what", choices=list(PARTS))
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--cases", nargs="+", help="some of the cases only")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--every", type=int, default=300)
    parser.add_argument("--windows", type=int, default=60)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--futures", type=int, default=16, help="of each action")
    parser.add_argument("--seed", type=int, default=20_000, help="of what is played")
    parser.add_argument("--docs", type=Path, default=measure.DOCS)
    options = parser.parse_args(argv)
    if options.episodes < 2:
        parser.error("--episodes: a standard error needs two")
    torch.set_num_threads(1)
    path = options.docs / "assets" / "results" / f"apart-{options.what}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    asked = f"--updates {options.updates} " if options.what in ("policy", "pixels") else ""
    if options.what in ("unseeing", "lookahead"):
        asked = f"--episodes {options.episodes} "
    if options.what == "lookahead":
        asked += f"--futures {options.futures} "
    for given in options.runs:
        label, _, run = given.partition("=")
        command = f'python -m benchmarks.apart {options.what} {asked}"{given}"'
        for case, row in PARTS[options.what][0](Path(run), options):
            print(label, case, row, flush=True)
            result: dict[str, Any] = {"commands": [], "results": []}
            if path.is_file():
                result = json.loads(path.read_text(encoding="utf-8"))
            new = {"label": label, "case": case, **row}
            others = [r for r in result["results"] if (r["label"], r["case"]) != (label, case)]
            result = {
                "commands": list(dict.fromkeys([*result["commands"], command])),
                "machine": measure.machine(1),
                "results": [*others, new],
            }
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            name = f"apart-{options.what}"
            measure.replace_block(options.docs / "results.md", name, markdown(options.what, result))


if __name__ == "__main__":
    main()
