"""The worker process: `python -m closegap.evaluate.worker CHANNEL LIFELINE`.

`ProcessExecutor` starts it as the leader of its own session. It reads the work once, then one task
after another, and answers each with `begun` and then `done`; nothing else imports this file.
"""

from __future__ import annotations

import gc
import os
import pickle
import sys
from collections.abc import Sequence
from functools import cache
from multiprocessing.connection import Connection

from closegap.evaluate.lifeline import die_with_parent
from closegap.evaluate.tasks import Message, attempt

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Serve tasks until the channel closes.

    Args:
        arguments: the file descriptors of the channel and of the lifeline.
    """
    channel, lifeline = (int(text) for text in arguments)
    for descriptor in (channel, lifeline):
        os.set_inheritable(descriptor, False)
    die_with_parent(lifeline)
    connection = Connection(channel)
    # Once: what was loaded stays, and collections need not walk over it.
    set_aside = cache(gc.freeze)

    def begun() -> None:
        set_aside()
        connection.send((Message.BEGUN, None))

    work = pickle.loads(connection.recv_bytes())
    connection.send((Message.READY, None))
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        answer = attempt(work, task, begun)
        connection.send((Message.DONE, answer))


if __name__ == "__main__":
    main(sys.argv[1:])
