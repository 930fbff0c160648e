"""The process a killable backend runs in: `python -P -m closegap.mip._worker`.

Reads requests from standard input and writes answers to standard output, both as the messages of
`multiprocessing.connection`. Whatever native code prints is thrown away, for solvers warn of what
they then do without; where `CLOSEGAP_DEBUG` is 1 it goes to standard error. The process ends when
its parent does: by end of file on its input, or, should another process hold that pipe open, by
the change of its parent's number.

    parent -> worker   ("solve", path, model, options)   ("stop",)
    worker -> parent   ("ready",)  ("point", point, objective)  ("bound", bound)
                       ("done", claim)  ("error", text)
"""

from __future__ import annotations

import os
import queue
import threading
from dataclasses import replace
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any

from closegap.mip.model import Model, SolveOptions

__all__ = ["main"]

_PARENT_CHECK_SECONDS = 1.0


def main() -> None:
    """Serve requests until the parent goes away."""
    inbox = Connection(os.dup(0), writable=False)
    outbox = Connection(os.dup(1), readable=False)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    if os.environ.get("CLOSEGAP_DEBUG") != "1":
        os.dup2(nowhere, 2)
    os.dup2(2, 1)
    requests: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(inbox, requests, stop), daemon=True).start()
    outbox.send(("ready",))
    while True:
        path, model, options = requests.get()
        outbox.send(_answer(outbox, path, model, replace(options, interrupted=stop.is_set)))


def _answer(outbox: Any, path: str, model: Model, options: SolveOptions) -> tuple[str, Any]:
    module, name = path.split(":")
    listening = replace(
        options,
        on_incumbent=lambda point, objective: outbox.send(("point", point, objective)),
        on_bound=lambda bound: outbox.send(("bound", bound)),
    )
    try:
        return "done", getattr(import_module(module), name)().solve(model, listening)
    except Exception as error:  # anything at all: the parent turns it into a failed claim
        return "error", f"{type(error).__name__}: {error}"


def _listen(inbox: Any, requests: queue.SimpleQueue[tuple[Any, ...]], stop: Any) -> None:
    """Queue requests and raise the flag, on a thread of its own, while a solve runs."""
    parent = os.getppid()
    while True:
        try:
            message = inbox.recv() if inbox.poll(_PARENT_CHECK_SECONDS) else None
        except (EOFError, OSError):
            os._exit(0)
        if message is None:
            if os.getppid() != parent:
                os._exit(0)
        elif message[0] == "stop":
            stop.set()
        else:
            stop.clear()
            requests.put(message[1:])


if __name__ == "__main__":
    main()
