"""Status of a run: finished, unfinished, damaged and unrelated directories."""

# One file: two tables of run directories with the expected status of each.

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.suite.suites import STEPS, edit_json, run_suite, tiny_spec, tiny_variant
from tests.training.runs import contents

import drama
from drama.errors import CheckpointError, ConfigError, RunDirError
from drama.suite import SuiteState, read_suite
from drama.suite.layout import (
    begin_suite,
    check_vacant,
    is_suite,
    record_failure,
    run_path,
    scan,
)
from drama.suite.process import arguments, prepare
from drama.training.checkpoint import CheckpointDir, _digest

SPEC = tiny_spec()
RUN = Path("one/tests-Walk-v0/seed-0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("layout") / "suite"
    outcome, _, _ = run_suite(directory, SPEC)
    assert outcome.exit_code == 0
    return directory


@pytest.fixture
def suite(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "suite"))


def test_finished_run_has_status_finished(suite: Path) -> None:
    state = read_suite(suite)
    assert isinstance(state, SuiteState)
    assert (state.spec, state.version) == (SPEC, drama.__version__)
    assert state.counts() == {"finished": 1}
    (cell,) = state.cells
    assert (cell.path, cell.name) == (suite / RUN, RUN.as_posix())
    assert (cell.reason, cell.step, cell.resumable) == ("", STEPS, True)
    assert cell.config == SPEC.config(SPEC.variants[0], SPEC.games[0], 0)
    assert len(cell.evaluation()["episodes"]) == 4
    assert state.cell("one", SPEC.games[0], 0) is cell
    assert state.of("missing", "failed") == ()
    with pytest.raises(KeyError):
        state.cell("one", SPEC.games[0], 1)


def last(run: Path) -> Path:
    return CheckpointDir(run).last().path


def rewrite(path: Path, text: str) -> None:
    assert path.exists()
    path.write_text(text)


def other_log_interval(run: Path) -> None:
    edit_json(run / "config.json", lambda tree: tree["training"].update(log_every=7))


def earlier(run: Path) -> None:
    """As if killed right after its first checkpoint: older `last`, no evaluation."""
    (run / "eval.json").unlink()
    rewrite(run / "checkpoints" / "last", "000000020\n")


def before_the_first_checkpoint(run: Path) -> None:
    """As if killed while writing the first checkpoint."""
    (run / "eval.json").unlink()
    (run / "checkpoints" / "last").unlink()
    shutil.rmtree(run / "checkpoints" / "000000040")
    (run / "checkpoints" / "000000020").rename(run / "checkpoints" / ".000000020.tmp")
    (run / "tensorboard").mkdir(exist_ok=True)


def without_checkpoints(run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "eval.json").unlink()


def without_last(run: Path, *left: str) -> None:
    for name in ("last", "000000020", "000000040"):
        path = run / "checkpoints" / name
        if name not in left:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def with_notes(run: Path) -> None:
    without_checkpoints(run)
    (run / "notes.txt").write_text("what I saw")


def half_a_checkpoint(run: Path) -> None:
    without_last(run, "000000020")
    (run / "eval.json").unlink()
    (run / "checkpoints" / "000000020" / "manifest.json").unlink()


def linked(run: Path) -> None:
    elsewhere = run.parents[3] / "elsewhere"
    without_checkpoints(run)
    run.rename(elsewhere)
    run.symlink_to(elsewhere)


def untrained(run: Path) -> None:
    def change(tree: dict[str, Any]) -> None:
        del tree["digest"]
        tree["step"] = 0
        tree["digest"] = _digest(tree)

    checkpoint = last(run)
    edit_json(checkpoint / "manifest.json", change)
    checkpoint.rename(run / "checkpoints" / "000000000")
    rewrite(run / "checkpoints" / "last", "000000000\n")


def linked_nowhere(run: Path) -> None:
    shutil.rmtree(run)
    run.symlink_to(run.parents[3] / "nowhere")


def replaced(run: Path) -> None:
    shutil.rmtree(run)
    run.write_text("something else")


def emptied(run: Path, *left: str) -> None:
    shutil.rmtree(run)
    run.mkdir()
    for name in left:
        (run / name).touch()


SOUND: dict[str, tuple[Callable[[Path], object], str, str, int]] = {
    "nothing there": (shutil.rmtree, "missing", "", 0),
    "an empty directory": (emptied, "missing", "", 0),
    "killed while it was made": (
        lambda run: emptied(run, ".lock", ".config.json.tmp"),
        "missing",
        "",
        0,
    ),
    "no checkpoint": (without_checkpoints, "interrupted", "first checkpoint", 0),
    "no checkpoint yet": (before_the_first_checkpoint, "interrupted", "first checkpoint", 0),
    "half way": (earlier, "interrupted", "at step 20 of 40", 20),
    "not evaluated": (lambda run: (run / "eval.json").unlink(), "interrupted", "not yet eval", 40),
    "evaluated otherwise": (
        lambda run: edit_json(run / "eval.json", lambda t: t.update(sampled=t.pop("greedy"))),
        "interrupted",
        "not yet eval",
        40,
    ),
    "evaluated too early": (
        lambda run: edit_json(
            run / "eval.json", lambda t: t["greedy"]["protocol"].update(train_steps=20)
        ),
        "interrupted",
        "train steps 20, requested: 40",
        40,
    ),
    "looked ahead": (
        lambda run: edit_json(
            run / "eval.json", lambda t: t["greedy"]["protocol"].update(lookahead=16)
        ),
        "interrupted",
        "lookahead 16, requested: 0",
        40,
    ),
    "of the mode of the latents, as before they were recorded": (
        lambda run: edit_json(run / "eval.json", lambda t: t["greedy"]["protocol"].pop("latents")),
        "interrupted",
        'latents "mode", requested: sampled',
        40,
    ),
    "truncated early": (
        lambda run: edit_json(
            run / "eval.json", lambda t: t["greedy"]["protocol"].update(step_limit=3)
        ),
        "interrupted",
        "step limit 3, requested: 27000",
        40,
    ),
    "fewer episodes": (
        lambda run: edit_json(
            run / "eval.json", lambda t: t["greedy"]["protocol"].update(episodes=2)
        ),
        "interrupted",
        "episodes 2, requested: 4",
        40,
    ),
    "what may change": (other_log_interval, "finished", "", 40),
}

DAMAGED: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a file in the way": (replaced, "foreign", "not a directory"),
    "no config": (lambda run: (run / "config.json").unlink(), "foreign", "no config.json"),
    "config is no JSON": (lambda run: rewrite(run / "config.json", "{"), "foreign", "config.json"),
    "config is binary": (
        lambda run: (run / "config.json").write_bytes(b"\xff\xfe\x00"),
        "foreign",
        "config.json",
    ),
    "config of another seed": (
        lambda run: edit_json(run / "config.json", lambda tree: tree.update(seed=5)),
        "foreign",
        "seed=0 (the run has 5)",
    ),
    "config of another game": (
        lambda run: edit_json(run / "config.json", lambda tree: tree["env"].update(id="X-v0")),
        "foreign",
        "X-v0",
    ),
    "config of another learner": (
        lambda run: edit_json(run / "config.json", lambda tree: tree["behaviour"].update(gamma=0)),
        "foreign",
        "behaviour.gamma",
    ),
    "strange file": (lambda run: emptied(run, "thesis.txt"), "foreign", "no config.json"),
    "last is gone": (
        lambda run: (run / "checkpoints" / "last").unlink(),
        "failed",
        "checkpoints/last is missing, so 2 complete checkpoints cannot be used; repair it with: "
        "echo 000000040 > ",
    ),
    "last and the older one are gone": (
        lambda run: without_last(run, "000000040"),
        "failed",
        "checkpoints/last is missing, so 1 complete checkpoint cannot be used",
    ),
    "an evaluation without a checkpoint": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        "foreign",
        "no checkpoint, but eval.json",
    ),
    "somebody's notes": (with_notes, "foreign", "no checkpoint, but notes.txt"),
    "half a checkpoint": (half_a_checkpoint, "foreign", "000000020 is an incomplete checkpoint"),
    "no step made": (untrained, "foreign", "is at step 0"),
    "a link": (linked, "foreign", "is a symbolic link to a directory without checkpoint"),
    "a link to nothing": (linked_nowhere, "foreign", "is a broken symbolic link"),
    "last is nonsense": (
        lambda run: rewrite(run / "checkpoints" / "last", "tomorrow"),
        "failed",
        "last is damaged",
    ),
    "last leads nowhere": (
        lambda run: rewrite(run / "checkpoints" / "last", "000000041"),
        "failed",
        "000000041",
    ),
    "manifest": (
        lambda run: edit_json(last(run) / "manifest.json", lambda tree: tree.update(step=20)),
        "failed",
        "manifest.json is damaged",
    ),
    "no weights": (
        lambda run: (last(run) / "model.safetensors").unlink(),
        "failed",
        "model.safetensors is missing",
    ),
    "weights cut short": (
        lambda run: os.truncate(last(run) / "model.safetensors", 4000),
        "failed",
        "model.safetensors is damaged",
    ),
    "replay cut short": (
        lambda run: [os.truncate(file, 100) for file in (run / "replay").iterdir()],
        "failed",
        "is damaged",
    ),
    "checkpoint's config": (
        lambda run: edit_json(last(run) / "config.json", lambda tree: tree.update(seed=5)),
        "failed",
        "config.json is damaged",
    ),
    "no replay": (lambda run: shutil.rmtree(run / "replay"), "failed", "is missing"),
    "eval is no JSON": (lambda run: rewrite(run / "eval.json", "{"), "failed", "eval.json is dam"),
    "eval is a list": (lambda run: rewrite(run / "eval.json", "[]"), "failed", "eval.json is dam"),
    "eval is empty": (
        lambda run: edit_json(run / "eval.json", lambda tree: tree["greedy"].update(episodes=[])),
        "failed",
        "eval.json is damaged",
    ),
    "eval is not a number": (
        lambda run: edit_json(
            run / "eval.json", lambda tree: tree["greedy"].update(mean=float("nan"))
        ),
        "failed",
        "eval.json is damaged",
    ),
}


@pytest.mark.faults
@pytest.mark.parametrize("case", SOUND)
def test_valid_runs_are_started_or_resumed(case: str, suite: Path) -> None:
    change, status, reason, step = SOUND[case]
    change(suite / RUN)
    (cell,) = read_suite(suite).cells
    assert (cell.status, cell.step, cell.resumable) == (status, step, True)
    assert reason in cell.reason
    if status == "finished":
        return
    with pytest.raises(CheckpointError, match="not finished"):
        cell.evaluation()
    outcome, started, _ = run_suite(suite, SPEC)
    assert outcome.exit_code == 0
    assert started == [f"{cell.name} from {step}"]
    (cell,) = read_suite(suite).cells
    assert (cell.status, cell.step) == ("finished", STEPS)


@pytest.mark.faults
@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_and_unrelated_runs_are_named_and_unchanged(case: str, suite: Path) -> None:
    change, status, reason = DAMAGED[case]
    change(suite / RUN)
    (cell,) = read_suite(suite).cells
    assert (cell.status, cell.resumable) == (status, False)
    assert str(suite / RUN) in cell.reason
    assert reason in cell.reason
    before = contents(suite)
    outcome, started, said = run_suite(suite, SPEC)
    assert contents(suite) == before
    assert started == []
    assert outcome.exit_code == 1
    assert outcome.failed == [(cell, cell.reason)]
    assert reason in said


def test_run_beyond_its_steps_is_another_run(suite: Path, tmp_path: Path) -> None:
    shorter = tiny_spec(steps=STEPS - 20)
    begin_suite(tmp_path / "shorter", shorter)
    shutil.copytree(suite / RUN, tmp_path / "shorter" / RUN)
    (cell,) = read_suite(tmp_path / "shorter").cells
    assert (cell.status, cell.resumable) == ("foreign", False)
    assert "is at step 40, beyond the suite's 20" in cell.reason


def test_a_failure_is_remembered_until_the_next_attempt(suite: Path) -> None:
    (cell,) = read_suite(suite).cells
    record_failure(cell, "it burnt", 1)
    assert read_suite(suite).counts() == {"finished": 1}  # its files are more precise
    earlier(suite / RUN)
    (cell,) = read_suite(suite).cells
    assert (cell.status, cell.reason, cell.resumable) == ("failed", "it burnt", True)
    run_suite(suite, SPEC)
    assert read_suite(suite).counts() == {"finished": 1}
    assert not cell.failure.exists()


def test_inspection_needs_no_directory(tmp_path: Path) -> None:
    spec = tiny_spec(seeds=(3, 1), variants=(tiny_variant("a"), tiny_variant("b")))
    cells = scan(tmp_path / "nowhere", spec)
    assert [c.name for c in cells] == [
        "a/tests-Walk-v0/seed-3",
        "a/tests-Walk-v0/seed-1",
        "b/tests-Walk-v0/seed-3",
        "b/tests-Walk-v0/seed-1",
    ]
    assert {c.status for c in cells} == {"missing"}
    assert cells[0].path == run_path(tmp_path / "nowhere", "a", spec.games[0], 3)


# -- suite.json --------------------------------------------------------------------------------


def test_another_suite_is_refused_with_the_differences(suite: Path) -> None:
    before = contents(suite)
    with pytest.raises(RunDirError, match=r"seeds more: 1"):
        begin_suite(suite, tiny_spec(seeds=(0, 1)))
    assert contents(suite) == before
    assert begin_suite(suite, SPEC) is None


def test_each_game_is_finished_at_its_own_steps(tmp_path: Path) -> None:
    games = (SPEC.games[0], "drama/Catch-v0")
    spec = tiny_spec(games, steps={games[0]: STEPS + 20, games[1]: STEPS})
    outcome, _, _ = run_suite(tmp_path, spec)
    assert outcome.exit_code == 0
    state = read_suite(tmp_path)
    assert state.spec == spec
    assert [(cell.status, cell.step) for cell in state.cells] == [
        ("finished", STEPS + 20),
        ("finished", STEPS),
    ]
    earlier(tmp_path / "one/drama-Catch-v0/seed-0")
    catch = read_suite(tmp_path).cell("one", games[1], 0)
    assert (catch.status, catch.reason) == ("interrupted", f"at step 20 of {STEPS}")
    # A part, and the same numbers in other words, are of this suite.
    assert begin_suite(tmp_path, spec.narrowed(games=["Catch"])) is None
    assert begin_suite(tmp_path, spec.narrowed(games=["Catch"], steps=STEPS)) is None
    with pytest.raises(RunDirError, match=r"now: steps of \S+/Walk-v0 40 \(there: 60\)$"):
        begin_suite(tmp_path, spec.narrowed(steps=STEPS))
    walk, catch = scan(tmp_path, spec.narrowed(steps=STEPS))
    assert (walk.status, catch.status) == ("foreign", "interrupted")
    assert walk.reason.endswith("is at step 60, beyond the suite's 40")


def test_many_differences_are_counted(suite: Path) -> None:
    changed = tiny_spec(variants=(tiny_variant("one", dict.fromkeys(NINE, 9)),))
    with pytest.raises(RunDirError, match="and 1 more"):
        begin_suite(suite, changed)


NINE = (
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "behaviour.horizon",
    "evaluation.seed",
    "world_model.optim.warmup",
)


def test_unrelated_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(RunDirError, match="not empty"):
        begin_suite(tmp_path, SPEC)
    with pytest.raises(RunDirError, match="cannot make suite"):
        begin_suite(tmp_path / "thesis.txt" / "suite", SPEC)


def test_version_that_created_the_suite_is_reported(suite: Path) -> None:
    edit_json(suite / "suite.json", lambda tree: tree.update(drama="0.0.1"))
    assert begin_suite(suite, SPEC) == "0.0.1"
    assert read_suite(suite).version == "0.0.1"


def test_missing_or_damaged_suite_is_reported(suite: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"no suite\.json"):
        read_suite(tmp_path)
    for text in ("{", "[]", '{"drama": "1"}', '{"drama": "1", "spec": {"nam": 1}}'):
        (suite / "suite.json").write_text(text)
        with pytest.raises(ConfigError, match=r"suite\.json"):
            read_suite(suite)


# -- protection of trained runs-----------------------------------------------------------------


def test_possible_intended_directory_is_named(
    tmp_path: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(suite, "suites/mine")
    for given, meant in (
        ("mine", "mine does not exist; did you mean suites/mine?"),
        ("suites", "it has no suite.json; did you mean suites/mine?"),
        ("suites/mine/one", "it has no suite.json; did you mean suites/mine?"),
        ("suites/mine/suite.json", "is a file, not .* did you mean suites/mine?"),
    ):
        with pytest.raises(RunDirError, match=meant.replace("?", r"\?")):
            read_suite(given)
    with pytest.raises(RunDirError, match=r"^yours does not exist$"):
        read_suite("yours")


def test_missing_last_is_repaired_by_the_named_command(suite: Path) -> None:
    (suite / RUN / "checkpoints" / "last").unlink()
    (cell,) = read_suite(suite).cells
    command = cell.reason.rpartition("repair it with: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert read_suite(suite).counts() == {"finished": 1}


def test_run_in_a_linked_directory_resumes(suite: Path, tmp_path: Path) -> None:
    earlier(suite / RUN)
    (suite / RUN).rename(tmp_path / "elsewhere")
    (suite / RUN).symlink_to(tmp_path / "elsewhere")
    outcome, started, _ = run_suite(suite, SPEC)
    assert (outcome.exit_code, len(started)) == (0, 1)
    assert (suite / RUN).is_symlink()


def test_files_created_after_the_inspection_are_not_deleted(suite: Path) -> None:
    """Inspection and deletion are not atomic."""
    without_checkpoints(suite / RUN)
    (cell,) = read_suite(suite).cells
    (suite / RUN / "notes.txt").write_text("what I saw")
    before = contents(suite)
    with pytest.raises(RunDirError, match=r"notes\.txt, which is kept"):
        prepare(cell)
    assert contents(suite) == before


def test_unreadable_directory_is_reported(tmp_path: Path) -> None:
    for look_at in (is_suite, read_suite):
        with pytest.raises(RunDirError, match=r"cannot read x.*: .*too long"):
            look_at(Path("x" * 300))
    with pytest.raises(RunDirError, match=r"cannot make suite .*: .*too long"):
        check_vacant(tmp_path / ("x" * 300))


def test_suite_keeps_the_preset_of_its_start(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = drama.presets.quick()
    behaviour = dataclasses.replace(quick.behaviour, entropy=0.123)
    monkeypatch.setitem(
        drama.presets.PRESETS, "quick", lambda: dataclasses.replace(quick, behaviour=behaviour)
    )
    assert read_suite(suite).counts() == {"finished": 1}
    # Remaining runs use the old preset too.
    shutil.rmtree(suite / RUN)
    (cell,) = read_suite(suite).cells
    assert cell.config.behaviour.entropy == quick.behaviour.entropy
    assert f"--behaviour.entropy={quick.behaviour.entropy}" in " ".join(arguments(cell)).replace(
        "--behaviour.entropy ", "--behaviour.entropy="
    )
    # A new suite uses the present preset.
    begin_suite(tmp_path / "new", SPEC)
    assert read_suite(tmp_path / "new").cells[0].config.behaviour.entropy == 0.123
