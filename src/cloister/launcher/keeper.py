"""A second process, so that nothing of the launcher's outlives it at any moment.

bubblewrap's children ask for their death signal only after a few milliseconds. Where the launcher is
killed in these, one would wait for ever, holding the job document. The keeper is the launcher's
parent and adopts what the launcher leaves. It knows nothing of sandboxes.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType

from cloister.launcher import processes
from cloister.sandbox.harden import adopt_orphans, die_with_parent

KEEPER_DIED = signal.SIGHUP
"""What the launcher gets when its keeper is killed: it ends its sandboxes itself, and at once."""


def keep(launch: Callable[[], int]) -> int:
    """Run `launch` in a child and end what is left of it when that ends; return its exit status.

    SIGTERM and SIGINT are passed on to the child.
    """
    adopt_orphans()
    keeper = os.getpid()
    # A signal between fork and the handlers waits for them.
    passed_on = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            die_with_parent(keeper, KEEPER_DIED)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)
            status = launch()
        finally:
            os._exit(status)

    def pass_on(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in passed_on:
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, passed_on)

    status = 0
    while True:
        pid, ended = os.waitpid(-1, 0)
        if pid == child:
            status = os.waitstatus_to_exitcode(ended)
            break
    for number in passed_on:
        signal.signal(number, signal.SIG_IGN)
    _end_orphans(keeper)
    return status if status >= 0 else 128 - status


def _end_orphans(keeper: int) -> None:
    """Kill all children until there are none: each one's own children become ours when it ends."""
    while True:
        for pid in processes.children_of_all().get(keeper, ()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return
