"""An untrusted run directory gives one error line or a run; never a traceback."""

from __future__ import annotations

import json
import os
import random
import traceback
from pathlib import Path
from typing import Any

import pytest
from tests.faults.count import Faults
from tests.faults.mutations import copy_run, mutate, rehash, seal
from tests.training.runs import tiny

from drama import Agent
from drama.errors import CheckpointError, ConfigError, DramaError

pytestmark = pytest.mark.faults

FILES = int(os.environ.get("DRAMA_HOSTILE_FILES", "120"))
"""Mutated run directories; the long campaign uses thousands."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("hostile") / "run"
    config = tiny({"training.keep_checkpoints": 1})
    Agent("drama/Catch-v0", config).learn(60, run_dir=run)
    return run


def outcome(run: Path) -> str | None:
    """Error line of loading a run and training a step; None if both succeed."""
    try:
        Agent.load(run).learn(1)
    except DramaError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename}: {error.strerror}" if error.filename else "a nameless\nOSError"
    except Exception:
        return traceback.format_exc()
    return None


@pytest.mark.parametrize("block", range(6))
def test_mutated_files_give_one_error_line(
    block: int, sound: Path, tmp_path: Path, faults: Faults
) -> None:
    before = {path for path in tmp_path.parent.iterdir() if path != tmp_path}
    for seed in range(block, FILES, 6):
        run = copy_run(sound, tmp_path / "run")
        what = mutate(run, random.Random(seed))
        answer = outcome(run)
        one_line = answer is None or (len(answer) < 1500 and "\n" not in answer)
        inside = {p.name for p in tmp_path.iterdir()} == {"run"}
        inside &= {path for path in tmp_path.parent.iterdir() if path != tmp_path} == before
        faults.check(one_line and inside, f"seed {seed}: {what}: {answer if inside else 'outside'}")


def test_a_segment_named_outside_of_the_run_is_refused(sound: Path, tmp_path: Path) -> None:
    run = copy_run(sound, tmp_path / "run")
    checkpoint = run / "checkpoints" / "000000060"
    (tmp_path / "bashrc").write_text("evil")
    manifest = rehash(run, checkpoint)
    segment = manifest["replay"][0]
    segment["file"] = "../../bashrc"
    seal(checkpoint, manifest)
    with pytest.raises(CheckpointError, match="'replay' is not what this version writes"):
        Agent.load(run).save(tmp_path / "deep" / "copy")
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize(
    "logs", [{"../precious": 0}, {"metrics": -1}, {"metrics": 1e3}, {"metrics": True}, [], None]
)
def test_logs_of_other_runs_are_not_truncated(logs: object, sound: Path, tmp_path: Path) -> None:
    run, precious = copy_run(sound, tmp_path / "run"), tmp_path / "precious.jsonl"
    precious.write_text("mine\n")
    checkpoint = run / "checkpoints" / "000000060"
    seal(checkpoint, {**rehash(run, checkpoint), "logs": logs})
    with pytest.raises(CheckpointError, match="'logs' is not what this version writes"):
        Agent.load(run)
    assert precious.read_text() == "mine\n"


def test_weights_that_are_nan_are_refused_by_name(sound: Path, tmp_path: Path) -> None:
    import safetensors.torch

    run = copy_run(sound, tmp_path / "run")
    checkpoint = run / "checkpoints" / "000000060"
    path = checkpoint / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["behaviour.actor.out.weight"][0, 0] = float("nan")
    safetensors.torch.save_file(tensors, str(path))
    seal(checkpoint, rehash(run, checkpoint))
    with pytest.raises(CheckpointError, match=r"behaviour\.actor\.out\.weight' is NaN or Inf"):
        Agent.load(run)


def test_a_damaged_replay_is_not_copied(sound: Path, tmp_path: Path) -> None:
    run = copy_run(sound, tmp_path / "run")
    segment = sorted((run / "replay").iterdir())[0]
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{segment.name} is damaged"):
        Agent.load(run).save(tmp_path / "copy")


def test_id_of_thousands_of_letters_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"env.id is no id: 'xxx.*\.\.\.$"):
        tiny({"env.id": "x" * 5000})


@pytest.mark.parametrize(
    "setting", ["replay.sampler", "behaviour.algorithm", "world_model.dynamics.name", "device"]
)
def test_id_of_thousands_of_letters_is_cut_in_the_message(setting: str) -> None:
    with pytest.raises(ConfigError, match=r"unknown [a-z ]+ 'xxx.*\.\.\.[;:]") as caught:
        Agent(config=tiny({setting: "x" * 5000}))
    assert len(str(caught.value)) < 300


def test_counts_of_unknown_updates_are_left_out(sound: Path, tmp_path: Path) -> None:
    run = copy_run(sound, tmp_path / "run")
    checkpoint = run / "checkpoints" / "000000060"
    tree = json.loads((checkpoint / "state.json").read_text())
    tree["updates"]["behaviour2"] = 1
    (checkpoint / "state.json").write_text(json.dumps(tree))
    seal(checkpoint, rehash(run, checkpoint))
    assert Agent.load(run).learn(1).num_timesteps == 61


def test_newer_format_suggests_an_update(sound: Path, tmp_path: Path) -> None:
    run = copy_run(sound, tmp_path / "run")
    path = run / "checkpoints" / "000000060" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="newer version of drama wrote it: update drama"):
        Agent.load(run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tree: tree["stream"].pop("needs_reset"), "lacks 'stream.needs_reset'"),
        (lambda tree: tree.pop("stream"), "lacks 'stream'"),
        (lambda tree: tree["optimisers"]["behaviour"].update(mean_lr=1e300), "'optimisers' is not"),
    ],
)
def test_findings_of_the_mutation_campaign_stay_fixed(
    change: Any, words: str, sound: Path, tmp_path: Path
) -> None:
    run = copy_run(sound, tmp_path / "run")
    checkpoint = run / "checkpoints" / "000000060"
    tree = json.loads((checkpoint / "state.json").read_text())
    change(tree)
    (checkpoint / "state.json").write_text(json.dumps(tree))
    seal(checkpoint, rehash(run, checkpoint))
    with pytest.raises(CheckpointError, match=words):
        Agent.load(run).learn(1)
