"""Slow updates are attributed to CPU contention only if threads wait for a core."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.training.runs import tiny

from drama import Agent
from drama.training import contention as module
from drama.training.contention import ContentionWatch, Window, contention, waiting_seconds

needs_counts = pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the kernel does not count waiting"
)


def window(
    slowdown: float, waiting: float | None, load: float | None = 1.0, threads: int = 2
) -> Window:
    return Window(slowdown, waiting, load, cores=2, threads=threads)


@pytest.mark.parametrize(
    "measured",
    [
        window(1.0, 0.0),  # nothing special
        window(50.0, 0.0, load=9.0),  # larger updates: their threads run
        window(50.0, 0.1, load=9.0),
        window(1.5, 0.4),  # a fair share of the CPU
        window(3.0, 0.7, threads=1),
        window(50.0, None, load=2.0),  # only this run
        window(50.0, None, load=None),
        window(1.0, None, load=9.0),
    ],
)
def test_other_windows_are_not_contended(measured: Window) -> None:
    assert contention(measured) is None


@pytest.mark.parametrize(
    ("measured", "evidence"),
    [
        (window(12.0, 1.1), "1.1 threads of this run wait for a core on average, updates take 12"),
        (window(1.0, 1.1), "1.1 threads of this run wait for a core on average; continue"),
        (window(4.0, 0.25), "updates take 4 times as long as before"),
        (window(12.0, None, load=3.1), "the load is 3.1 on 2 cores, updates take 12 times"),
    ],
)
def test_contention_warning_names_evidence_and_remedy(measured: Window, evidence: str) -> None:
    text = contention(measured)
    assert text is not None
    assert evidence in text
    assert "--training.threads 1 (now 2), or stop the other processes" in text


def test_contention_with_one_thread_does_not_suggest_fewer() -> None:
    text = contention(window(5.0, 0.8, threads=1))
    assert text is not None
    assert "--training.threads" not in text
    assert text.endswith("; stop the other processes")


class Machine:
    """Simulated clock, wait counter and run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.waited = 0.0
        self.updates = {"world_model": 0, "behaviour": 0}
        self.phases = {"env": 0.0, "world_model": 0.0, "imagination": 0.0, "behaviour": 0.0}
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "waiting_seconds", lambda: self.waited)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        self.watch = ContentionWatch()

    def steps(self, count: int, seconds: float, waiting: float, behaviour: int = 1) -> list[str]:
        found = []
        for _ in range(count):
            self.updates["world_model"] += 1
            self.updates["behaviour"] += behaviour
            for phase in ("world_model", "imagination", "behaviour"):
                updates = 1 if phase == "world_model" else behaviour
                self.phases[phase] += seconds / 3 * updates
                self.now += seconds / 3 * updates
                self.waited += seconds / 3 * updates * waiting
            text = self.watch.scan(self.updates, self.phases)
            found += [text] if text else []
        return found


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_contention_that_begins_during_a_run_is_detected(machine: Machine) -> None:
    assert machine.steps(100, 1.0, 0.0) == []
    [_, text, *_] = machine.steps(10, 20.0, 0.45)  # the first window is of both kinds
    assert "updates take 20 times as long as before" in text


def test_contention_from_the_start_is_detected(machine: Machine) -> None:
    [text, *_] = machine.steps(10, 20.0, 1.1)
    assert "1.1 threads" in text
    assert "as long as before" not in text


def test_larger_updates_are_not_contention(machine: Machine) -> None:
    assert machine.steps(100, 1.0, 0.0) == []
    assert machine.steps(100, 50.0, 0.05) == []


def test_another_ratio_of_updates_is_not_contention(machine: Machine) -> None:
    assert machine.steps(200, 1.0, 0.3, behaviour=0) == []
    assert machine.steps(200, 1.0, 0.3, behaviour=9) == []


def test_a_window_without_updates_has_no_finding(machine: Machine) -> None:
    for _ in range(100):
        machine.now += 10.0
        machine.waited += 10.0
        assert machine.watch.scan(machine.updates, machine.phases) is None


@needs_counts
def test_waiting_time_of_threads_is_counted() -> None:
    first = waiting_seconds()
    assert first is not None
    second = waiting_seconds()
    assert second is not None
    assert second >= first >= 0


@pytest.fixture
def busy() -> Iterator[None]:
    """Three busy processes for each core."""
    count = 3 * (os.cpu_count() or 1)
    loop = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_run_warns_of_contention_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = iter(range(1000))
    monkeypatch.setattr(ContentionWatch, "scan", lambda *_: f"contended: {next(scans)}")
    warnings: list[str] = []
    agent = Agent("drama/Catch-v0", tiny())
    agent.learn(30, listeners=[lambda event, text: warnings.append(f"{event}: {text}")])
    assert [text for text in warnings if "contended" in text] == ["warning: contended: 0"]


@needs_counts
@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.usefixtures("busy")
def test_run_among_busy_processes_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ContentionWatch.__init__, "__defaults__", (0.2,))
    warnings: list[str] = []

    def listen(event: str, payload: object) -> None:
        if event == "warning":
            warnings.append(str(payload))

    config = tiny({"training.threads": 2, "training.warmup_steps": 16})
    agent = Agent("drama/Catch-v0", config)
    agent.learn(60, lambda *_: not any("contended" in w for w in warnings), listeners=[listen])
    agent.learn(4, listeners=[listen])
    [text] = [text for text in warnings if "contended" in text]
    assert "wait for a core" in text
