"""How fast do open-loop rollouts diverge? ``python -m lab.rollout_error NAME=SUITE ...``.

Each finished run of a suite plays episodes that it was not trained on. Windows are cut from them;
the world model reads the first ``--context`` frames of a window with the posterior, and dreams the
rest from the real actions alone. What it dreams is compared with what happened, by horizon:

- **frames**: squared error summed over pixels and channels, values in [0, 1]. Beside it the error
  of showing the last frame read all along (the baseline), and that of a reconstruction from the
  frame itself (the least that this autoencoder can do).
- **rewards**: of the steps with a reward, the share at which the dream predicts it to within half
  of its size; of the steps without one, the share at which it predicts more than half of the
  smallest.
- **ends**: of the steps that terminated, the share given more than 1/2; of the others, likewise.

Writes ``lab/assets/rollout_error-NAME.json`` and the block of that name in ``lab/log.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from benchmarks import measure
from torch import Tensor

import drama
from drama.envs.source import env_source
from drama.report.drawing import looks
from drama.suite import read_suite
from lab import LAB, LOG

SEED = 20_000
"""Of the held-out episodes; differs from those of training and evaluation."""


class Windows(NamedTuple):
    """``W`` windows of ``T`` transitions, each within one episode."""

    obs: Tensor
    """``(W, T, ...)``, as the environment gives them."""
    action: Tensor
    """``(W, T)`` int64."""
    reward: Tensor
    """``(W, T)``"""
    terminated: Tensor
    """``(W, T)`` bool."""


def play(agent: drama.Agent, *, length: int, windows: int, episodes: int) -> Windows:
    """Play held-out episodes, actions sampled from the policy, and cut windows from them.

    Args:
        agent: Plays, and is the one whose environment it is.
        length: Transitions of a window, T.
        windows: How many to keep at most, chosen evenly.
        episodes: Episodes played.
    """
    config = agent.config.env
    env = env_source(None, config).copy(SEED, life_loss=False)
    found: list[tuple[Any, ...]] = []
    for _ in range(episodes):
        obs, _ = env.reset()
        state, over = None, False
        rows: list[tuple[Any, ...]] = []
        while not over:
            action, state = agent.predict(obs, state, deterministic=False)
            following, reward, terminated, truncated, _ = env.step(action)
            rows.append((obs, int(action), float(reward), bool(terminated)))
            obs, over = following, terminated or truncated
        starts = range(len(rows) - length + 1)
        found += [tuple(zip(*rows[s : s + length], strict=True)) for s in starts]
    env.close()
    if not found:
        raise SystemExit(f"no episode of {episodes} lasts {length} steps: a shorter --horizon")
    chosen = np.unique(np.linspace(0, len(found) - 1, windows).astype(int))
    obs, action, reward, end = zip(*(found[i] for i in chosen), strict=True)
    return Windows(
        torch.from_numpy(np.stack([np.stack(each) for each in obs])),
        torch.tensor(action),
        torch.tensor(reward),
        torch.tensor(end),
    )


@torch.no_grad()
def compare(agent: drama.Agent, seen: Windows, context: int) -> dict[str, list[float] | float]:
    """Return rollout errors over all windows, by horizon."""
    model, generator = agent.world_model.eval(), torch.Generator().manual_seed(SEED)
    read = seen.obs[:, :context]
    predicted = agent.player.imagination.open_loop(read, seen.action, generator)
    curves: dict[str, list[float]] = {"dream": [], "last_frame": [], "reconstruction": []}
    for t in range(context, seen.action.shape[1]):
        real = seen.obs[:, t]
        posterior = model.sample(model.posterior(real), generator)
        curves["dream"].append(error(predicted.obs[:, t - context], real))
        curves["last_frame"].append(error(seen.obs[:, context - 1], real))
        curves["reconstruction"].append(error(model.decode(posterior), real))
    return {**curves, **outcomes(predicted.reward, predicted.termination > 0.5, seen, context)}


def error(predicted: Tensor, real: Tensor) -> float:
    """Squared error of uint8 frames summed over each, values in [0, 1], mean over windows."""
    apart = (predicted.float() - real.float()) / 255
    return round(float(apart.square().flatten(1).sum(1).mean()), 4)


def outcomes(
    reward: Tensor, end: Tensor, seen: Windows, context: int
) -> dict[str, float | list[float]]:
    """Return recall and false-positive rate of rewards and terminations; -1 where there is none."""
    real, over = seen.reward[:, context:], seen.terminated[:, context:]
    paid = real != 0
    smallest = float(real[paid].abs().min()) if bool(paid.any()) else 1.0
    right = (reward - real).abs() <= 0.5 * real.abs()
    return {
        "reward_found": share(right[paid]),
        "reward_made_up": share(reward[~paid].abs() > 0.5 * smallest),
        "end_found": share(end[over]),
        "end_made_up": share(end[~over]),
        "rewards": int(paid.sum()),
        "ends": int(over.sum()),
    }


def share(hits: Tensor) -> float:
    """Share of hits, -1 where there is nothing to hit."""
    return round(float(hits.float().mean()), 4) if hits.numel() else -1.0


def condense(name: str, directory: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure all finished runs of a suite."""
    suite = read_suite(directory)
    games = [game for game in suite.spec.games if options.games is None or game in options.games]
    if not games:
        raise SystemExit(f"{directory} has none of {', '.join(options.games)}")
    runs = []
    for cell in suite.cells:
        if cell.status != "finished" or cell.game not in games:
            continue
        agent = drama.Agent.load(cell.path, device="cpu")
        length = options.context + options.horizon
        seen = play(agent, length=length, windows=options.windows, episodes=options.episodes)
        runs.append(
            {
                "variant": cell.variant.name,
                "env": cell.game,
                "seed": cell.seed,
                "windows": len(seen.action),
                **compare(agent, seen, options.context),
            }
        )
        print(f"{cell.variant.name} {cell.game} seed {cell.seed}: {runs[-1]['dream']}", flush=True)
    return {
        "name": name,
        "suite": suite.spec.name,
        "command": f"python -m lab.rollout_error {name}=suites/{suite.spec.name} "
        f"--context {options.context} --horizon {options.horizon} --windows {options.windows} "
        f"--episodes {options.episodes}" + (f" --games {' '.join(games)}" if options.games else ""),
        "context": options.context,
        "horizon": options.horizon,
        "variants": {v.name: v.label or v.name for v in suite.spec.variants},
        "games": games,
        "machine": measure.machine(torch.get_num_threads()),
        "runs": runs,
    }


def markdown(result: dict[str, Any], picture: str) -> str:
    """The block of one suite."""
    header = (
        "",
        "seeds",
        "rollout MSE over copying the last frame",
        "rollout MSE over reconstruction",
        "reward recall",
        "false-positive rate",
        "termination recall",
        "false-positive rate",
    )
    parts = [f"`{result['command']}`", f"![Rollout error against the horizon]({picture})"]
    for env in result["games"]:
        rows = []
        for variant, label in result["variants"].items():
            runs = [r for r in result["runs"] if r["env"] == env and r["variant"] == variant]
            if not runs:
                continue
            dream, last, least = (
                float(np.mean([r[key] for r in runs]))
                for key in ("dream", "last_frame", "reconstruction")
            )
            shares = []
            for key in ("reward_found", "reward_made_up", "end_found", "end_made_up"):
                known = [r[key] for r in runs if r[key] >= 0]
                shares.append(f"{100 * np.mean(known):.1f} %" if known else "none came")
            ratios = (f"**{dream / last:.2f}**", f"{dream / max(least, 1e-9):.1f}")
            rows.append((label, str(len(runs)), *ratios, *shares))
        parts.append(f"**{env}**\n\n{measure.table(header, rows)}")
    return "\n\n".join(parts)


def draw(result: dict[str, Any], path: Path) -> None:
    """Error against horizon, one panel for each game."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    games, style = result["games"], looks(list(result["variants"].values()))
    figure, panels = plt.subplots(
        1, len(games), figsize=(4.6 * len(games) + 1.4, 3.2), layout="constrained", squeeze=False
    )
    horizon = np.arange(1, result["horizon"] + 1)
    for axes, env in zip(panels[0], games, strict=True):
        for variant, label in result["variants"].items():
            runs = [r for r in result["runs"] if r["env"] == env and r["variant"] == variant]
            if not runs:
                continue
            values = np.array([r["dream"] for r in runs])
            look = style[label]
            axes.plot(horizon, values.mean(0), color=look.colour, ls=look.dashes, label=label)
            axes.fill_between(
                horizon, values.min(0), values.max(0), color=look.colour, alpha=0.15, lw=0
            )
        every = [r for r in result["runs"] if r["env"] == env]
        for key, label in (("last_frame", "last frame"), ("reconstruction", "reconstruction")):
            if not every:
                break
            mean = np.mean([r[key] for r in every], axis=0)
            dots = ":" if key == "last_frame" else "-"
            axes.plot(horizon, mean, color="grey", ls=dots, lw=1, label=label)
        axes.set(xlabel="steps imagined", title=env, yscale="log")
        axes.title.set_fontsize(10)
    panels[0][0].set_ylabel("squared error of a frame", fontsize=9)
    shown: dict[str, Any] = {}
    for axes in panels[0]:  # a game without a finished run has none
        shown |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(
        shown.values(), shown.keys(), loc="outside right center", frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="+", metavar="NAME=SUITE", help="directories of suites")
    parser.add_argument("--context", type=int, default=4, help="frames read")
    parser.add_argument("--horizon", type=int, default=16, help="steps imagined")
    parser.add_argument("--windows", type=int, default=500)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--games", nargs="+", help="these of the suite's games; all if not given")
    parser.add_argument("--lab", type=Path, default=LAB)
    options = parser.parse_args(argv)
    place = options.lab / "assets"
    place.mkdir(parents=True, exist_ok=True)
    for given in options.suites:
        name, _, directory = given.partition("=")
        result = condense(name, Path(directory), options)
        path = place / f"rollout_error-{name}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw(result, path.with_suffix(".png"))
        block = markdown(result, f"assets/{path.stem}.png")
        measure.replace_block(options.lab / LOG, f"rollout_error-{name}", block)


if __name__ == "__main__":
    main()
