"""``drama eval``: evaluate a trained agent on whole episodes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from drama.agent import Agent
from drama.cli.common import Parser, err, out
from drama.config import Latents
from drama.errors import CheckpointError, ConfigError
from drama.evaluation import EvaluationResult, completed
from drama.files import read_json, write_json
from drama.training.checkpoint import Checkpoint, CheckpointDir, find_checkpoint

_COMMON = ("lookahead", "latents", "scored", "step_limit")
"""Protocol fields that must be equal in both evaluations of one ``eval.json``."""


def evaluate(args: list[str]) -> int:
    """``drama eval``: evaluate a trained agent on whole episodes."""
    parser = Parser(
        prog="drama eval",
        allow_abbrev=False,
        description="Play whole episodes (a lost life does not end an episode) with the policy's "
        "most probable actions (greedy) and with sampled actions. Writes eval.json into the run "
        "directory; an earlier result of the other mode is kept if its protocol is the same.",
    )
    parser.add_argument("run", metavar="DIR", help="run directory or checkpoint")
    parser.add_argument(
        "--episodes", metavar="N", type=int, help="episodes per mode (default: the run's)"
    )
    parser.add_argument(
        "--num-envs", metavar="N", type=int, help="parallel environments (default: the run's)"
    )
    parser.add_argument(
        "--seed", metavar="S", type=int, help="seed of the first environment (default: the run's)"
    )
    parser.add_argument(
        "--lookahead",
        metavar="N",
        type=int,
        help="imagined samples per action for one-step lookahead; 0 = off (default: the run's)",
    )
    parser.add_argument(
        "--latents",
        choices=get_args(Latents),
        help="latents while playing: sampled, as in imagination, or mode (default: the run's)",
    )
    parser.add_argument(
        "--max-episode-steps",
        metavar="N",
        type=int,
        help="agent steps after which an episode is truncated (default: the run's)",
    )
    parser.add_argument(
        "--mode",
        choices=("both", "greedy", "sampled"),
        default="both",
        help="actions: most probable, sampled, or both in turn (default: both)",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="auto, cpu, cuda or mps (default: the run's)"
    )
    parser.add_argument(
        "--env",
        metavar="ID",
        help="environment id or module:make_env, if the run does not record one",
    )
    parser.add_argument(
        "--trust-env",
        action="store_true",
        help="allow importing code that the run names for its environment",
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args(args)
    for name in ("episodes", "num_envs", "max_episode_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    checkpoint, run_dir = find_checkpoint(Path(options.run))
    if run_dir is not None and not _is_last(checkpoint, run_dir):
        err.print(f"{checkpoint.path} is not the last checkpoint: eval.json is not written")
        run_dir = None
    agent = Agent.load(options.run, options.env, device=options.device, trust_env=options.trust_env)
    modes = ("greedy", "sampled") if options.mode == "both" else (options.mode,)
    evaluate_and_report(
        agent,
        run_dir,
        modes,
        as_json=options.json,
        merge=True,
        episodes=options.episodes,
        num_envs=options.num_envs,
        seed=options.seed,
        lookahead=options.lookahead,
        latents=options.latents,
        max_episode_steps=options.max_episode_steps,
    )
    return 0


def evaluate_and_report(
    agent: Agent,
    run_dir: Path | None,
    modes: Sequence[str],
    *,
    as_json: bool = False,
    merge: bool = False,
    **options: Any,
) -> None:
    """Evaluate in each mode, write ``eval.json`` into the run directory, print the result.

    Args:
        agent: Agent to evaluate.
        run_dir: Directory of ``eval.json``; None writes nothing.
        modes: ``greedy`` and ``sampled``, in order.
        as_json: Print one line of JSON instead of text.
        merge: Keep results of other modes in ``eval.json`` if steps and protocol are the same.
        **options: Passed to `drama.Agent.evaluate`.
    """
    results = {}
    for mode in modes:
        with err.status(f"evaluating ({mode})"):
            result = agent.evaluate(greedy=mode == "greedy", **options)
        results[mode] = result.to_dict()
        if not as_json:
            out.print(_summary(result))
    if as_json:  # before writing: a full disk must not lose the result
        print(json.dumps(results), flush=True)
    if run_dir is not None:
        kept = _same_protocol(run_dir / "eval.json", results) if merge else {}
        write_json(run_dir / "eval.json", dict(sorted((kept | results).items())))
        if not as_json:
            out.print(f"written to {run_dir / 'eval.json'}")


def _is_last(checkpoint: Checkpoint, run_dir: Path) -> bool:
    try:
        return CheckpointDir(run_dir).last().path.resolve() == checkpoint.path.resolve()
    except CheckpointError:  # the last checkpoint is unknown
        return False


def _same_protocol(path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return results of other modes in ``eval.json`` with the same steps and protocol."""
    try:
        tree = read_json(path)
    except CheckpointError:
        return {}

    def measured(mode: str, result: Mapping[str, Any]) -> tuple[Any, ...]:
        protocol = completed(mode, result["protocol"])
        return protocol["train_steps"], *(protocol[key] for key in _COMMON)

    same = {measured(mode, result) for mode, result in results.items()}
    kept = {}
    for mode in ("greedy", "sampled"):
        if mode in results:
            continue
        try:
            old = measured(mode, tree[mode])
        except (AttributeError, KeyError, TypeError):
            continue
        if old in same:
            kept[mode] = tree[mode]
        else:
            err.print(f"the {mode} evaluation in {path} has another protocol and is removed")
    return kept


def _summary(result: EvaluationResult) -> str:
    p, count = result.protocol, len(result.episodes)
    one = {"episodes": "episode", "games": "game", "lives": "life"}
    unit = one[p["scored"]] if count == 1 else p["scored"]
    text = f"{result.mode}: mean return {result.mean:.3f} over {count} {unit}"
    how = [f"latents {p['latents']}", f"actions {p['actions']}"]
    if p["lookahead"]:
        how.append(f"lookahead {p['lookahead']}")
    if count > 1:
        how.insert(0, f"standard deviation {result.std:.3f}")
    text += f" ({', '.join(how)})"
    if p["truncated_by_limit"]:
        text += (
            f", {p['truncated_by_limit']} truncated after {p['step_limit']:,} steps "
            "(evaluation.max_episode_steps)"
        )
    if result.optimum is not None:
        text += f", optimum {result.optimum:g}"
    if result.normalised is not None:
        text += f", human-normalised {result.normalised:.3f}"
    elif result.normalised_reason is not None:
        text += f", no human-normalised score: {result.normalised_reason}"
    return text
