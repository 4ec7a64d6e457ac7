"""``python -m drama.cli.child PARENT COMMAND ...``: run ``drama COMMAND ...`` bound to its parent.

A suite that is killed cannot stop its runs. A run watches its parent's process id instead and ends
as on SIGTERM when it changes: it saves after the current step. Until then it holds the lock of its
run directory, so that nothing else writes there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

from drama.cli.app import main as drama

WATCH_SECONDS = 0.5
"""Interval of the checks of the parent's process id."""


def main(argv: list[str]) -> int:
    """Run one command of ``drama`` for the process ``argv[0]``; return the exit code."""
    parent, *args = argv
    threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
    return drama(args)


def _watch(parent: int) -> None:
    # Not the first getppid(): the parent may have died while this process was importing.
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
