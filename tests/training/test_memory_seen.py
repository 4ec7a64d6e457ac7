"""Measured memory use and available memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drama.training import memory
from drama.training.memory import PeakMemory, available_bytes, resident_bytes

CPU = torch.device("cpu")
MIB = 2**20

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the system does not tell"
)


@needs_proc
def test_peak_counts_memory_allocated_and_freed() -> None:
    peak = PeakMemory(CPU)
    peak.start()
    torch.ones(200 * MIB // 4)  # freed at once
    torch.ones(100 * MIB // 4)
    found = peak.read()
    assert found is not None
    assert 190 * MIB < found < 260 * MIB
    kept = torch.ones(50 * MIB // 4)
    peak.start()  # neither retained memory nor earlier memory counts
    found = peak.read()
    assert found is not None
    assert found < 20 * MIB
    assert kept.sum() > 0


@needs_proc
def test_peak_is_never_negative(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = PeakMemory(CPU)
    peak.start()
    monkeypatch.setattr(memory, "_status", lambda field: 0)
    assert peak.read() == 0


@needs_proc
def test_peak_without_reset_counts_only_a_new_maximum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(memory.Path, "write_text", refuse)
    sizes = iter([1000, 1000, 1000, 5000])
    monkeypatch.setattr(memory, "_largest_resident", lambda: next(sizes))
    peak = PeakMemory(CPU)
    peak.start()
    assert peak.read() is None  # no new maximum: the update's memory is not measured
    peak.start()
    assert peak.read() == 4000


@needs_proc
def test_resident_memory_grows_with_allocations() -> None:
    before = resident_bytes()
    held = torch.ones(100 * MIB // 4)
    after = resident_bytes()
    assert before is not None
    assert after is not None
    assert 90 * MIB < after - before < 110 * MIB
    assert held.sum() > 0


def test_memory_is_unknown_without_system_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(memory.Path, "read_text", missing)
    assert resident_bytes() is None
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.get)
    assert available_bytes(CPU) == 40960  # the whole machine
    monkeypatch.delattr(memory.os, "sysconf")
    assert available_bytes(CPU) is None


class Machine:
    """A directory with the memory files of a system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("proc/meminfo", "MemTotal:       16 kB\nMemAvailable:    8 kB\nCached: 1 kB\n")

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group(self, limit: str, used: str, stat: str) -> None:
        for name, text in (("max", limit), ("current", used), ("stat", stat)):
            self.write(f"sys/fs/cgroup/memory.{name}", text + "\n")

    def free(self) -> int | None:
        return available_bytes(CPU, self.root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_available_memory_is_read_from_the_system(machine: Machine) -> None:
    assert machine.free() == 8192
    machine.group("max", "5000", "anon 4000\ninactive_file 1000")  # a container without a limit
    assert machine.free() == 8192


def test_container_limit_is_respected(machine: Machine) -> None:
    machine.group("6000", "5000", "anon 4000\ninactive_file 900\nactive_file 100")
    assert machine.free() == 6000 - 5000 + 900
    machine.group("4000", "5000", "anon 4000\ninactive_file 900")  # lowered meanwhile
    assert machine.free() == 0
    machine.group("90000", "5000", "anon 4000")  # more than the machine has
    assert machine.free() == 8192


def test_cgroup_v1_limit_is_respected(machine: Machine) -> None:
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n")
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000\n")
    machine.write("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 500\n")
    assert machine.free() == 4500
