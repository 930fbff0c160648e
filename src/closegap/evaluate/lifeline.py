"""No orphans: a worker and its children die with the process that started them."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import threading

__all__ = ["die_with_parent"]


def die_with_parent(pipe: int) -> None:
    """Kill this process group as soon as the other end of `pipe` is closed.

    The parent holds the other end and never writes to it; the kernel closes it however the parent
    ends. The caller must lead its own process group, or it takes its parent's group along.

    On Linux the kernel itself sends the signal, so that native code which holds the interpreter
    lock does not delay it. Elsewhere a thread watches.

    Args:
        pipe: file descriptor of the reading end.
    """
    if os.getpgrp() != os.getpid():
        raise ValueError("die_with_parent needs a process that leads its own group")
    if sys.platform == "linux":
        fcntl.fcntl(pipe, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(pipe, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
        if select.select([pipe], [], [], 0)[0]:  # closed before the kernel was asked to watch
            os.killpg(0, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(pipe,), daemon=True).start()


def _watch(pipe: int) -> None:
    os.read(pipe, 1)
    os.killpg(0, signal.SIGKILL)
