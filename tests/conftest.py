"""What every test relies on: a fixed number of threads, no network, no display, a live Ctrl-C."""

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
# Runs made by tests are not to be trusted by anyone else.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="drama-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

# A shell that starts tests in the background has them ignore SIGINT, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Sums are split among the threads, so their number is part of what a test's floats depend on. One
# is about as fast as two for tensors this small, and does not stall where the cores are shared.
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

# A deadline would make a test's outcome depend on how busy the machine is; a random search would
# make it depend on the run.
settings.register_profile("drama", deadline=None, derandomize=True)
settings.load_profile("drama")
