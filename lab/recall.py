"""Where does Recall fail: memory, reward head or policy? ``python -m lab.recall``.

Each case trains a world model, and nothing else, on episodes of random actions, with the settings
of the variant ``mamba2`` of ``experiments/memory-backbones.toml`` and the changes that the case
names. Every so many updates it is shown episodes that it was not trained on, and at the question:

- **recalls**: how often a linear probe (ridge regression from one half of the episodes, judged by
  the other) reads the colour from ``d_t``, the output of the sequence model. Chance is 1/4.
- **answers**: how often the reward head, asked about all four answers, gives the right one the
  highest reward. Chance is 1/4. A head that only knows how often answers are right gives all four
  about the same: **apart** is the standard deviation of what it gives to them, 1 when it is sure.
- **action's share**: of the variance of ``d_t`` over episodes, what the answer given explains.

Results are added to ``lab/assets/recall-probe.json`` case by case, and the block
``recall-probe`` of ``--page`` is made of all that are there.

``python -m lab.recall --runs NAME=SUITE`` asks what whole agents know instead, the last
checkpoint of each run of a suite, finished or not: the same of their world models, and of their
policies at the question, with the real past, how often the colour can be read from what the policy
sees (**policy sees**), the probability of the right answer (**right**) and
the entropy in nats at the question and over all steps (ln 4 = 1.39 when all answers are alike).
That makes ``recall-agents.json`` and the block ``recall-agents``, or those of another ``--block``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarks import measure
from torch import Tensor

import drama
from drama.envs.toy import Recall
from drama.suite import load_spec, read_suite
from drama.suite.override import override
from drama.training.trainer import Trainer
from drama.world_model import WorldModel
from lab import LAB, LOG
from lab.recall_probe import ask, episodes, look

SPEC = measure.ROOT / "experiments" / "memory-backbones.toml"
PLAIN: Mapping[str, Any] = {"world_model.action_scale": 1, "world_model.dynamics.headdim": 64}
"""Takes back what the experiment changed after these measurements."""
HELD_OUT = 128
"""Episodes to be judged by."""
HELD_OUT_SEED = 99
KNOWN = {"recalls": {"recalls": 0.95}, "answers": {"answers": 0.95, "apart": 0.5}}
"""From which numbers on the colour and the reward count as known."""


class Case(NamedTuple):
    """One way to train."""

    label: str
    settings: Mapping[str, Any] = {}
    gap: int = 32
    prepare: Callable[[WorldModel], None] = lambda model: None
    """Changes what no setting reaches."""
    episodes: int = 400
    """Episodes of random actions to train on."""


def weigh_rewards(model: WorldModel) -> None:
    """Let the reward loss count thirty times in training."""
    loss = model.twohot.loss

    def weighed(logits: Tensor, target: Tensor) -> Tensor:
        return loss(logits, target) * (30.0 if model.training else 1.0)

    model.twohot.loss = weighed  # type: ignore[method-assign]


CASES = {
    "before": Case("as it was: 8 heads of 64, action 1"),
    "gap-8": Case("the same over a gap of 8", gap=8),
    "step-3e-3": Case("step size 3e-3 instead of 1e-3", {"world_model.optim.lr": 3e-3}),
    "beta2-0.99": Case("second moment over 100 updates", {"world_model.optim.beta2": 0.99}),
    "beta2-0.95": Case("over 20 updates", {"world_model.optim.beta2": 0.95}),
    "reward-30": Case("reward loss 30 times", prepare=weigh_rewards),
    "latent-8": Case("latent of 8 variables, not 16", {"world_model.latent_variables": 8}),
    "latent-4": Case("latent of 4 variables", {"world_model.latent_variables": 4}),
    "action-4": Case("action 4", {"world_model.action_scale": 4}),
    "heads-32": Case("32 heads of 16", {"world_model.dynamics.headdim": 16}),
    "both": Case(
        "32 heads of 16 and action 4",
        {"world_model.action_scale": 4, "world_model.dynamics.headdim": 16},
    ),
    "both-few": Case(
        "the same, of 100 episodes",
        {"world_model.action_scale": 4, "world_model.dynamics.headdim": 16},
        episodes=100,
    ),
}


def train(case: Case, seed: int, updates: int, every: int) -> list[dict[str, float]]:
    """Train a world model on episodes of random actions; what it knew, every so many updates."""
    env_id = f"drama/Recall{case.gap}-v0"
    config = load_spec(str(SPEC)).variant("mamba2").config
    config = override(config, {**PLAIN, **case.settings})
    agent = drama.Agent(env_id, dataclasses.replace(config, seed=seed), device="cpu")
    trainer = Trainer(agent.config, agent.env, agent.world_model, agent.behaviour)
    case.prepare(agent.world_model)
    while trainer.collector.episodes < case.episodes:
        trainer.collector.step = 0  # the warm-up, and with it random actions, goes on
        trainer.collect()
    held_out = episodes(env_id, config.env.image_size, HELD_OUT, HELD_OUT_SEED)
    question = case.gap + Recall.cue_frames
    rows = []
    for update in range(1, updates + 1):
        trainer.update("world_model")
        if update % every == 0:
            row = {"updates": update, **look(agent.world_model, held_out, question)}
            rows.append({key: round(value, 3) for key, value in row.items()})
            print(case.label, f"seed {seed}", rows[-1], flush=True)
    return rows


def first(rows: Sequence[Mapping[str, float]], key: str) -> str:
    """Updates after which ``key`` is known, or what it was at the end."""
    for row in rows:
        if all(row[name] >= least for name, least in KNOWN[key].items()):
            return f"{row['updates']:.0f}"
    return f"not by {rows[-1]['updates']:.0f} ({rows[-1][key]:.2f})"


def markdown(result: Mapping[str, Any]) -> str:
    """The block: one line for each case and seed."""
    header = (
        "",
        "seed",
        "recalls the colour",
        "predicts the reward",
        "apart at the end",
        "action's share",
    )
    runs = sorted(result["runs"], key=lambda run: (list(CASES).index(run["case"]), run["seed"]))
    rows = [
        (
            CASES[run["case"]].label,
            str(run["seed"]),
            first(run["rows"], "recalls"),
            first(run["rows"], "answers"),
            f"{run['rows'][-1]['apart']:.2f}",
            f"{100 * run['rows'][-1]['action_share']:.1f} %"
            if "action_share" in run["rows"][-1]
            else "not measured",
        )
        for run in runs
    ]
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def agents(name: str, directory: Path) -> list[dict[str, Any]]:
    """What the agents of a suite know, each at its last checkpoint."""
    found = []
    for cell in read_suite(directory).cells:
        if not (cell.path / "checkpoints" / "last").exists():
            continue
        agent = drama.Agent.load(cell.path, device="cpu")
        gap = agent.env.unwrapped.gap  # type: ignore[attr-defined]
        seen = episodes(cell.game, agent.config.env.image_size, HELD_OUT, HELD_OUT_SEED)
        known = ask(agent, seen, gap + Recall.cue_frames)
        found.append(
            {
                "name": name,
                "variant": cell.variant.name,
                "env": cell.game,
                "seed": cell.seed,
                "steps": agent.num_timesteps,
                **{key: round(value, 3) for key, value in known.items()},
            }
        )
        print(found[-1], flush=True)
    return found


def joined(found: list[dict[str, Any]], before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of agents, and those of an earlier file of others; an agent's lines stand together."""

    def agent(line: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(line[key] for key in ("name", "variant", "env"))

    here = {(*agent(line), line["seed"]) for line in found}
    lines = found + [line for line in before if (*agent(line), line["seed"]) not in here]
    order = {name: i for i, name in enumerate(dict.fromkeys(map(agent, before + found)))}
    return sorted(lines, key=lambda line: (order[agent(line)], line["seed"]))


def agents_table(result: Mapping[str, Any]) -> str:
    """The block of agents: one line for each run."""
    keys = ("recalls", "answers", "apart", "policy_sees", "right", "entropy_asked", "entropy")
    header = ("", "game", "seed", "steps", *(key.replace("_", " ") for key in keys))
    rows = [
        (
            f"{run['name']}, {run['variant']}",
            run["env"],
            str(run["seed"]),
            f"{run['steps']:,}",
            *(f"{run[key]:.2f}" for key in keys),
        )
        for run in result["runs"]
    ]
    return f"`{result['command']}`\n\n{measure.table(header, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    """Train the cases asked for, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--runs", nargs="+", metavar="NAME=SUITE", help="ask agents instead")
    parser.add_argument("--block", default="recall-agents", help="what --runs makes")
    parser.add_argument(
        "--keep", action="store_true", help="with --runs: keep lines of runs that are not at hand"
    )
    parser.add_argument("--lab", type=Path, default=LAB)
    parser.add_argument("--page", default=LOG, help="page in --lab with the block")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    place = args.lab / "assets"
    place.mkdir(parents=True, exist_ok=True)
    if args.runs:
        named = [given.partition("=") for given in args.runs]
        given_block = "" if args.block == parser.get_default("block") else f"--block {args.block} "
        path = place / f"{args.block}.json"
        found = [run for name, _, suite in named for run in agents(name, Path(suite))]
        if args.keep and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            made_on = {"machine": before["machine"]}
            found = joined(found, [made_on | line for line in before["runs"]])
            given_block += "--keep "
        result: dict[str, Any] = {
            "command": f"python -m lab.recall {given_block}--runs {shlex.join(args.runs)}",
            "machine": measure.machine(1),
            "runs": found,
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        measure.replace_block(args.lab / args.page, args.block, agents_table(result))
        return
    path = place / "recall-probe.json"
    for name in args.cases:
        for seed in args.seeds:
            rows = train(CASES[name], seed, args.updates, args.every)
            # Read again each time: another process may have added a case meanwhile.
            held = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.is_file() else []
            held = [run for run in held if (run["case"], run["seed"]) != (name, seed)]
            held.append({"case": name, "seed": seed, "rows": rows})
            result = {
                "command": f"python -m lab.recall --every {args.every}",
                "machine": measure.machine(1),
                "runs": held,
            }
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    whole = json.loads(path.read_text(encoding="utf-8"))
    measure.replace_block(args.lab / args.page, "recall-probe", markdown(whole))


if __name__ == "__main__":
    main()
