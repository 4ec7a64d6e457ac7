"""``python -m drama.suite.child PARENT COMMAND ...``: ``drama COMMAND ...`` that minds its parent.

A suite may be killed so that it cannot stop its runs. They notice that they have another parent,
and end as on SIGTERM: after the step in hand, saved. Until then they hold the lock of their run
directory, so that nothing else writes there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

WATCH_SECONDS = 0.5
"""Time between looks at the parent."""


def main(argv: list[str]) -> int:
    """Run one command of ``drama`` for the process ``argv[0]``; returns the exit code."""
    parent, *args = argv
    threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
    from drama.cli import main as drama

    return drama(args)


def _watch(parent: int) -> None:
    # Compared with what the parent called itself, not with what getppid() said first: it may have
    # died while this process was still importing.
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
