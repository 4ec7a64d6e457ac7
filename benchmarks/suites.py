"""Condenses suites to one JSON file each, for the pages of results."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import drama
from drama.config import Config
from drama.report.runs import Run, read_run, running_mean
from drama.settings import flat
from drama.suite import BUILT_IN, SuiteSpec, load_spec, read_suite
from drama.suite.differences import differences
from drama.suite.layout import Cell

WIDTH = 20
"""Training episodes in a running mean."""
WIDTHS = {"MinAtar/Freeway-v1": 5}
"""The same for games with few episodes per run: 19 of 2500 steps."""
POINTS = 120
"""Points of a condensed learning curve."""
MACHINE = ("device_name", "threads", "precision", "python", "torch")
"""Recorded fields of ``run.json``."""

Array = npt.NDArray[np.float64]


def condense(directory: Path, experiments: str = "experiments") -> dict[str, Any]:
    """Return the condensed results of a suite.

    Args:
        directory: Directory of the suite.
        experiments: Folder of its TOML file, unless it is a built-in suite.
    """
    suite = read_suite(directory)
    spec = suite.spec
    labels = {variant.name: variant.label or variant.name for variant in spec.variants}
    by_game = {game: steps for game in spec.games if (steps := spec.steps_of(game)) is not None}
    return {
        "suite": spec.name,
        "title": spec.title or spec.name,
        "command": command(spec, experiments),
        "variants": labels,
        "games": list(spec.games),
        **({"steps": by_game} if isinstance(spec.steps, Mapping) else {}),
        "settings": {c.variant.name: shared_settings(c.config, spec) for c in suite.cells},
        "runs": [one_run(cell) for cell in suite.cells],
    }


def command(spec: SuiteSpec, experiments: str) -> str:
    """Return the command that runs a suite: a built-in one or part of it, or that of its file.

    Raises:
        SystemExit: It has the name of a built-in suite, but other settings.
    """
    if spec.name not in BUILT_IN:
        return f"drama suite run {experiments}/{spec.name}.toml"
    whole = load_spec(spec.name)
    parts = ["drama", "suite", "run", spec.name]
    part = whole
    for option, field in (("--games", "games"), ("--seeds", "seeds"), ("--variants", "variants")):
        wanted, known = getattr(spec, field), getattr(whole, field)
        if field == "variants":
            wanted, known = ([v.name for v in each] for each in (wanted, known))
        if len(wanted) < len(known):
            part = part.narrowed(**{field: wanted})
            parts += [option, *map(str, wanted)]
    if isinstance(spec.steps, int) and spec.steps != whole.steps:
        part = part.narrowed(steps=spec.steps)
        parts += ["--steps", str(spec.steps)]
    if changed := differences(part, spec):
        sys.exit(f"{spec.name} is not the built-in suite of that name: {'; '.join(changed)}")
    return shlex.join(parts)


def shared_settings(config: Config, spec: SuiteSpec) -> dict[str, Any]:
    """Return the settings that a variant's runs share: without steps, if games have their own."""
    found = settings(config)
    if isinstance(spec.steps, Mapping):
        found.pop("steps", None)
    return found


def joined(here: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Merge the runs made here with the evaluated runs of an earlier file.

    Of two runs of a cell the one with more steps is kept, so that several machines may run seeds.

    Raises:
        SystemExit: The settings of a variant differ.
    """

    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        return run["variant"], run["env"], run["seed"]

    def standing(run: dict[str, Any]) -> tuple[bool, int]:
        return bool(run["evaluation"]), run["steps"]

    kept = {key(run): run for run in before["runs"] if run["evaluation"]}
    for run in here["runs"]:
        if key(run) in kept and standing(run) >= standing(kept[key(run)]):
            del kept[key(run)]
    for variant in {run["variant"] for run in kept.values()} & here["settings"].keys():
        if before["settings"][variant] != here["settings"][variant]:
            sys.exit(f"{here['suite']}: the runs of {variant!r} kept so far had other settings")
    steps = before.get("steps", {}) | here.get("steps", {})
    for game, count in before.get("steps", {}).items():
        if steps[game] != count:
            sys.exit(f"{here['suite']}: the runs of {game} kept so far had {count:,} steps")
    variants = here["variants"] | {
        name: label for name, label in before["variants"].items() if name not in here["variants"]
    }
    games = list(dict.fromkeys([*here["games"], *before["games"]]))
    runs = [run for run in here["runs"] if key(run) not in kept] + list(kept.values())
    order = list(variants)
    runs.sort(key=lambda r: (order.index(r["variant"]), games.index(r["env"]), r["seed"]))
    settings = before["settings"] | here["settings"]
    whole = {**here, "variants": variants, "games": games, "settings": settings, "runs": runs}
    return {**whole, "steps": steps} if steps else whole


def settings(config: Config) -> dict[str, Any]:
    """Return the settings that differ from the paper's, without game and seed."""
    given, default = (flat(json.loads(c.to_json())) for c in (config, Config()))
    identity = ("env.id", "seed")
    unused = () if config.behaviour.algorithm == "ppo" else ("behaviour.ppo.",)
    return {
        k: v
        for k, v in given.items()
        if v != default[k] and k not in identity and not k.startswith(unused)
    }


def so_far(cell: Cell) -> dict[str, Any]:
    """Return the evaluation of an interrupted run's last checkpoint, empty if there is none."""
    path = cell.path / "eval.json"
    if cell.status != "interrupted" or not path.is_file():
        return {}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {k: v for k, v in found.items() if v["protocol"]["train_steps"] == cell.step}


def one_run(cell: Cell) -> dict[str, Any]:
    """Return status, evaluation and thinned learning curve of a run."""
    run = read_run(cell)
    steps, returns = thinned(run.episodes.steps, run.episodes.returns, width_of(run.env_id))
    start = run.starts[-1] if run.starts else {}
    # Logs may continue after the last checkpoint; a run at its end has the suite's status.
    early = so_far(cell) if 0 < cell.step < run.steps_asked else {}
    return {
        "variant": run.variant,
        "env": run.env_id,
        "seed": run.seed,
        "status": run.status,
        "steps": cell.step if early else run.steps,
        "steps_asked": run.steps_asked,
        "seconds": round(run.seconds, 1),
        "cpu_seconds": None if run.cpu is None else round(float(run.cpu.seconds[-1]), 1),
        "starts": len(run.starts),
        "evaluation": {
            mode: {
                "mean": found["mean"],
                "returns": [episode["return"] for episode in found["episodes"]],
            }
            for mode, found in (run.evaluation or early).items()
        },
        "curve": {"step": steps, "return": returns} | cpu_hours(run, steps),
        "machine": {key: start.get(key) for key in MACHINE},
    }


def cpu_hours(run: Run, steps: Sequence[int]) -> dict[str, list[float]]:
    """Return the CPU hours until each of some steps as a column; none if they are not recorded."""
    if run.cpu is None:
        return {}
    hours = run.cpu.at(np.array(steps, float)) / 3600
    return {"cpu_hours": [round(float(hour), 6) for hour in hours]}


def asked(result: Mapping[str, Any], env: str) -> int:
    """Return the environment steps requested of the runs on a game."""
    return max((run["steps_asked"] for run in result["runs"] if run["env"] == env), default=0)


def width_of(env: str) -> int:
    """Return the number of training episodes in a running mean of a game."""
    return WIDTHS.get(env, WIDTH)


def thinned(steps: Array, returns: Array, width: int) -> tuple[list[int], list[float]]:
    """Return running means of ``width`` episodes at no more than :data:`POINTS` steps."""
    means = running_mean(returns, width)
    at = steps[width - 1 :]
    keep = np.unique(np.linspace(0, len(means) - 1, POINTS).astype(int)) if len(means) else []
    return [int(at[i]) for i in keep], [round(float(means[i]), 4) for i in keep]


def finished(result: dict[str, Any], env: str, variant: str) -> list[dict[str, Any]]:
    """Return the evaluated runs of a cell, finished or interrupted."""
    return [
        run
        for run in result["runs"]
        if run["env"] == env and run["variant"] == variant and "greedy" in run["evaluation"]
    ]


def made(runs: Sequence[dict[str, Any]]) -> str:
    """Return the steps of the evaluated checkpoints, and of the run if it is not finished."""
    steps = " and ".join(f"{step:,}" for step in sorted({run["steps"] for run in runs}))
    asked = runs[0]["steps_asked"]
    return steps if all(run["steps"] == asked for run in runs) else f"{steps} of {asked:,}"


def text(result: dict[str, Any]) -> str:
    """Return readable JSON, one run per line."""
    lines = ",\n".join("    " + json.dumps(run) for run in result["runs"])
    whole = json.dumps({**result, "runs": []}, indent=2)
    return whole.replace('"runs": []', f'"runs": [\n{lines}\n  ]') + "\n"


def update(
    suites: Sequence[Path], place: Path, *, keep: bool, experiments: str = "experiments"
) -> None:
    """Condense suite directories to ``suite-NAME.json`` in ``place``.

    With ``keep``, runs of the file that the suite lacks are kept.
    """
    for directory in suites:
        result = condense(directory, experiments) | {"drama": drama.__version__}
        path = place / f"suite-{result['suite']}.json"
        if keep and path.is_file():
            result = joined(result, json.loads(path.read_text(encoding="utf-8")))
        path.write_text(text(result), encoding="utf-8")
        print(f"{directory}: {path}")
