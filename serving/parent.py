"""Workers end with `bentoml serve`, which started them.

Without it, nobody restarts or stops them, and they hold the port against the next start.
"""

import os
import signal
import sys
import threading
import time

VARIABLE = "DIGITS_PARENT"
PR_SET_PDEATHSIG = 1  # from linux/prctl.h
LOOK_SECONDS = 0.5


def announce_parent() -> None:
    """Let the workers that this process will start know its number."""
    os.environ[VARIABLE] = str(os.getpid())


def end_with_parent() -> None:
    """Stop this worker as SIGTERM does, with its accepted requests answered, when its parent has ended."""
    if not (parent := int(os.environ.get(VARIABLE, "0"))):
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        _end_without(parent)  # no signal comes for a parent that ended before
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while not _end_without(parent):
        time.sleep(LOOK_SECONDS)


def _end_without(parent: int) -> bool:
    if gone := os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
    return gone
