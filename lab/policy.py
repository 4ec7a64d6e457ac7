"""Does the policy use the frame, and what would do better? ``python -m lab.policy WHAT LABEL=RUN``.

``WHAT`` is one of

- ``blind``: the policy plays, then actions are sampled with its action frequencies, whatever the
  frame shows. Equal returns mean that the policy ignores the frame.
- ``retrained``: the world model is frozen and new policies are trained in its imagination, with
  other settings each, then evaluated. If one does well, the model is not the limit.
- ``lookahead``: the same episodes with the policy alone and with one-step lookahead. If lookahead
  returns more, the model knows what the policy has not learnt.

The run is copied, never written to. Each call adds to ``lab/assets/policy-WHAT.json``, or replaces
the entry of the same run and case, and rewrites the block of that name in ``lab/log.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from benchmarks import measure
from numpy.typing import NDArray

import drama
from drama.behaviour import make_behaviour
from drama.training.events import Event
from drama.training.optim import Optimiser
from drama.training.trainer import Trainer
from lab.runs import (
    Changes,
    Part,
    Row,
    beginning,
    continued,
    mean_and_error,
    options_of,
    record,
)

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


def unseeing(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Play with the policy, then with actions sampled with its frequencies."""
    with continued(run, {}) as (agent, _):
        seeing: list[float] = []

        def hear(event: Event, payload: Any) -> None:
            if event == "episode":
                seeing.append(payload.ret)

        trainer = beginning(agent, options.seed, hear)
        while len(seeing) < options.episodes:
            trainer.collect()
        counts = np.bincount(trainer.stream.actions, minlength=agent.world_model.actions.count)
        shares = counts / counts.sum()
        env, rng = agent.new_env(options.seed), np.random.default_rng(options.seed)
        blind = [blindly(env, shares, rng) for _ in range(options.episodes)]
        env.close()
    row = {"shares": shares.round(3).tolist()}
    returns = {"seeing": seeing, "unseeing": blind}
    yield "sampled actions", row | {k: sorted(round(r, 2) for r in v) for k, v in returns.items()}


def blindly(env: gym.Env[Any, Any], shares: NDArray[np.float64], rng: np.random.Generator) -> float:
    """Return of one episode of actions sampled with these probabilities."""
    env.reset()
    total, over = 0.0, False
    while not over:
        _, reward, terminated, truncated, _ = env.step(int(rng.choice(len(shares), p=shares)))
        total, over = total + float(reward), terminated or truncated
    return total


def policy(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Train each policy in the imagination of the same model, then evaluate it."""
    for case in options.cases or POLICIES:
        with continued(run, POLICIES[case]) as (agent, trainer):
            forget(agent, trainer)
            for _ in range(options.updates):
                trainer.update("behaviour")
            means = trainer.meter.means()
            row: Row = {"updates": options.updates, "episodes": options.episodes}
            row |= {key: round(means[f"behaviour/{key}"], 3) for key in ("entropy", "return")}
            for name, greedy in (("greedy", True), ("sampled", False)):
                count = options.episodes
                found = agent.evaluate(count, greedy=greedy, num_envs=count, seed=options.seed)
                row[name] = sorted(round(e.ret, 2) for e in found.episodes)
            yield case, row


def forget(agent: drama.Agent, trainer: Trainer) -> None:
    """Replace policy and optimiser of the run by new ones."""
    config = agent.config
    size = agent.world_model.stoch_size + config.world_model.dynamics.width
    new = make_behaviour(config.behaviour, size, agent.world_model.actions)
    agent.behaviour.load_state_dict(new.state_dict())
    optimiser = Optimiser(agent.behaviour.named_parameters(), config.behaviour.optim)
    trainer.learner.optimisers["behaviour"] = optimiser
    trainer.meter.clear()


def lookahead(run: Path, options: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Play the same episodes with the policy alone and with one-step lookahead."""
    agent, count = drama.Agent.load(run, device="cpu"), options.episodes
    for futures in (0, options.futures):
        row: Row = {"futures": futures, "episodes": count}
        for name, greedy in (("greedy", True), ("sampled", False)):
            found = agent.evaluate(count, greedy=greedy, num_envs=count, lookahead=futures)
            row[name] = sorted(round(e.ret, 2) for e in found.episodes)
        yield f"lookahead, {futures} samples per action" if futures else "the policy alone", row
    agent.env.close()


def unseeing_table(results: Sequence[Row]) -> str:
    """One row per run: action frequencies and both means with standard errors."""
    header = ("", "action frequencies", "policy", "blind, same frequencies")
    rows = []
    for r in results:
        means = [mean_and_error(r[key]) for key in ("seeing", "unseeing")]
        rows.append((r["label"], " ".join(f"{share:.2f}" for share in r["shares"]), *means))
    return measure.table(header, rows)


def policy_table(results: Sequence[Row]) -> str:
    """One row per policy: means and ranges."""
    dreams = ("entropy, mean while learning", "imagined return, likewise")
    header = ("", "retrained policy", "updates", *dreams, "greedy", "sampled")
    rows = []
    for r in results:
        played = []
        for mode in ("greedy", "sampled"):
            mean = sum(r[mode]) / len(r[mode])
            played.append(f"{mean:.1f} ({r[mode][0]:g} to {r[mode][-1]:g})")
        numbers = (str(r["updates"]), f"{r['entropy']:.2f}", f"{r['return']:.2f}")
        rows.append((r["label"], r["case"], *numbers, *played))
    return measure.table(header, rows)


def lookahead_table(results: Sequence[Row]) -> str:
    """One row per way of acting."""
    header = ("", "acting", "episodes", "greedy", "sampled")
    rows = [
        (
            r["label"],
            r["case"],
            str(r["episodes"]),
            *(mean_and_error(r[mode]) for mode in ("greedy", "sampled")),
        )
        for r in results
    ]
    return measure.table(header, rows)


PARTS: Mapping[str, Part] = {
    "blind": (unseeing, unseeing_table),
    "retrained": (policy, policy_table),
    "lookahead": (lookahead, lookahead_table),
}
SHOWN = {"blind": ("episodes",), "retrained": ("updates",), "lookahead": ("episodes", "futures")}
"""Options named in the recorded command."""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, add to the file, rewrite the block."""
    parser = options_of("policy", __doc__, PARTS)
    parser.add_argument("--cases", nargs="+", help="some of the policies only")
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--futures", type=int, default=16, help="imagined samples per action")
    options = parser.parse_args(argv)
    if options.episodes < 2:
        parser.error("--episodes: a standard error needs at least two")
    record(f"policy-{options.what}", PARTS[options.what], options, SHOWN[options.what])


if __name__ == "__main__":
    main()
