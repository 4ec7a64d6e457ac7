"""Shared parts of the scripts about one run: open a copy, play episodes, record and print."""

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

import numpy as np
import torch
from benchmarks import measure

import drama
from drama.config import Config
from drama.replay import ReplayBuffer
from drama.suite.override import override
from drama.training.checkpoint import find_checkpoint
from drama.training.events import Listener
from drama.training.trainer import Trainer
from lab import LAB, LOG

Changes = Mapping[str, Any]
Row = dict[str, Any]
Measure = Callable[[Path, argparse.Namespace], Iterator[tuple[str, Row]]]
Part = tuple[Measure, Callable[[Sequence[Row]], str]]
"""Yields ``(case, numbers)`` for a run, and makes the Markdown table of all rows."""


@contextlib.contextmanager
def continued(run: Path, changes: Changes) -> Iterator[tuple[drama.Agent, Trainer]]:
    """Open a copy of a run at its last checkpoint, with some settings changed."""
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


def played(agent: drama.Agent, seed: int, rows: int) -> ReplayBuffer:
    """Return a replay of held-out episodes of the agent's policy."""
    trainer = beginning(agent, seed)
    while trainer.replay.total < rows:
        trainer.collect()
    return trainer.replay


def beginning(agent: drama.Agent, seed: int, *listeners: Listener) -> Trainer:
    """Return a trainer that acts with the agent's policy in held-out episodes."""
    # The run's seed would replay the run's episodes; overlap would start updates at once.
    training = dataclasses.replace(agent.config.training, overlap=False)
    config = dataclasses.replace(agent.config, seed=seed, training=training)
    parts = (agent.new_env(seed), agent.world_model, agent.behaviour)
    trainer = Trainer(config, *parts, listeners=listeners)
    trainer.collector.step = config.training.warmup_steps  # no random steps
    return trainer


def mean_and_error(returns: Sequence[float]) -> str:
    """Return the mean with its standard error in brackets."""
    error = np.std(returns, ddof=1) / len(returns) ** 0.5
    return f"{np.mean(returns):.2f} ({error:.2f})"


def markdown(part: Part, result: Mapping[str, Any]) -> str:
    """Return the block of the log."""
    commands = "\n".join(f"`{command}`" for command in result["commands"])
    return f"{commands}\n\n{part[1](result['results'])}"


def options_of(name: str, description: str | None, parts: Mapping[str, Part]) -> Any:
    """Return a parser with the common options of these scripts."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog=f"python -m lab.{name}",
    )
    parser.add_argument("what", choices=list(parts))
    parser.add_argument("runs", nargs="+", metavar="LABEL=RUN")
    parser.add_argument("--seed", type=int, default=20_000, help="seed of the held-out episodes")
    parser.add_argument("--lab", type=Path, default=LAB, help="directory of the log")
    return parser


def record(name: str, part: Part, options: argparse.Namespace, shown: Sequence[str] = ()) -> None:
    """Measure each run, add to ``assets/NAME.json``, rewrite the block ``NAME`` of the log.

    Args:
        name: Name of file and block.
        part: Measurement and table.
        options: From :func:`options_of`, with what the part needs.
        shown: Options named in the recorded command.
    """
    torch.set_num_threads(1)
    path = options.lab / "assets" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    script, _, what = name.partition("-")
    given_options = "".join(f"--{key} {getattr(options, key)} " for key in shown)
    for given in options.runs:
        label, _, run = given.partition("=")
        command = f'python -m lab.{script} {what} {given_options}"{given}"'
        for case, row in part[0](Path(run), options):
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
            measure.replace_block(options.lab / LOG, name, markdown(part, result))
