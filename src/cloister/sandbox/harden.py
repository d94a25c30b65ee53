"""What every process that holds keys or plaintext does to itself first: no core dump, no debugger.

Standard library only, so that it costs nothing to call as the first line of a program. It knows
nothing of bubblewrap: a process hardens itself whether or not it lies in a sandbox.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_GET_DUMPABLE = 3
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_NO_NEW_PRIVS = 39

_libc = ctypes.CDLL(None, use_errno=True)


def harden_process() -> None:
    """Make this process undumpable and without core files or new privileges.

    `exec` sets the dumpable flag again, so each program calls this for itself. A process that is not
    dumpable can be neither traced nor read through `/proc/<pid>/{mem,fd,environ}` by its own account.

    Raises:
        OSError: the kernel refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def dumpable() -> bool:
    """Whether this process could be dumped or traced by its own account."""
    return _prctl(_PR_GET_DUMPABLE) != 0


def no_new_privileges() -> bool:
    """Whether `exec` of a setuid program is without effect here."""
    return _prctl(_PR_GET_NO_NEW_PRIVS) == 1


def core_limit() -> int:
    """The hard limit on core files, in bytes; -1 where there is none."""
    return resource.getrlimit(resource.RLIMIT_CORE)[1]


def die_with_parent(parent: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Ask for a signal when the parent dies; end at once if `parent` is no longer the parent."""
    _prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(127)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _prctl(option: int, argument: int = 0) -> int:
    result: int = _libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")
    return result
