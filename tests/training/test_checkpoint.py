"""Damaged, incompatible and missing checkpoints: refused in one line, with no change on disk."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.faulty_envs import FourNumbers, ThreeActions, Walk, env_id
from tests.training.runs import assert_same_run, contents, snapshot, tiny

from drama import Agent
from drama.errors import CheckpointError, DramaError, RunDirError
from drama.training import trainer as trainer_module
from drama.training.checkpoint import CheckpointDir, open_checkpoint
from drama.training.optim import Optimiser

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 40 steps with checkpoints at 20 and 40."""
    path = tmp_path_factory.mktemp("sound") / "run"
    Agent(env_id(Walk), tiny()).learn(40, run_dir=path)
    return path


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


def last_of(run: Path) -> Path:
    return run / "checkpoints" / "000000040"


def flip(path: Path, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b"") and None,
    "truncated": lambda path: (
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]) and None
    ),
    "cut by one byte": lambda path: path.write_bytes(path.read_bytes()[:-1]) and None,
    "flipped at the start": lambda path: flip(path, 0.0),
    "flipped in the middle": lambda path: flip(path, 0.5),
    "flipped near the end": lambda path: flip(path, 0.99),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)) and None,
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x80" * 9) and None,
}
FILES = (
    "manifest.json",
    "config.json",
    "state.json",
    "model.safetensors",
    "optimiser.safetensors",
    "loop.safetensors",
    "segment",
    "last",
)


HARMLESS = {(file, "cut by one byte") for file in ("last", "manifest.json")}
"""Only the line end is missing."""


@pytest.mark.parametrize(
    ("file", "damage"), [(f, d) for f in FILES for d in DAMAGES if (f, d) not in HARMLESS]
)
def test_damage_is_refused_and_nothing_else_changes(file: str, damage: str, run: Path) -> None:
    path = {
        "segment": max((run / "replay").iterdir()),
        "last": run / "checkpoints" / "last",
    }.get(file, last_of(run) / file)
    DAMAGES[damage](path)
    before = contents(run)
    with pytest.raises(DramaError) as caught:
        Agent.load(run).learn(5)
    message = str(caught.value)
    assert "\n" not in message
    assert str(run) in message
    assert contents(run) == before


def test_any_flipped_bit_of_the_manifest_is_detected(run: Path) -> None:
    path = last_of(run) / "manifest.json"
    text = path.read_bytes()
    unnoticed: list[str] = []
    for i in range(0, len(text), 3):
        broken = bytearray(text)
        broken[i] ^= 1
        path.write_bytes(bytes(broken))
        try:
            checkpoint = CheckpointDir(run).last()
            agent = Agent.load(run)
            # Files that only training reads.
            assert checkpoint.segments == open_checkpoint(last_of(run)).segments
            unnoticed.append(text[max(0, i - 20) : i + 10].decode())
            del agent
        except DramaError:
            continue
    assert not unnoticed


def test_failed_resume_fails_again_and_changes_nothing(run: Path) -> None:
    flip(max((run / "replay").iterdir()), 0.5)
    before = contents(run)
    agent = Agent.load(run)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="damaged"):
            agent.learn(20)
    assert agent.num_timesteps == 40
    assert contents(run) == before


def test_damaged_older_checkpoint_does_not_affect_the_newest(sound: Path, run: Path) -> None:
    (run / "checkpoints" / "000000020" / "manifest.json").write_text("{}")
    Agent.load(run).learn(20)
    assert CheckpointDir(run).last().step == 60


def test_config_in_the_run_directory_is_only_a_copy(run: Path) -> None:
    (run / "config.json").write_text("not JSON")
    assert Agent.load(run).num_timesteps == 40


@pytest.mark.parametrize(
    ("kind", "words"), [(ThreeActions, ("2 actions", "3")), (FourNumbers, ("vector 3", "vector 4"))]
)
def test_another_space_is_refused(kind: type[Walk], words: tuple[str, str], run: Path) -> None:
    before = contents(run)
    with pytest.raises(CheckpointError, match=f"(?s){words[0]}.*{words[1]}") as caught:
        Agent.load(run, env=env_id(kind))
    assert "was made for" in str(caught.value)
    assert contents(run) == before


def test_other_sizes_than_the_weights_are_refused(run: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        Agent.load(run, config=tiny({"env.id": env_id(Walk), "world_model.head_units": 8}))


@pytest.mark.parametrize("capacity", [30, 400])
def test_resume_with_another_replay_size_is_refused(
    capacity: int, run: Path, tmp_path: Path
) -> None:
    before = contents(run)
    config = tiny({"env.id": env_id(Walk), "replay.capacity": capacity})
    with pytest.raises(CheckpointError, match=f"capacity is 200 there, not {capacity}"):
        Agent.load(run, config=config)
    assert contents(run) == before
    Agent.load(run).save(tmp_path / "plays", replay=False)
    assert Agent.load(tmp_path / "plays", config=config).learn(5).num_timesteps == 45


def test_changed_settings_of_a_resumed_run_are_reported(run: Path) -> None:
    notes: list[Any] = []
    changes = {"env.id": env_id(Walk), "behaviour.entropy": 0.5, "training.log_every": 5}
    agent = Agent.load(run, config=tiny(changes))
    agent.learn(5, listeners=[lambda event, said: notes.append(said) if event == "note" else None])
    (told,) = [note for note in notes if "other settings" in note]
    before = tiny().behaviour.entropy
    assert told.endswith(f"than before: behaviour.entropy=0.5 (the run has {before})")
    assert Agent.load(run).config.behaviour.entropy == 0.5


def test_missing_last_file_error_names_the_repair(tmp_path: Path) -> None:
    """A kill between the first checkpoint and ``last`` costs one command."""
    run = tmp_path / "run"
    Agent("CartPole-v1", tiny({"training.keep_checkpoints": 1})).learn(30, run_dir=run)
    (run / "checkpoints" / "last").unlink()
    with pytest.raises(CheckpointError, match="1 complete checkpoint cannot be used") as caught:
        Agent.load(run)
    subprocess.run(str(caught.value).partition("repair it with: ")[2], shell=True, check=True)
    assert Agent.load(run).num_timesteps == 30


@pytest.mark.parametrize("content", ["nothing", "a file", "an empty directory", "no checkpoint"])
def test_directory_that_is_not_a_run_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "run"
    if content == "a file":
        path.write_text("x")
    elif content != "nothing":
        path.mkdir()
    if content == "no checkpoint":
        (path / "config.json").write_text(tiny().to_json())
    with pytest.raises(CheckpointError) as caught:
        Agent.load(path)
    assert str(path) in str(caught.value)


def test_a_newer_format_is_refused(run: Path) -> None:
    path = last_of(run) / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="99"):
        Agent.load(run)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    config = tiny({"training.checkpoint_every": 5, "training.keep_checkpoints": 3})
    Agent(env_id(Walk), config).learn(32, run_dir=tmp_path / "run")
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["000000025", "000000030", "000000032", "last"]
    assert (tmp_path / "run" / "checkpoints" / "last").read_text() == "000000032\n"
    for name in names[:3]:
        assert Agent.load(tmp_path / "run" / "checkpoints" / name).num_timesteps == int(name)


def test_segments_are_deleted_with_their_checkpoints(tmp_path: Path) -> None:
    config = tiny({"training.checkpoint_every": 10, "replay.capacity": 16})
    Agent(env_id(Walk), config).learn(60, run_dir=tmp_path / "run")
    held = {p.name for p in (tmp_path / "run" / "replay").iterdir()}
    checkpoints = CheckpointDir(tmp_path / "run").all()
    assert held == {s["file"] for p in checkpoints for s in open_checkpoint(p).segments}
    assert len(held) <= 5
    assert snapshot(tmp_path / "run")["replay/obs"].shape == (16, 3)


def test_no_pickle_anywhere(sound: Path) -> None:
    kinds = {p.suffix for p in sound.rglob("*") if p.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ""}
    for path in sound.rglob("*.safetensors"):
        assert path.read_bytes()[8:9] == b"{"  # a length, then a JSON header


def test_a_run_directory_is_never_overwritten(sound: Path, run: Path) -> None:
    before = contents(run)
    with pytest.raises(RunDirError, match=r"exists already.*--resume"):
        Agent(env_id(Walk), tiny()).learn(5, run_dir=run)
    agent = Agent(env_id(Walk), tiny())
    with pytest.raises(RunDirError, match="exists already"):
        agent.save(run)
    assert contents(run) == before


def test_copied_run_directory_resumes_like_the_original(run: Path, sound: Path) -> None:
    twin = Path(shutil.copytree(sound, run.with_name("twin")))
    for path in (run, twin):
        Agent.load(path).learn(20)
    assert_same_run(run, twin)


def test_checkpoint_outside_its_run_can_be_evaluated(run: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(last_of(run), tmp_path / "deep" / "down" / "alone"))
    agent = Agent.load(alone)
    assert agent.num_timesteps == 40
    assert agent.evaluate(2).episodes
    # It is not a run: there is no run directory to write to.
    assert agent.run_dir is None or alone in (agent.run_dir, *agent.run_dir.parents)
    with pytest.raises(DramaError):
        agent.learn(5)
    assert sorted(p.name for p in (tmp_path / "deep").rglob("*") if p.is_dir()) == ["alone", "down"]


def test_checkpoint_of_another_version_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Optimiser.state

    def before(optimiser: Optimiser) -> Any:
        tensors, scalars = original(optimiser)
        return tensors, {"updates": scalars["updates"]}

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Optimiser, "state", before)
        Agent("drama/Catch-v0", tiny()).learn(30, run_dir=run)
    agent = Agent.load(run)
    with pytest.raises(
        CheckpointError,
        match=r"lacks 'optimisers\.world_model\.mean_lr': another version of drama wrote it",
    ):
        agent.learn(10)
    assert agent.evaluate(episodes=2).mean <= 1.0


def test_checkpoint_is_written_after_the_time_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 7))  # every clock reading advances 7 seconds
    ticking = SimpleNamespace(monotonic=lambda: float(next(clock)))
    monkeypatch.setattr(trainer_module, "time", ticking)
    saved: list[str] = []

    def listen(event: str, payload: Any) -> None:
        if event == "checkpoint":
            saved.append(payload.name)

    changes = {"training.checkpoint_every": 1000, "training.checkpoint_minutes": 1.0}
    Agent(env_id(Walk), tiny(changes)).learn(30, run_dir=tmp_path / "run", listeners=[listen])
    steps = [int(name) for name in saved]
    assert len(steps) > 2
    assert all(7 <= b - a <= 9 for a, b in itertools.pairwise(steps[:-1]))
    off = tiny({**changes, "training.checkpoint_minutes": 0.0})
    saved.clear()
    Agent(env_id(Walk), off).learn(30, run_dir=tmp_path / "off", listeners=[listen])
    assert saved == ["000000030"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_logs_are_synced_before_a_checkpoint_records_their_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        sync(descriptor)

    def rename(source: Any, target: Any) -> None:
        done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    Agent(env_id(Walk), tiny()).learn(20, run_dir=tmp_path / "run")
    published = done.index("000000020")
    assert {"metrics.jsonl", "episodes.jsonl"} <= set(done[:published])
