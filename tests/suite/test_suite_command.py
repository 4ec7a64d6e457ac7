"""``drama suite`` at the command line: errors, dry runs, and killed processes."""

# One file: the tests share the small suite and the way to run the command.

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from tests.suite.suites import WALK, edit_json, run_suite, tiny_spec, tiny_variant
from tests.training.faulty_envs import Crash, Endless, env_id
from tests.training.runs import TINY, contents, json_rows

import drama
from drama.cli import main
from drama.errors import ConfigError
from drama.evaluation import published
from drama.suite import SuiteSpec, load_spec, local, read_suite
from drama.suite.layout import begin_suite
from drama.suite.local import SuiteLock
from drama.training.checkpoint import CheckpointDir

Capture = pytest.CaptureFixture[str]
PATIENCE = 300.0
"""Timeout in seconds; these waits take a few seconds on an idle machine."""
ROOT = Path(__file__).parents[2]
SMALL = [
    word
    for key, value in TINY.items()
    if key != "steps"
    for word in ("--set", f"{key}={json.dumps(value)}")
]


@pytest.fixture(autouse=True)
def _in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def complaint(capfd: Capture, code: int) -> str:
    captured = capfd.readouterr()
    assert code == 2, captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("drama: error: ")
    return lines[0]


CPU = ["--set", "device=cpu"]
TYPOS: dict[str, tuple[list[str], list[str]]] = {
    "action": (["rnu"], ["'rnu'", "suite run"]),
    "suite": (["run", "atari10k"], ["'atari10k'", "atari100k"]),
    "no suite": (["run"], ["SPEC"]),
    "file": (["run", "nowhere.toml"], ["nowhere.toml"]),
    "option": (["run", "toy", "--gmaes", "x"], ["--gmaes"]),
    "game": (["run", "toy", "--games", "Cacth"], ["'Cacth'", "Catch"]),
    "seed": (["run", "toy", "--seeds", "9"], ["no seed 9"]),
    "seed word": (["run", "toy", "--seeds", "one"], ["--seeds", "'one'"]),
    "seed range": (["run", "toy", "--seeds", "0-x"], ["--seeds", "'0-x'"]),
    "empty seed range": (["run", "toy", "--seeds", "2-0"], ["--seeds 2-0", "empty"]),
    "huge seed range": (["run", "toy", "--seeds", "0-99999999999"], ["more than 10,000 seeds"]),
    "many seed ranges": (["run", "toy", "--seeds", *["0-5999"] * 2], ["more than 10,000 seeds"]),
    "nested setting": (["run", "toy", "--set", "x=" + "[" * 10**5], ["--set x", "deeply"]),
    "long name": (["run", "x" * 300], ["too long"]),
    "long directory": (["run", "toy", "--dir", "x" * 300, *CPU], ["too long"]),
    "long status": (["status", "x" * 300], ["too long"]),
    "variant": (["run", "toy", "--variants", "unform"], ["'unform'", "uniform"]),
    "steps": (["run", "toy", "--steps", "0"], ["steps", "positive"]),
    "warm-up": (["run", "toy", "--set", "training.warmup_steps=3"], ["warmup_steps"]),
    "setting": (["run", "toy", "--set", "replay.smapler=dfs"], ["replay.sampler"]),
    "empty setting": (["run", "toy", "--set", "replay.capacity={}"], ["replay.capacity"]),
    "empty section": (["run", "toy", "--set", "replay={}"], ["replay"]),
    "setting without value": (["run", "toy", "--set", "replay.sampler"], ["section.field=value"]),
    "jobs": (["run", "toy", "--jobs", "0", "--set", "device=cpu"], ["--jobs"]),
    "no GPU": (["run", "toy", "--per-gpu", "2", "--set", "device=cpu"], ["--per-gpu", "CUDA"]),
    "device": (["run", "toy", "--set", "device=tpu"], ["'tpu'"]),
    "directory": (["run", "toy", "--dir", ""], ["--dir"]),
    "seconds": (["run", "toy", "--dry-run", "--seconds", "0"], ["--seconds", "positive"]),
    "json": (["run", "toy", "--json"], ["--json", "--dry-run"]),
    "cpus": (["run", "toy", "--cpus", "2"], ["--cpus", "--ray"]),
    "status": (["status", "nowhere"], ["nowhere does not exist"]),
    "a directory": (["run", "."], ["no suite.json"]),
    "show": (["show", "tyo"], ["'tyo'", "toy"]),
}


@pytest.mark.parametrize("case", TYPOS)
def test_user_error_is_reported_in_one_line(case: str, capfd: Capture) -> None:
    args, words = TYPOS[case]
    line = complaint(capfd, main(["suite", *args]))
    for word in words:
        assert word in line
    assert not list(Path().iterdir()), "something was left behind"


def test_unknown_game_in_a_file_is_refused_before_any_run(capfd: Capture) -> None:
    Path("mine.json").write_text(tiny_spec(games=("drama/Cacth-v0",)).to_json())
    assert "drama/Catch-v0" in complaint(capfd, main(["suite", "run", "mine.json"]))
    assert [path.name for path in Path().iterdir()] == ["mine.json"]


def test_games_of_a_missing_package_can_be_left_out(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "minatar", None)  # refuses the import
    for known in [known for known in gymnasium.registry if known.startswith("MinAtar/")]:
        monkeypatch.delitem(gymnasium.registry, known)
    spec = tiny_spec(
        games=("MinAtar/Breakout-v1", "CartPole-v1", "MinAtar/Freeway-v1", "drama/Catch-v0")
    )
    (tmp_path / "mine.toml").write_text(spec.to_toml())
    args = ["suite", "run", str(tmp_path / "mine.toml"), *CPU]
    advice = (
        "'MinAtar/Breakout-v1' needs .*pip install minatar.*: --games CartPole-v1 drama/Catch-v0$"
    )
    assert re.search(advice, complaint(capfd, main(args)))
    assert re.search(advice, complaint(capfd, main([*args, "--dry-run"])))
    assert not list(Path().iterdir())
    # A suite that was begun where the package is installed.
    begin_suite(Path("begun"), spec)
    assert re.search(advice, complaint(capfd, main(["suite", "run", "begun"])))
    assert [path.name for path in Path("begun").iterdir()] == ["suite.json"]
    line = complaint(capfd, main(["suite", "run", "begun", "--games", "MinAtar/Freeway-v1"]))
    assert line.endswith("pip install minatar (GPL-3.0)")


def test_help_describes_the_commands(capfd: Capture) -> None:
    assert main(["suite"]) == 2
    assert main(["suite", "--help"]) == 0
    assert "atari100k-ablations" in capfd.readouterr().out
    for action in ("run", "status", "show"):
        with pytest.raises(SystemExit) as stop:
            main(["suite", action, "--help"])
        assert stop.value.code == 0
        assert f"drama suite {action}" in capfd.readouterr().out


def test_show_prints_a_runnable_file(capfd: Capture) -> None:
    assert main(["suite", "show", "atari100k-ablations"]) == 0
    text = capfd.readouterr().out
    assert SuiteSpec.from_toml(text) == load_spec("atari100k-ablations")


ODD = tiny_spec(variants=(dataclasses.replace(tiny_variant(), label=":smile: [b]a:x: \u2603"),))


def test_show_keeps_labels_unchanged(capfd: Capture, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(ODD.to_toml(), encoding="utf-8")
    assert main(["suite", "show", str(tmp_path / "mine.toml")]) == 0
    assert SuiteSpec.from_toml(capfd.readouterr().out) == ODD


def test_unencodable_characters_are_escaped(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(ODD.to_toml(), encoding="utf-8")
    command = [sys.executable, "-m", "drama", "suite", "show", str(tmp_path / "mine.toml")]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert SuiteSpec.from_toml(done.stdout.decode()) == ODD


def test_suite_runs_in_a_non_utf8_directory(tmp_path: Path, capfd: Capture) -> None:
    """The commands printed at the end can be pasted."""
    place = Path(os.fsdecode(os.fsencode(tmp_path) + b"/my \xff"))
    try:
        place.mkdir()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (tmp_path / "mine.toml").write_text(tiny_spec(["drama/Catch-v0"]).to_toml())
    assert main(["suite", "run", str(tmp_path / "mine.toml"), "--dir", str(place)]) == 0
    told = capfd.readouterr().err.splitlines()[-1]
    assert told.startswith(f"tables and figures: drama report '{tmp_path}/my ")


def test_status_lists_the_runs(tmp_path: Path, capfd: Capture) -> None:
    run_suite(tmp_path / "suite", tiny_spec())
    capfd.readouterr()
    assert main(["suite", "status", str(tmp_path / "suite")]) == 0
    first, last = capfd.readouterr().out.splitlines()
    assert first.startswith("finished    one/tests-Walk-v0/seed-0: mean return ")
    assert last.endswith("suite: 1 finished")
    edit_json(tmp_path / "suite/one/tests-Walk-v0/seed-0/config.json", lambda t: t.update(seed=1))
    assert main(["suite", "status", str(tmp_path / "suite")]) == 0
    assert "foreign     one/tests-Walk-v0/seed-0: " in capfd.readouterr().out
    assert main(["suite", "show", str(tmp_path / "suite")]) == 0
    assert SuiteSpec.from_toml(capfd.readouterr().out) == tiny_spec()


def test_finished_suite_ends_at_once(tmp_path: Path, capfd: Capture) -> None:
    """By its directory, and by its name and options."""
    variant = (
        load_spec("toy")
        .variants[0]
        .with_overrides({key: value for key, value in TINY.items() if key != "steps"})
    )
    spec = load_spec("toy").narrowed(games=["Catch"], seeds=[1], variants=["dfs"], steps=30)
    spec = spec.narrowed(overrides=variant.overrides)
    run_suite(tmp_path / "suite", spec)
    before = contents(tmp_path / "suite")
    directory = str(tmp_path / "suite")
    assert main(["suite", "run", directory]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"suite: {directory}: 1 finished"
    args = ["--games", "Catch", "--seeds", "1", "--variants", "dfs", "--dir", directory]
    assert main(["suite", "run", "toy", *args, "--steps", "30", *SMALL]) == 0
    capfd.readouterr()
    line = complaint(capfd, main(["suite", "run", "toy", *args, "--steps", "40", *SMALL]))
    assert f"{directory} holds another suite; requested now: steps 40 (there: 30)" in line
    line = complaint(capfd, main(["suite", "run", directory, "--set", "replay.tau=3"]))
    assert "replay.tau" in line
    assert "--dir" in complaint(capfd, main(["suite", "run", directory, "--dir", "other"]))
    with SuiteLock(tmp_path / "suite"):
        line = complaint(capfd, main(["suite", "run", directory]))
    assert f"process {os.getpid()} already runs suite" in line
    assert contents(tmp_path / "suite") == before


def test_part_of_a_suite_can_be_requested(tmp_path: Path, capfd: Capture) -> None:
    directory = tmp_path / "suite"
    spec = tiny_spec(seeds=(0, 1, 2))
    path = tmp_path / "spec.toml"
    path.write_text(spec.to_toml(), encoding="utf-8")
    run_suite(directory, spec)
    before = contents(directory)
    ask = ["suite", "run", str(path), "--dir", str(directory), "--seeds"]
    assert main([*ask, "1"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == f"suite: {directory}: 1 finished"
    assert contents(directory) == before
    line = complaint(capfd, main([*ask, "1", "3"]))
    assert "has no seed 3" in line
    line = complaint(capfd, main([*ask, "1", "--steps", "50"]))
    assert "requested now: steps 50 (there: 40)" in line
    assert "without" not in line


def test_finished_runs_need_no_device(
    tmp_path: Path, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "suite"
    run_suite(directory, tiny_spec())

    def absent(*_: object) -> None:
        raise ConfigError("device 'cuda' is not available here")

    monkeypatch.setattr(local, "pick_device", absent)
    capfd.readouterr()
    assert main(["suite", "run", str(directory)]) == 0
    assert "nothing left to run" in capfd.readouterr().err
    assert "--jobs" in complaint(capfd, main(["suite", "run", str(directory), "--jobs", "0"]))
    assert main(["suite", "run", str(directory), "--dry-run"]) == 0
    said = capfd.readouterr().out
    assert said.splitlines()[-1] == "1 runs: 1 finished, 0 to do"
    assert "in total" not in said
    assert main(["suite", "run", str(directory), "--dry-run", "--json"]) == 0
    tree = json.loads(capfd.readouterr().out)
    assert (tree["jobs"], tree["shares"], tree["hours"]) == (None, [], 0)
    (directory / "one/tests-Walk-v0/seed-0/eval.json").unlink()
    assert "not available" in complaint(capfd, main(["suite", "run", str(directory)]))


def test_suite_is_created_only_under_its_lock(tmp_path: Path, capfd: Capture) -> None:
    pytest.importorskip("fcntl")
    Path("mine.json").write_text(tiny_spec().to_json())
    args = ["suite", "run", "mine.json", "--dir", str(tmp_path / "suite")]
    with SuiteLock(tmp_path / "suite"):
        assert "already" in complaint(capfd, main(args))
        assert [path.name for path in (tmp_path / "suite").iterdir()] == [".lock"]
    # An unrelated directory does not lose a file of that name.
    (tmp_path / "suite" / ".lock").write_text("mine")
    (tmp_path / "suite" / "thesis.txt").touch()
    before = contents(tmp_path / "suite")
    assert "not empty" in complaint(capfd, main(args))
    assert contents(tmp_path / "suite") == before


def test_a_trained_run_without_last_is_not_deleted(tmp_path: Path, capfd: Capture) -> None:
    directory = tmp_path / "suite"
    run_suite(directory, tiny_spec())
    run = directory / "one/tests-Walk-v0/seed-0"
    (run / "checkpoints" / "last").unlink()
    shutil.rmtree(run / "checkpoints" / "000000020")
    (run / "notes.txt").touch()
    before = contents(directory)
    capfd.readouterr()
    assert main(["suite", "run", str(directory)]) == 1
    assert "checkpoints/last is missing" in capfd.readouterr().err
    assert contents(directory) == before


def test_further_evaluation_is_kept_with_that_of_the_suite(tmp_path: Path) -> None:
    directory = tmp_path / "suite"
    run_suite(directory, tiny_spec())
    run = directory / "one/tests-Walk-v0/seed-0"
    assert main(["eval", str(run), "--mode", "sampled", "--episodes", "6"]) == 0
    assert read_suite(directory).counts() == {"finished": 1}
    assert main(["eval", str(run), "--episodes", "6"]) == 0
    assert read_suite(directory).counts() == {"interrupted": 1}
    _, started, _ = run_suite(directory, tiny_spec())
    assert len(started) == 1
    tree = json.loads((run / "eval.json").read_text())
    assert {mode: len(result["episodes"]) for mode, result in tree.items()} == {
        "greedy": 4,
        "sampled": 6,
    }


def test_evaluation_without_recorded_latents_is_repeated(tmp_path: Path) -> None:
    directory = tmp_path / "suite"
    spec = tiny_spec(variants=[tiny_variant(changes={"evaluation.max_episode_steps": 5})])
    run_suite(directory, spec)
    file = directory / "one/tests-Walk-v0/seed-0/eval.json"
    tree = json.loads(file.read_text())
    assert tree["greedy"]["protocol"]["latents"] == "sampled"
    assert {episode["length"] for episode in tree["greedy"]["episodes"]} == {5}
    edit_json(file, lambda t: t["greedy"]["protocol"].pop("latents"))
    assert read_suite(directory).counts() == {"interrupted": 1}
    run_suite(directory, spec)
    assert json.loads(file.read_text()) == tree


def test_directory_name_may_begin_with_a_dash(capfd: Capture) -> None:
    run_suite(Path("-x"), tiny_spec())
    run = Path("-x/one/tests-Walk-v0/seed-0")
    for lose in ((run / "eval.json").unlink, lambda: earlier(run)):
        lose()
        outcome, started, said = run_suite(Path("-x"), tiny_spec())
        assert (outcome.exit_code, len(started)) == (0, 1), said


def earlier(run: Path) -> None:
    (run / "eval.json").unlink()
    (run / "checkpoints" / "last").write_text("000000020\n")


def test_variants_without_updates_are_named(tmp_path: Path, capfd: Capture) -> None:
    spec = tiny_spec(variants=[tiny_variant(), tiny_variant("late", {"training.warmup_steps": 90})])
    (tmp_path / "late.toml").write_text(spec.to_toml())
    args = ["suite", "run", str(tmp_path / "late.toml"), "--dry-run", "--seconds", "0.1", *CPU]
    assert main(args) == 0
    warned = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert warned == [
        "warning: variant late: nothing will be learnt: the warm-up of random actions takes 90 "
        "steps (training.warmup_steps), training ends at step 40"
    ]


def test_games_with_few_steps_are_named(tmp_path: Path, capfd: Capture) -> None:
    games = (WALK, "drama/Catch-v0", "drama/Sparse-v0")
    spec = tiny_spec(games, steps={WALK: 20, "drama/Catch-v0": 40, "drama/Sparse-v0": 20})
    (tmp_path / "short.toml").write_text(spec.to_toml())
    args = ["suite", "run", str(tmp_path / "short.toml"), "--dry-run", "--seconds", "0.1", *CPU]
    assert main(args) == 0
    (warned,) = [line for line in capfd.readouterr().err.splitlines() if "warning" in line]
    assert warned.startswith(
        f"warning: variant one in {WALK}, drama/Sparse-v0: nothing will be learnt: "
    )
    assert warned.endswith("training ends at step 20")


def test_a_dry_run_measures_and_writes_nothing(tmp_path: Path, capfd: Capture) -> None:
    spec = tiny_spec(
        games=(WALK, "drama/Catch-v0"), seeds=(0, 1), variants=(tiny_variant(), tiny_variant("b"))
    )
    directory = tmp_path / "suite"
    run_suite(directory, spec.narrowed(games=[WALK], seeds=[0], variants=["one"]))
    (directory / "suite.json").unlink()
    Path("mine.toml").write_text(spec.to_toml())
    before = contents(directory)
    capfd.readouterr()
    args = ["mine.toml", "--dir", str(directory), "--dry-run", "--seconds", "60", "--jobs", "2"]
    assert main(["suite", "run", *args]) == 0
    said = capfd.readouterr().out
    rows = [line.split() for line in said.splitlines() if line.startswith(("one ", "b "))]
    # Two kinds of observations, so two rows for each variant; one run is finished already.
    assert [row[:4] for row in rows] == [
        ["one", "1", "1", "40"],
        ["one", "1", "2", "80"],
        ["b", "1", "2", "80"],
        ["b", "1", "2", "80"],
    ]
    assert "8 runs: 1 finished, 7 to do; " in said
    assert " in total, without evaluation and checkpoints" in said
    assert "plan: 2 runs in parallel" in said
    assert main(["suite", "run", *args, "--json"]) == 0
    tree = json.loads(capfd.readouterr().out)
    assert (tree["runs"], tree["finished"], tree["jobs"]) == (8, 1, 2)
    assert tree["hours"] == pytest.approx(sum(share["hours"] for share in tree["shares"]))
    assert tree["hours"] > 0
    # A skipped run has no cost.
    (directory / "one/tests-Walk-v0/seed-0/config.json").unlink()
    before.pop("one/tests-Walk-v0/seed-0/config.json")
    assert main(["suite", "run", *args]) == 0
    assert "8 runs: 0 finished, 7 to do, 1 skipped; " in capfd.readouterr().out
    assert contents(directory) == before
    assert [path.name for path in Path().iterdir()] == ["mine.toml"]


def test_skipped_and_retried_runs_are_listed_separately(tmp_path: Path, capfd: Capture) -> None:
    directory = tmp_path / "suite"
    run_suite(directory, tiny_spec())
    (directory / "one/tests-Walk-v0/seed-0/config.json").unlink()
    assert main(["suite", "run", str(directory)]) == 1
    err = capfd.readouterr().err
    assert "1 run skipped: move the directory away, then run the suite again" in err
    assert "continue with" not in err


def test_disk_estimate_of_a_dry_run_matches_a_real_run(tmp_path: Path) -> None:
    from drama.suite.forecast import forecast
    from drama.suite.layout import scan
    from drama.suite.local import Plan

    # Wide enough that the tensors dominate the file size.
    changes = {"world_model.head_units": 512, "world_model.dynamics.width": 256}
    spec = tiny_spec(games=("drama/Catch-v0",), variants=(tiny_variant("one", changes),))
    found = forecast(scan(tmp_path / "suite", spec), Plan((), 1, 1), seconds=60.0)
    run_suite(tmp_path / "suite", spec)
    (cell,) = read_suite(tmp_path / "suite").cells
    real = sum(path.stat().st_size for path in cell.path.rglob("*") if path.is_file())
    assert found.disk is not None
    assert 0.7 < found.disk / real < 1.3
    assert found.to_dict()["disk_bytes"] == found.disk


# -- real processes ----------------------------------------------------------------------------


class Process(subprocess.Popen[bytes]):
    """A process that is killed if the test fails."""

    def __exit__(self, *exc: Any) -> None:
        self.kill()
        super().__exit__(*exc)


def start(*args: str, errors: Path, to: int | None = None) -> Process:
    source = str(Path(drama.__file__).parents[1])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source, str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    with errors.open("wb") as file:
        return Process(
            [sys.executable, "-m", "drama", "suite", *args],
            stdout=subprocess.DEVNULL if to is None else to,
            stderr=file if to is None else to,
            env=env,
            cwd=errors.parent,
        )


def wait_for(what: str, condition: object, process: subprocess.Popen[bytes] | None = None) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process is None or process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(0.05)


def episodes(run: Path) -> int:
    path = run / "episodes.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def in_use(run: Path) -> bool:
    import fcntl

    if not (run / ".lock").exists():
        return False
    with (run / ".lock").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


processes = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="signals work otherwise there"),
]


LONG = 2000
"""Steps of a run that is still running when a second process has started."""


@pytest.fixture
def long(tmp_path: Path) -> Path:
    """A suite of two seeds, each of some seconds; one game fails at once."""
    changes = {"training.checkpoint_every": 30, "evaluation.episodes": 2}
    spec = tiny_spec(
        games=(WALK, env_id(Crash)),
        seeds=(0,),
        variants=(tiny_variant("one", changes),),
        steps=LONG,
    )
    path = tmp_path / "long.json"
    path.write_text(spec.to_json())
    return path


class TestProcesses:
    pytestmark = processes

    def test_killed_suite_resumes(
        self, long: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        walk = directory / "one" / "tests-Walk-v0" / "seed-0"
        args = ["run", str(long), "--dir", str(directory), "--jobs", "2"]
        first = start(*args, errors=errors)
        request.addfinalizer(first.kill)
        wait_for("the run", lambda: episodes(walk) >= 20, first)
        # A second process is refused while the first is there.
        with start(*args, errors=tmp_path / "second") as second:
            assert second.wait(PATIENCE) == 2
        said = (tmp_path / "second").read_text()
        assert f"process {first.pid} already runs suite" in said
        assert said.count("\n") == 1
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        made = 7 * episodes(walk)
        # The run detects that its parent has exited, saves and ends.
        wait_for("the run's end", lambda: not in_use(walk))
        saved = CheckpointDir(walk).last().step
        assert made <= saved < LONG
        state = read_suite(directory)
        assert state.cells[0].status == "interrupted"
        with start(*args, errors=errors) as again:
            assert again.wait(PATIENCE) == 1
        said = errors.read_text()
        assert f"one/tests-Walk-v0/seed-0 continues from step {saved}" in said
        assert "failed: one/tests-Crash-v0/seed-0: ZeroDivisionError: the physics engine" in said
        assert "Traceback" not in said
        state = read_suite(directory)
        assert [cell.status for cell in state.cells] == ["finished", "failed"]
        assert "Traceback" in state.cells[1].log.read_text()
        before = contents(walk)
        with start(*args, errors=errors) as third:
            assert third.wait(PATIENCE) == 1
        assert contents(walk) == before

    def test_resumed_suite_waits_for_an_orphaned_run(
        self, long: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        """Two processes never write to the same run directory."""
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        walk = directory / "one" / "tests-Walk-v0" / "seed-0"
        args = ["run", str(long), "--dir", str(directory), "--jobs", "1"]
        first = start(*args, errors=errors)
        request.addfinalizer(first.kill)
        wait_for("the run", lambda: episodes(walk) >= 10, first)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with start(*args, errors=errors) as again:
            assert again.wait(PATIENCE) == 1
        steps = [row["step"] for row in json_rows(walk / "episodes.jsonl")]
        assert steps == list(range(7, LONG, 7))
        assert read_suite(directory).cells[0].status == "finished"

    def test_ctrl_c_saves_and_prints_the_resume_command(self, tmp_path: Path) -> None:
        spec = tiny_spec(games=(env_id(Endless),), seeds=(0, 1), steps=10**6)
        (tmp_path / "endless.json").write_text(spec.to_json())
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        runs = [directory / "one" / "tests-Endless-v0" / f"seed-{seed}" for seed in (0, 1)]
        args = ["run", str(tmp_path / "endless.json"), "--dir", str(directory), "--jobs", "2"]
        with start(*args, errors=errors) as process:
            wait_for(
                "the runs",
                lambda: all((run / "checkpoints" / "last").exists() for run in runs),
                process,
            )
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 130
        said = errors.read_text()
        assert "stopping 2 runs after the current step" in said
        assert f"continue with: drama suite run {directory}" in said
        assert "Traceback" not in said
        for cell in read_suite(directory).cells:
            assert (cell.status, cell.resumable) == ("interrupted", True)
            assert cell.step > 0
            assert "saved at step" in cell.log.read_text()
            assert not in_use(cell.path)

    def test_closed_output_pipe_saves_and_ends(self, tmp_path: Path) -> None:
        """The reader of the output exits, as in ``drama suite run ... 2>&1 | head -1``."""
        spec = tiny_spec(games=(env_id(Endless),), seeds=(0, 1, 2), steps=200)
        (tmp_path / "endless.json").write_text(spec.to_json())
        directory = tmp_path / "suite"
        args = ["run", str(tmp_path / "endless.json"), "--dir", str(directory), "--jobs", "2"]
        reading, writing = os.pipe()
        with start(*args, errors=tmp_path / "stderr", to=writing) as process:
            os.close(writing)
            os.read(reading, 1)
            os.close(reading)
            assert process.wait(PATIENCE) == 130
        for cell in read_suite(directory).cells:
            assert cell.resumable
            assert not in_use(cell.path)
        assert "finished" not in read_suite(directory).counts()

    def test_killed_run_is_retried_once(self, long: Path, tmp_path: Path) -> None:
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        walk = directory / "one" / "tests-Walk-v0" / "seed-0"
        args = ["run", str(long), "--dir", str(directory), "--games", WALK]
        with start(*args, errors=errors) as process:
            wait_for("the run", lambda: episodes(walk) >= 10, process)
            child = int((walk / ".lock").read_text())
            os.kill(child, signal.SIGKILL)
            assert process.wait(PATIENCE) == 0
        said = errors.read_text()
        assert "killed by SIGKILL (possibly out of memory); retrying from step" in said
        assert read_suite(directory).counts() == {"finished": 1}

    def test_suite_of_two_atari_games_and_two_seeds(self, tmp_path: Path) -> None:
        directory, errors = tmp_path / "suite", tmp_path / "stderr"
        sizes = {
            "world_model.filters": [4, 4, 4],
            "world_model.stem_stride": 2,
            "env.image_size": 32,
            "env.max_episode_steps": 40,
            "evaluation.episodes": 2,
        }
        small = [w for k, v in sizes.items() for w in ("--set", f"{k}={json.dumps(v)}")]
        args = ["run", "atari100k", "--games", "Pong", "boxing", "--seeds", "0-1", "--steps", "40"]
        args += [*SMALL, *small, "--dir", str(directory), "--jobs", "2"]
        with start(*args, errors=errors) as process:
            assert process.wait(PATIENCE) == 0, errors.read_text()
        state = read_suite(directory)
        assert state.counts() == {"finished": 4}
        assert [(c.game, c.seed) for c in state.cells] == [
            ("ALE/Boxing-v5", 0),
            ("ALE/Boxing-v5", 1),
            ("ALE/Pong-v5", 0),
            ("ALE/Pong-v5", 1),
        ]
        for cell in state.cells:
            assert cell.evaluation()["normalised"] is None  # games are not cut at 40 steps
            assert "max episode steps 40" in cell.evaluation()["normalised_reason"]
            assert cell.evaluation()["protocol"]["env"]["id"] == cell.game
        assert main(["report", str(directory)]) == 0
        report = directory / "report"
        page = (report / "index.html").read_text(encoding="utf-8")
        assert "4 of 4 runs finished" in page
        assert "40 environment steps instead of 100,000" in page
        with (report / "scores.csv").open(newline="") as file:
            rows = {row["Game"]: row for row in csv.DictReader(file)}
        assert list(rows)[:2] == ["Boxing", "Pong"]
        for game, column in (("ALE/Boxing-v5", "Boxing"), ("ALE/Pong-v5", "Pong")):
            means = [c.evaluation()["mean"] for c in state.cells if c.game == game]
            row = rows[column]
            assert float(row["Drama XS (40 steps)"]) == pytest.approx(sum(means) / 2)
            assert row["Drama XS (40 steps) seeds"] == "2"
            assert float(row["DreamerV3"]) == published("DreamerV3", column)[0].score
