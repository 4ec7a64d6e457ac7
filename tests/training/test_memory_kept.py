"""Freed memory stays with the process while training, and goes back afterwards."""

from __future__ import annotations

import platform

import pytest
import torch

from drama.training.memory import keep_freed_memory

resource = pytest.importorskip("resource")
MEGABYTES = 512


def faults_of_a_big_tensor() -> int:
    """Pages that the kernel had to supply while half a gigabyte was filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(MEGABYTES * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_used_again_while_kept_and_given_back_after() -> None:
    before = resident()
    with keep_freed_memory() as kept:
        assert kept
        faults_of_a_big_tensor()
        assert faults_of_a_big_tensor() < 100
        assert resident() - before > MEGABYTES * 2**20 // 2
    assert resident() - before < MEGABYTES * 2**20 // 2
    assert faults_of_a_big_tensor() > 100


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    with keep_freed_memory() as kept:
        assert not kept
