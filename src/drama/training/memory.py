"""What happens to memory that an update has freed."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections.abc import Iterator

# Parameters of mallopt(3) and what they are by default.
_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD = -1, 128 * 1024
_MMAP_MAX, _DEFAULT_MMAP_MAX = -4, 65_536
_NEVER, _NONE = -1, 0


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[bool]:
    """Let freed memory be used again, instead of going back to the system, while inside.

    glibc takes blocks above 32 MB from the system one by one and returns each when it is freed;
    an update asks for gigabytes of them, and every page of them is cleared by the kernel once
    more. Kept pages made an XS update on a CPU a third shorter; the price is a higher resident
    size, since blocks of different sizes do not always fit each other's places.

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
