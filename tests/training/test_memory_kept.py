"""Freed memory stays with the process during training and is returned afterwards."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

from drama.training.memory import keep_freed_memory

MEGABYTES = 512
PAGES = MEGABYTES * 2**20 // 4096

# In a separate process: the heap of earlier tests changes where blocks go.
SCRIPT = """
import json, resource, sys
import torch
from drama.training.memory import keep_freed_memory

torch.set_num_threads(1)

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(int(sys.argv[1]) * 2**18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

found = {"before": resident(), "faults": []}
with keep_freed_memory() as kept:
    found["kept"] = kept
    # A block whose last place is partly reused gets another place: most processes do that once or
    # twice, and then reuse both.
    for _ in range(8):
        found["faults"].append(faults())
    found["inside"] = resident()
found["after"] = resident()
found["faults"].append(faults())
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_reused_during_training_and_returned_after() -> None:
    command = [sys.executable, "-c", SCRIPT, str(MEGABYTES)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["kept"]
    _, *again, outside = found["faults"]
    assert min(again) < 100
    assert found["inside"] - found["before"] > PAGES // 2
    assert found["after"] - found["before"] < PAGES // 2
    assert outside > 100


def test_other_c_libraries_are_unaffected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("musl", "1.2"))
    with keep_freed_memory() as kept:
        assert not kept
