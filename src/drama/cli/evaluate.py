"""``drama eval``: play whole episodes with a trained agent."""

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

_ALIKE = ("lookahead", "latents", "scored", "step_limit")
"""Fields of the protocol that both evaluations in one ``eval.json`` agree in."""


def evaluate(args: list[str]) -> int:
    """``drama eval``: play whole episodes with a trained agent."""
    parser = Parser(
        prog="drama eval",
        allow_abbrev=False,
        description="Play whole episodes (no life-loss ends), with the policy's most probable "
        "actions (greedy) and with sampled ones. Writes eval.json into the run directory; the "
        "other kind of an earlier call stays there if it was measured alike.",
    )
    parser.add_argument("run", metavar="DIR", help="run directory or checkpoint")
    parser.add_argument("--episodes", type=int, help="episodes of each kind (default: the run's)")
    parser.add_argument("--num-envs", type=int, help="environments side by side")
    parser.add_argument("--seed", type=int, help="seed of the first environment")
    parser.add_argument(
        "--lookahead",
        type=int,
        help="futures of each action asked about before one is taken (default: the run's)",
    )
    parser.add_argument(
        "--latents",
        choices=get_args(Latents),
        help="latents while playing: sampled, as in imagination, or their mode (default: the "
        "run's)",
    )
    parser.add_argument(
        "--max-episode-steps",
        type=int,
        help="agent steps that truncate an episode (default: the run's)",
    )
    parser.add_argument("--mode", choices=("both", "greedy", "sampled"), default="both")
    parser.add_argument("--device", help="auto, cpu, cuda or mps (default: the run's)")
    parser.add_argument(
        "--env", help="the run's environment, where it has no record: an id or module:make_env"
    )
    parser.add_argument(
        "--trust-env", action="store_true", help="import what the run names to make its environment"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(args)
    for name in ("episodes", "num_envs", "max_episode_steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    checkpoint, run_dir = find_checkpoint(Path(options.run))
    if run_dir is not None and not _is_last(checkpoint, run_dir):
        err.print(f"{checkpoint.path} is not the last checkpoint: eval.json is left as it is")
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
        agent: Who plays.
        run_dir: Where to write; None writes nothing.
        modes: ``greedy`` and ``sampled``, in the order wanted.
        as_json: Print one line of JSON instead of words.
        merge: Keep what ``eval.json`` has of other modes, if the agent had made as many steps
            and was measured alike.
        **options: Passed on to `drama.Agent.evaluate`.
    """
    results = {}
    for mode in modes:
        with err.status(f"evaluating ({mode})"):
            result = agent.evaluate(greedy=mode == "greedy", **options)
        results[mode] = result.to_dict()
        if not as_json:
            out.print(_summary(result))
    if as_json:  # before anything is written: a full disk must not cost the result
        print(json.dumps(results), flush=True)
    if run_dir is not None:
        kept = _measured_alike(run_dir / "eval.json", results) if merge else {}
        write_json(run_dir / "eval.json", dict(sorted((kept | results).items())))
        if not as_json:
            out.print(f"written to {run_dir / 'eval.json'}")


def _is_last(checkpoint: Checkpoint, run_dir: Path) -> bool:
    try:
        return CheckpointDir(run_dir).last().path.resolve() == checkpoint.path.resolve()
    except CheckpointError:  # whatever is the last one, nobody knows
        return False


def _measured_alike(path: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``eval.json`` has of the same agent, measured alike; damage is dropped."""
    try:
        tree = read_json(path)
    except CheckpointError:
        return {}

    def measured(mode: str, result: Mapping[str, Any]) -> tuple[Any, ...]:
        protocol = completed(mode, result["protocol"])
        return protocol["train_steps"], *(protocol[key] for key in _ALIKE)

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
            err.print(f"the {mode} evaluation in {path} was measured otherwise and is dropped")
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
