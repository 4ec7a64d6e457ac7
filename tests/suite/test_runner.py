"""Running a suite, with runs in this process or simulated ones."""

# One file: the tests share the pool that runs in this process.

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tests.suite.suites import (
    WALK,
    Here,
    HerePool,
    run_suite,
    tiny_spec,
    tiny_variant,
)
from tests.training.faulty_envs import Crash, NanReward, env_id
from tests.training.runs import assert_same_run, contents

from drama.agent import Agent
from drama.cli import main
from drama.suite import runner as runner_module
from drama.suite import view as view_module
from drama.suite.layout import Cell, begin_suite, read_suite, scan
from drama.suite.process import arguments, failure_reason, is_transient, last_line
from drama.suite.runner import Runner
from drama.suite.view import Gauge, View, logged_step, report_failures
from drama.training.rundir import RunLock
from drama.training.stream import EnvStream


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_module, "POLL_SECONDS", 0.0)


def test_runs_start_seed_by_seed_and_once(tmp_path: Path) -> None:
    spec = tiny_spec(
        seeds=(1, 0),
        variants=(tiny_variant("a"), tiny_variant("b", {"replay.sampler": "uniform"})),
        steps=30,
    )
    outcome, started, said = run_suite(tmp_path / "suite", spec)
    assert outcome.exit_code == 0
    where = [line.partition("/")[0] + line[-8] for line in started]
    assert where == ["a1", "b1", "a0", "b0"]
    assert "4 runs: 0 finished, 4 to do" in said
    assert "[4/4] b/tests-Walk-v0/seed-0 finished" in said
    state = read_suite(tmp_path / "suite")
    assert state.counts() == {"finished": 4}
    samplers = {
        c.variant.name: json.loads((c.path / "config.json").read_text()) for c in state.cells
    }
    assert [samplers[name]["replay"]["sampler"] for name in "ab"] == ["dfs", "uniform"]
    before = contents(tmp_path / "suite")
    outcome, started, said = run_suite(tmp_path / "suite", spec)
    assert (outcome.exit_code, started) == (0, [])
    assert len(outcome.finished) == 4
    assert contents(tmp_path / "suite") == before


def test_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny_spec()
    (cell,) = scan(tmp_path / "suite", spec)
    original = EnvStream.step

    def killed(stream: EnvStream, action: int) -> object:
        if len(stream.actions) == 33:
            raise KeyboardInterrupt
        return original(stream, action)

    with monkeypatch.context() as patch:
        patch.setattr(EnvStream, "step", killed)
        assert main(arguments(cell)) == 130
    begin_suite_there(tmp_path / "suite", spec)
    (cell,) = read_suite(tmp_path / "suite").cells
    assert (cell.status, cell.step) == ("interrupted", 20)
    outcome, started, _ = run_suite(tmp_path / "suite", spec)
    assert started == [f"{cell.name} from 20"]
    run_suite(tmp_path / "whole", spec)
    whole = read_suite(tmp_path / "whole").cells[0]
    first, second = (json.loads((c.path / "eval.json").read_text()) for c in (cell, whole))
    assert first == second
    for one in (cell, whole):
        (one.path / "eval.json").unlink()
    assert_same_run(cell.path, whole.path, files=False)
    assert outcome.exit_code == 0


def begin_suite_there(directory: Path, spec: object) -> None:
    """Create the suite around an existing run, which is moved away meanwhile."""
    aside = directory.with_name("aside")
    directory.rename(aside)
    begin_suite(directory, spec)  # type: ignore[arg-type]
    for path in aside.iterdir():
        path.rename(directory / path.name)


@pytest.mark.faults
def test_failed_runs_are_listed_and_others_continue(tmp_path: Path) -> None:
    spec = tiny_spec(games=(env_id(Crash), WALK, env_id(NanReward)), steps=60)
    outcome, started, said = run_suite(tmp_path / "suite", spec)
    assert outcome.exit_code == 1
    assert len(started) == 3  # an error of the run is not retried
    assert [cell.game for cell in outcome.finished] == [WALK]
    (crash, why), (nan, _) = outcome.failed
    assert why == "ZeroDivisionError: the physics engine gave up"
    assert (crash.game, nan.game) == (env_id(Crash), env_id(NanReward))
    assert "the physics engine gave up" in said
    state = read_suite(tmp_path / "suite")
    assert [c.status for c in state.cells] == ["failed", "finished", "failed"]
    assert state.cells[0].reason == why
    assert state.cells[0].step == 46
    console = Console(file=io.StringIO(), width=300)
    report_failures(console, outcome.failed)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.startswith(f"failed: {crash.name}: {why}\n")
    # A second call retries only the failed runs.
    _, started, _ = run_suite(tmp_path / "suite", spec)
    assert started == [f"{crash.name} from 46", f"{nan.name} from 46"]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("code", "said", "attempts"),
    [
        (-9, "", 2),
        (137, "", 2),
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", 2),
        (1, "RuntimeError: DefaultCPUAllocator: can't allocate memory: ...", 2),
        (2, "unknown environment", 1),
        (-11, "", 1),
        (0, "", 1),
    ],
)
def test_run_killed_once_is_retried_and_killed_twice_has_failed(
    code: int, said: str, attempts: int, tmp_path: Path
) -> None:
    pool = HerePool(lambda cell: Here(code, failure_reason(code, said)))
    outcome, started, text = run_suite(tmp_path / "suite", tiny_spec(), pool)
    assert len(started) == attempts
    assert ("retrying from step 0" in text) == (attempts == 2)
    assert outcome.exit_code == 1
    (cell,) = read_suite(tmp_path / "suite").cells
    assert cell.status == "failed"
    assert cell.reason == outcome.failed[0][1] != ""


@pytest.mark.faults
def test_run_killed_once_resumes_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def killed_the_first_time(cell: Cell) -> Here | None:
        nonlocal calls
        calls += 1
        if calls > 1:
            return None
        Agent(config=cell.config).learn(25, run_dir=cell.path)
        return Here(-9, "killed by SIGKILL")

    outcome, started, _ = run_suite(
        tmp_path / "suite", tiny_spec(), HerePool(killed_the_first_time)
    )
    name = outcome.finished[0].name
    assert started == [f"{name} from 0", f"{name} from 25"]
    assert outcome.exit_code == 0


@pytest.mark.faults
def test_run_that_cannot_start_is_listed_and_others_continue(tmp_path: Path) -> None:
    def full(cell: Cell) -> Here | None:
        if cell.seed == 0:
            raise OSError(28, "No space left on device")
        return None

    outcome, _, _ = run_suite(tmp_path / "suite", tiny_spec(seeds=(0, 1)), HerePool(full))
    assert outcome.exit_code == 1
    assert [cell.seed for cell in outcome.finished] == [1]
    assert outcome.failed[0][1] == "cannot start: [Errno 28] No space left on device"


# -- stopping ----------------------------------------------------------------------------------


class Slow(Here):
    """A run that ends with 130 some polls after the stop request."""

    def __init__(self, runner: list[Runner], patience: int) -> None:
        super().__init__(0, "")
        self.runner = runner
        self.patience = patience
        self.looks = 0

    def poll(self) -> int | None:  # type: ignore[override]
        self.looks += 1
        if self.looks == 3:
            self.runner[0].interrupt()
        if self.asked:
            self.patience -= 1
        if "kill" in self.asked:
            return -9
        if self.patience == 5:
            self.runner[0].interrupt()
        return 130 if self.patience < 0 else None


@pytest.mark.parametrize(("patience", "asked"), [(2, ["stop"]), (8, ["stop", "kill"])])
def test_interrupted_suite_stops_its_runs_and_lists_the_unfinished(
    patience: int, asked: list[str], tmp_path: Path
) -> None:
    spec = tiny_spec(seeds=(0, 1, 2))
    begin_suite(tmp_path / "suite", spec)
    runners: list[Runner] = []
    slow = Slow(runners, patience)

    class OneAtATime(HerePool):
        def has_capacity(self) -> bool:
            return not self.started

    pool = OneAtATime(lambda cell: slow)
    said = io.StringIO()
    runners.append(Runner(tmp_path / "suite", spec, pool, View(Console(file=said, width=200))))
    outcome = runners[0].run()
    assert slow.asked == asked
    assert outcome.exit_code == 130
    assert len(outcome.open) == 3
    assert outcome.failed == []
    assert len(pool.started) == 1
    assert "stopping 1 run after the current step" in said.getvalue()
    assert ("runs killed" in said.getvalue()) == ("kill" in asked)
    assert read_suite(tmp_path / "suite").counts() == {"missing": 3}  # nothing counts as failed


# -- another process ---------------------------------------------------------------------------


@pytest.mark.faults
def test_run_waits_for_its_former_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fcntl")
    spec = tiny_spec()
    (cell,) = scan(tmp_path / "suite", spec)
    begin_suite(tmp_path / "suite", spec)
    Agent(config=cell.config).learn(25, run_dir=cell.path)
    lock = RunLock(cell.path)
    lock.acquire()
    looks = 0

    class Waiting(HerePool):
        def has_capacity(self) -> bool:
            nonlocal looks
            looks += 1
            if looks == 4:
                assert not self.started
                lock.release()
            return True

    outcome, started, said = run_suite(tmp_path / "suite", spec, Waiting())
    assert outcome.exit_code == 0
    assert started == [f"{cell.name} from 25"]
    assert said.count("waiting: run directory") == 1
    # If that never ends, the run fails, and its directory is not written.
    (cell.path / "eval.json").unlink()
    lock.acquire()
    before = contents(tmp_path / "suite")
    monkeypatch.setattr(runner_module, "LOCK_SECONDS", 0.05)
    outcome, started, _ = run_suite(tmp_path / "suite", spec)
    assert (outcome.exit_code, started) == (1, [])
    assert "in use by process" in outcome.failed[0][1]
    assert contents(tmp_path / "suite") == before
    lock.release()


@pytest.mark.faults
def test_run_that_cannot_be_locked_fails_at_once(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    spec = tiny_spec(seeds=(0, 1))
    cell, _ = scan(tmp_path / "suite", spec)
    begin_suite(tmp_path / "suite", spec)
    Agent(config=cell.config).learn(25, run_dir=cell.path)
    (cell.path / ".lock").mkdir()
    outcome, _, said = run_suite(tmp_path / "suite", spec)
    assert "waiting" not in said
    assert [cell.seed for cell in outcome.finished] == [1]
    assert outcome.failed[0][1].startswith(f"cannot lock {cell.path}: .lock: ")


# -- messages ----------------------------------------------------------------------------------


def test_failure_reasons_are_readable() -> None:
    assert failure_reason(2, "it said so") == "it said so"
    assert failure_reason(3, "") == "exit code 3 without output"
    assert failure_reason(-9, "x") == "killed by SIGKILL (possibly out of memory)"
    assert failure_reason(-15, "x") == "killed by SIGTERM"
    assert failure_reason(130, "x").startswith("stopped by a signal")
    assert not is_transient(0, "out of memory is a nice title")


def test_reason_is_the_last_line_of_the_last_attempt(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("drama: error: the first\n")
    offset = log.stat().st_size
    assert last_line(log) == "the first"
    assert last_line(log, offset) == ""
    with log.open("a") as file:
        file.write("Traceback\nValueError: no\n\n  \n")
    assert last_line(log, offset) == "ValueError: no"


def test_step_is_read_from_the_logs(tmp_path: Path) -> None:
    assert logged_step(tmp_path) == 0
    (tmp_path / "metrics.jsonl").write_text('{"step": 10}\n{"step": 20}\n')
    (tmp_path / "episodes.jsonl").write_text('{"step": 23, "return": 1}\n{"step": 3')
    assert logged_step(tmp_path) == 23
    (tmp_path / "episodes.jsonl").write_text("garbage\n")
    assert logged_step(tmp_path) == 20


def test_remaining_time_is_divided_among_parallel_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(view_module.time, "monotonic", lambda: clock)
    spec = tiny_spec(seeds=(0, 1, 2), variants=(tiny_variant("a"), tiny_variant("b")), steps=1000)
    cells = scan(tmp_path, spec)
    console = Console(file=io.StringIO(), width=200, force_terminal=True)
    view = View(console)
    view.begin(cells)
    assert view.left() is None
    view.started(cells[0], "here")
    view.started(cells[3], "there")
    for cell in (cells[0], cells[3]):
        cell.path.mkdir(parents=True)
    clock = 101.0
    view.refresh(4)
    clock = 111.0
    for cell, step in ((cells[0], 100), (cells[3], 200)):
        (cell.path / "metrics.jsonl").write_text(f'{{"step": {step}}}\n')
    view.refresh(4)
    # a: 10 steps/s, 900 + 2 * 1000 left; b: 20 steps/s, 800 + 2 * 1000 left; two at a time.
    assert view.left() == pytest.approx((2900 / 10 + 2800 / 20) / 2)
    assert view.summary() == "0 of 6 finished, 2 running, 4 waiting, ETA 3:35"
    view.end()
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("a/tests-Walk-v0/seed-0", "100/1,000", "10.0", "1:30", "b/tests", "0:40"):
        assert word in shown
    gauge = Gauge(cells[1])
    assert (gauge.rate, gauge.left) == (None, None)


def test_plain_lines_are_printed_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(view_module.time, "monotonic", lambda: clock)
    said = io.StringIO()
    view = View(Console(file=said, width=200))
    view.begin(scan(tmp_path, tiny_spec()))
    for clock in (1.0, 30.0, 59.0, 61.0, 100.0, 122.0):  # noqa: B007 - it is read by the view
        view.refresh(1)
    assert said.getvalue().count("0 of 1 finished") == 2


def test_first_plain_line_shows_the_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(view_module.time, "monotonic", lambda: clock)
    said = io.StringIO()
    view = View(Console(file=said, width=200))
    (cell,) = scan(tmp_path, tiny_spec(steps=1000))
    view.begin([cell])
    view.started(cell, "here")
    cell.path.mkdir(parents=True)
    for clock in (20.0, 60.0):
        (cell.path / "metrics.jsonl").write_text(f'{{"step": {5 * clock:.0f}}}\n')
        view.refresh(0)
    # 100 steps after 20 s, 300 after 60: 5 steps/s, 700 left.
    assert "0 of 1 finished, 1 running, ETA 2:20" in said.getvalue()
