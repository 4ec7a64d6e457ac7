"""Environment of every test: a fixed number of threads, no network, no display, working Ctrl-C."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

# Before torch is imported; child processes (the command line under test) inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Keep the runs of tests out of the user's trusted runs.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="drama-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# A shell ignores SIGINT for background processes, and some tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Floats depend on the number of threads, among which sums are split. One thread is about as fast as
# two for tensors this small, and does not stall on shared cores.
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# With a deadline a test would depend on the load of the machine; with a random search, on the run.
settings.register_profile("drama", deadline=None, derandomize=True)
settings.load_profile("drama")
