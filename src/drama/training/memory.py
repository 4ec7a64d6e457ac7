"""Reuse of freed memory; measured and available memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from drama.config import Config
from drama.errors import ConfigError
from drama.observations import ObsSpace
from drama.text import size
from drama.world_model.encoder import feature_maps

# Parameters of mallopt(3) and what they are by default.
_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD = -1, 128 * 1024
_MMAP_MAX, _DEFAULT_MMAP_MAX = -4, 65_536
_NEVER, _NONE = -1, 0


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Keep freed memory in the process for reuse inside the context, instead of returning it.

    glibc takes blocks above 32 MB from the system one by one and returns each when it is freed;
    an update allocates gigabytes of them, and the kernel clears every page again. Kept pages made
    an XS update on a CPU a third shorter, at a higher resident size, since blocks of different
    sizes do not always fit.

    Yields:
        Whether anything was changed: not where the C library is another one.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield False
        return
    mallopt(_MMAP_MAX, _NONE)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield True
    finally:
        mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
        mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
        ctypes.CDLL(None).malloc_trim(0)


def _mallopt() -> ctypes._NamedFuncPointer | None:
    if platform.libc_ver()[0] != "glibc":
        return None
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = [ctypes.c_int, ctypes.c_int]
    return mallopt


# -- how much is used, and how much there is -------------------------------------------------------


class PeakMemory:
    """Peak memory between :meth:`start` and :meth:`read`, beyond what was held before.

    On the CPU that is the process's resident memory: on Linux by the kernel's own high-water mark,
    elsewhere by the largest size the process ever had, so that only a new maximum is seen. On CUDA
    it is what PyTorch's allocator reserved, on MPS what the driver had given by the end.

    Args:
        device: Whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held = 0
        self._resettable = False

    def start(self) -> None:
        """Begin with what is held now, freed memory given back first."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            self._held = torch.cuda.memory_reserved(self.device)
        elif self.device.type == "mps":
            torch.mps.empty_cache()
            self._held = torch.mps.driver_allocated_memory()
        else:
            if _mallopt() is not None:
                ctypes.CDLL(None).malloc_trim(0)
            try:
                # Lowers VmHWM to VmRSS: "clear_refs" in proc(5).
                Path("/proc/self/clear_refs").write_text("5")
                self._resettable = True
                self._held = _status("VmRSS")
            except OSError:
                self._resettable = False
                self._held = _largest_resident()

    def read(self) -> int | None:
        """Return the peak in bytes since :meth:`start`; None if unknown."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_reserved(self.device) - self._held
        if self.device.type == "mps":
            return max(0, torch.mps.driver_allocated_memory() - self._held)
        if self._resettable:
            return max(0, _status("VmHWM") - self._held)  # the kernel counts in batches of pages
        return (_largest_resident() - self._held) or None


def resident_bytes() -> int | None:
    """Return the process's resident memory; None if the system does not report it (not Linux)."""
    try:
        return _status("VmRSS")
    except OSError:
        return None


def available_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Return the memory that a further process could take on ``device``; None if unknown.

    On the CPU the limits of a container and of the process (``ulimit -v``) count too, and on
    systems other than Linux all of the machine's memory has to do.

    Args:
        device: Whose memory; on MPS it is the machine's.
        root: Where ``proc`` and ``sys`` are.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        text = (root / "proc/meminfo").read_text()
    except OSError:
        return _physical_bytes()
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    free = [1024 * int(found[1])] if found else []
    free += _room_below_ulimit()
    group = root / "sys/fs/cgroup"
    for limit, used, stat, cache in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),  # version 2, then 1
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            room = int((group / limit).read_text()) - int((group / used).read_text())
            lines = dict(line.split() for line in (group / stat).read_text().splitlines())
            # File caches are freed on demand.
            free.append(max(0, room + int(lines.get(cache, 0))))
        except (OSError, ValueError):  # not there, or without a limit
            continue
    return min(free, default=None)


def _room_below_ulimit() -> list[int]:
    """Bytes of address space left to this process, where it is limited (``ulimit -v``)."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        return [] if limit == resource.RLIM_INFINITY else [max(0, limit - _status("VmSize"))]
    except (ImportError, OSError):  # Windows; no /proc
        return []


def _physical_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _status(field: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise OSError(f"/proc/self/status has no {field}")
    return 1024 * int(found[1])


def _largest_resident() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# -- what a run needs at least ---------------------------------------------------------------------


def least_bytes(config: Config, observations: ObsSpace) -> dict[str, int]:
    """Return the lower bound of a run's memory in bytes, by purpose.

    For an update, the largest feature maps of encoder and decoder count, kept for the backward
    pass in four bytes; ``drama doctor`` measures the total.

    Args:
        config: Of the run.
        observations: Those that are kept and learnt from.
    """
    c = config.world_model
    numbers = 0
    for leaf in observations.leaves:
        values = math.prod(leaf.shape)
        width = len(leaf.classes) * max(leaf.classes, default=0) or values
        if leaf.kind == "image":
            first = feature_maps(leaf.shape[0], leaf.shape[1], c)[0]
            width = first.height * first.width * c.filters[0]
        numbers += values + 2 * width
    return {
        "replay": config.replay.capacity * (observations.nbytes + 40),
        "update": 4 * c.batch_size * c.batch_length * numbers,
    }


def check_room(
    config: Config, observations: ObsSpace, ring: torch.device, device: torch.device
) -> None:
    """Refuse a run that cannot fit, before anything is allocated.

    Args:
        config: Of the run.
        observations: Those that are kept and learnt from.
        ring: Where the replay lives.
        device: Where updates are made.

    Raises:
        ConfigError: It needs more memory than is free.
    """
    least = least_bytes(config, observations)
    places = {"replay": ring, "update": device}
    for place in dict.fromkeys(places.values()):
        free = available_bytes(place)
        parts = {name: size for name, size in least.items() if places[name] == place}
        if free is not None and sum(parts.values()) > free:
            shown = ", ".join(f"{name} {size(part)}" for name, part in parts.items())
            raise ConfigError(
                f"the run needs at least {size(sum(parts.values()))} on {place} ({shown}), "
                f"{size(free)} are free: lower replay.capacity, world_model.batch_size or "
                "world_model.batch_length"
            )
