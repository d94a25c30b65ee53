"""Starting one process with exactly the descriptors it is given, which dies with its starter.

Used for bubblewrap and, where the settings allow it, for a program without a sandbox. It knows
nothing of jobs or sockets.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloister.api import SandboxSpec
from cloister.sandbox import seccomp
from cloister.sandbox.command import (
    BWRAP,
    ETC_FILES,
    FIRST_DESCRIPTOR,
    PythonPaths,
    build_command,
    environment,
    program_command,
)
from cloister.sandbox.harden import die_with_parent

_BWRAP_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
_ABOVE_ALL = 512
"""Sources are first copied up here, so that no target overwrites one that is still needed."""


@dataclass(frozen=True)
class Spawned:
    """`pid` is bubblewrap's own (or the program's, without a sandbox). `status_fd` is bubblewrap's
    status as JSON, None without a sandbox; it is the caller's to close."""

    pid: int
    status_fd: int | None

    def close(self) -> None:
        """Close the status descriptor."""
        if self.status_fd is not None:
            os.close(self.status_fd)


def spawn(
    argv: Sequence[str],
    descriptors: Mapping[int, int],
    *,
    env: Mapping[str, str],
    cwd: str = "/",
    before_exec: Callable[[], Any] | None = None,
) -> int:
    """Start `argv` with `descriptors` (target number → source) and no others; return its process id.

    The process has its own session, default signals and no core files, and gets SIGKILL
    when the thread that started it ends. Call it from the main thread.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        die_with_parent(parent)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.chdir(cwd)
        if before_exec is not None:
            before_exec()
        copies = {
            target: fcntl.fcntl(source, fcntl.F_DUPFD, _ABOVE_ALL) for target, source in descriptors.items()
        }
        for target, copy in copies.items():
            os.dup2(copy, target, inheritable=True)
        _close_others(set(descriptors))
        os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606
    finally:
        os._exit(127)


def spawn_sandbox(
    spec: SandboxSpec,
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    extra: Sequence[int] = (),
    python: PythonPaths | None = None,
    program: Sequence[str] | None = None,
    sandboxed: bool = True,
    bwrap: str = BWRAP,
    before_exec: Callable[[], Any] | None = None,
) -> Spawned:
    """Build the sandbox of `spec` and start its program; `extra` become descriptors 3, 4, … inside.

    With `sandboxed=False` the program runs as an ordinary process that is told so.

    Raises:
        InvalidInput: a mount that no sandbox may have.
        OSError: no process or descriptor to be had.
    """
    python = python or PythonPaths.current()
    targets = {0: stdin, 1: stdout, 2: stderr}
    targets |= {FIRST_DESCRIPTOR + index: source for index, source in enumerate(extra)}
    following = FIRST_DESCRIPTOR + len(extra)
    if not sandboxed:
        env = environment(spec, python, sandboxed=False)
        argv = list(program or program_command(spec, python))
        return Spawned(spawn(argv, targets, env=env, before_exec=before_exec), None)

    with ExitStack() as closing, ExitStack() as on_error:

        def own(descriptor: int) -> int:
            closing.callback(os.close, descriptor)
            return descriptor

        seccomp_fd, following = following, following + 1
        targets[seccomp_fd] = own(memory_file("seccomp", seccomp.program()))
        etc_fds: dict[str, int] = {}
        for inside, content in ETC_FILES.items():
            etc_fds[inside], following = following, following + 1
            targets[etc_fds[inside]] = own(memory_file(Path(inside).name, content))
        status_read, status_write = os.pipe2(os.O_CLOEXEC)
        targets[following] = own(status_write)
        on_error.callback(os.close, status_read)
        command = build_command(
            spec,
            python=python,
            seccomp_fd=seccomp_fd,
            etc_fds=etc_fds,
            status_fd=following,
            program=program,
            bwrap=bwrap,
        )
        pid = spawn(command, targets, env=_BWRAP_ENVIRONMENT, before_exec=before_exec)
        on_error.pop_all()
        return Spawned(pid, status_read)


def memory_file(name: str, content: bytes) -> int:
    """A descriptor of a file in memory that holds `content`, positioned at its start."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close_others(keep: set[int]) -> None:
    edge = 0
    for descriptor in sorted(keep):
        if edge < descriptor:  # an empty range would be taken for one without end
            os.closerange(edge, descriptor)
        edge = descriptor + 1
    os.closerange(edge, max(edge + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
