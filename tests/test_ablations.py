"""Each row of the paper's ablations is one option value, and trains."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.training.runs import TINY, json_rows, options

from drama import Agent, presets
from drama.behaviour import PPO, ActorCritic
from drama.cli import main
from drama.config import Config
from drama.training.checkpoint import CheckpointDir

Capture = pytest.CaptureFixture[str]

SMALL = {
    **TINY,
    "steps": 32,
    "env.id": "drama/Catch-v0",
    "env.image_size": 16,
    "world_model.dynamics.num_heads": 4,
    "evaluation.episodes": 0,
    "training.log_every": 4,
    "training.threads": 1,
}
"""Small sizes for runs of a second; no ablation changes one of them."""

ROWS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "the paper's": ("xs", [], {}),
    "size S": ("s", [], {"preset": "s", "world_model.dynamics.d_state": 32}),
    **{
        f"sampler {name}": ("xs", ["--sampler", name], {"replay.sampler": name})
        for name in ("uniform", "dfs", "dfs-trained")
    },
    **{
        f"dynamics {name}": ("xs", ["--dynamics", name], {"world_model.dynamics.name": name})
        for name in ("mamba2", "mamba1", "transformer", "gru")
    },
    **{
        f"behaviour {name}": ("xs", ["--behaviour", name], {"behaviour.algorithm": name})
        for name in ("actor-critic", "ppo")
    },
    "all at once": (
        "s",
        ["--sampler", "uniform", "--dynamics", "mamba1", "--behaviour", "ppo"],
        {
            "preset": "s",
            "world_model.dynamics.d_state": 32,
            "replay.sampler": "uniform",
            "world_model.dynamics.name": "mamba1",
            "behaviour.algorithm": "ppo",
        },
    ),
}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(preset: str, *args: str) -> int:
    return main(["train", preset, "--run-dir", "run", *options(SMALL), *args])


@pytest.mark.parametrize(("preset", "args", "differs"), ROWS.values(), ids=ROWS)
def test_each_ablation_trains_and_changes_one_setting(
    preset: str, args: list[str], differs: dict[str, Any], capfd: Capture
) -> None:
    assert train(preset, *args) == 0, capfd.readouterr().err
    config = Config.from_json(Path("run/config.json").read_text())
    paper, found = flat(dataclasses.asdict(presets.xs())), flat(dataclasses.asdict(config))
    expected = {k: v for k, v in {**SMALL, **differs}.items() if paper[k] != v}
    assert {k: v for k, v in found.items() if paper[k] != v} == expected

    rows = json_rows(Path("run/metrics.jsonl"))
    assert rows[-1]["step"] == 32
    assert rows[-1]["updates"] == 4
    assert rows[-1]["behaviour/entropy"] > 0
    agent = Agent.load("run")
    wanted = PPO if config.behaviour.algorithm == "ppo" else ActorCritic
    assert type(agent.behaviour) is wanted
    assert ("behaviour/approx_kl" in rows[-1]) == (wanted is PPO)
    state = CheckpointDir(Path("run")).last().json("state")
    ppo = config.behaviour.ppo
    steps = ppo.epochs * ppo.minibatches if wanted is PPO else 1
    assert state["optimisers"]["behaviour"]["updates"] == 4 * steps


def test_help_lists_all_ablations(capfd: Capture) -> None:
    assert main(["train", "--help"]) == 0
    said = capfd.readouterr().out
    words = " ".join(said.split())
    assert "--sampler NAME replay sampler: uniform, dfs, dfs-trained" in words
    assert "--behaviour NAME policy learning: actor-critic, ppo" in words


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            ["--sampler", "dsf"],
            ["unknown sampler 'dsf'; did you mean dfs? (there are uniform, dfs, dfs-trained)"],
        ),
        (["--behaviour", "a2c"], ["unknown behaviour 'a2c'; there are actor-critic, ppo"]),
        (["--sampler", ""], ["unknown sampler ''"]),
        (["--behaviour"], ["--behaviour"]),
        (
            ["--sampler", "uniform", "--replay.sampler", "dfs-trained"],
            ["--sampler uniform contradicts --replay.sampler dfs-trained"],
        ),
        (
            ["--behaviour", "ppo", "--behaviour.algorithm", "actor-critic"],
            ["--behaviour ppo contradicts --behaviour.algorithm actor-critic"],
        ),
        (
            ["--env", "drama/Catch-v0", "--env.id", "drama/Recall-v0"],
            ["--env drama/Catch-v0 contradicts --env.id drama/Recall-v0"],
        ),
        (
            ["--behaviour", "ppo", "--behaviour.ppo.minibatches", "99"],
            ["recompute_advantages needs minibatches 1", "got 99"],
        ),
        (
            [
                *("--behaviour", "ppo", "--behaviour.ppo.minibatches", "99"),
                "--behaviour.ppo.no-recompute-advantages",
            ],
            ["minibatches", "= 24"],
        ),
    ],
)
def test_user_error_is_reported_in_one_line(
    args: list[str], words: list[str], capfd: Capture
) -> None:
    assert train("xs", *args) == 2
    error = capfd.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert all(word in error for word in words), error
    assert not Path("run").exists()


def test_resume_with_another_behaviour_is_refused(capfd: Capture) -> None:
    assert train("quick", "--behaviour", "ppo") == 0
    again = ["train", "--resume", "run", "--steps", "34", "--behaviour"]
    assert main([*again, "actor-critic"]) == 2
    error = capfd.readouterr().err
    assert "behaviour.algorithm=actor-critic (the run has ppo)" in error
    assert main([*again, "ppo"]) == 0
    assert main(["eval", "run", "--episodes", "2"]) == 0
