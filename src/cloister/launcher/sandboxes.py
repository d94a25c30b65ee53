"""One running sandbox: its output, its end, and how it is stopped. It reads what the sandbox prints
and nothing that the sandbox is given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
from collections.abc import Sequence
from datetime import UTC, datetime

from cloister.api import Failure, SandboxSpec, SandboxState
from cloister.descriptors import close_all
from cloister.launcher import processes
from cloister.launcher.cgroup import Cgroup
from cloister.launcher.lines import LineBuffer, LineSplitter
from cloister.sandbox import PythonPaths, spawn_sandbox

_READ = 256 << 10
_BURST = 2 << 20
"""Bytes of output taken in one `_WINDOW_S`; a program that prints faster waits on its full pipe."""
_WINDOW_S = 0.2
_KEPT_STDERR = 4096
_BUILD_TIMEOUT_S = 20.0


class Sandbox:
    """A sandbox that has been started. All methods run on the event loop that started it."""

    def __init__(self, spec: SandboxSpec, *, sandboxed: bool, cgroup: Cgroup | None) -> None:
        self.spec = spec
        self.lines = LineBuffer()
        self.exit_code: int | None = None
        self.started_at = datetime.now(UTC)
        self.ended = asyncio.Event()
        self.changed = asyncio.Event()
        """Set at the next line, or the end, and then replaced: take it before looking for lines."""
        self._sandboxed = sandboxed
        self._cgroup = cgroup
        self._loop = asyncio.get_running_loop()
        self._splitter = LineSplitter()
        self._pid = 0
        self._init: int | None = None
        self._pidfds: list[int] = []
        self._fds: list[int] = []
        self._output = -1
        self._status_fd: int | None = None
        self._stderr = b""
        self._status = b""
        self._taken = 0
        self._stopping = False
        self._built = asyncio.Event()

    async def start(
        self, stdin: int, extra: Sequence[int], python: PythonPaths, program: Sequence[str] | None
    ) -> None:
        """Build it. Returns once its first process exists, or once it has ended instead."""
        theirs: list[int] = []
        try:
            for _ in range(2):
                ours, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                self._fds.append(ours)
                theirs.append(end)
                os.set_blocking(end, True)
            spawned = spawn_sandbox(
                self.spec,
                stdin=stdin,
                stdout=theirs[0],
                stderr=theirs[1],
                extra=extra,
                python=python,
                program=program,
                sandboxed=self._sandboxed,
                before_exec=self._cgroup.enter if self._cgroup else None,
            )
        except BaseException:
            self._close()
            raise
        finally:
            close_all(theirs)
        self._pid = spawned.pid
        self._status_fd = spawned.status_fd
        if spawned.status_fd is not None:
            self._fds.append(spawned.status_fd)
        try:
            self._listen(spawned.status_fd)
        except BaseException:  # nobody would ever know of its end
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._close()
            raise
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_BUILD_TIMEOUT_S):
                await self._built.wait()

    def _listen(self, status: int | None) -> None:
        self._output, errors = self._fds[:2]
        self._watch(self._pid)
        self._loop.add_reader(self._output, self._on_output)
        self._loop.add_reader(errors, self._on_stderr, errors)
        if status is None:
            self._built.set()
        else:
            os.set_blocking(status, False)
            self._loop.add_reader(status, self._on_status, status)

    async def stop(self, grace_s: float) -> None:
        """SIGTERM to the program, SIGKILL to all of it after `grace_s`; returns when it has ended."""
        if self.exit_code is not None:
            return
        self._stopping = True
        deadline = self._loop.time() + grace_s
        while self.exit_code is None and self._loop.time() < deadline:
            program = self.program_pid()
            if program is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program, signal.SIGTERM)
                break
            await asyncio.sleep(0.01)  # it is still being built
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self.ended.wait()
        self.kill()
        await self.ended.wait()

    def kill(self) -> None:
        """End every process of it, now."""
        if self.exit_code is not None:
            return
        for pidfd in reversed(self._pidfds):  # the first process of the namespace takes all others along
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)

    def program_pid(self) -> int | None:
        """The host's number of the process that runs the program, None before there is one."""
        if not self._sandboxed:
            return self._pid
        if self._init is None or self.exit_code is not None:
            return None
        below = processes.children_of_all().get(self._init)
        return below[0] if below else None

    def state(self) -> SandboxState:
        """As it is now, with the memory of all its processes together."""
        resident = pid = None
        if self.exit_code is None:
            children = processes.children_of_all()
            first = self._init or self._pid
            resident = processes.resident_bytes(processes.descendants(first, children))
            pid = next(iter(children.get(first, ())), None) if self._sandboxed else self._pid
        return SandboxState(
            sandbox_id=self.spec.sandbox_id,
            program=self.spec.program,
            pid=pid or self._pid,
            started_at=self.started_at,
            events=self.lines.last,
            exit_code=self.exit_code,
            rss_bytes=resident,
        )

    def _announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def _watch(self, pid: int) -> None:
        """Notice the end of `pid`."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:  # only ever a namespace's first process, already gone
            return
        self._pidfds.append(pidfd)
        self._loop.add_reader(pidfd, self._on_exit)

    def _on_output(self) -> None:
        try:
            data = os.read(self._output, _READ)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._output)
            return
        self._take(data)
        if self._taken == 0:
            self._loop.call_later(_WINDOW_S, self._next_window)
        self._taken += len(data)
        if self._taken >= _BURST:
            self._loop.remove_reader(self._output)

    def _next_window(self) -> None:
        paused, self._taken = self._taken >= _BURST, 0
        if paused and self.exit_code is None:
            self._loop.add_reader(self._output, self._on_output)

    def _take(self, data: bytes) -> None:
        before = self.lines.last
        for line in self._splitter.feed(data):
            self.lines.append(line)
        if self.lines.last != before:
            self._announce()

    def _on_stderr(self, descriptor: int) -> None:
        """bubblewrap's own complaints are kept; all else that is printed there could be content."""
        try:
            data = os.read(descriptor, _READ)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(descriptor)
        elif len(self._stderr) < _KEPT_STDERR:
            self._stderr += data[: _KEPT_STDERR - len(self._stderr)]

    def _on_status(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, 4096)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(descriptor)
            return
        self._status += data[:4096]
        if self._init is None and b"\n" in self._status:
            pid = json.loads(self._status.split(b"\n", 1)[0]).get("child-pid")
            children = processes.children_of_all()
            # Where bubblewrap was killed in the meantime, the keeper has adopted it.
            if isinstance(pid, int) and pid in (
                *children.get(self._pid, ()),
                *children.get(os.getppid(), ()),
            ):
                self._init = pid
                with contextlib.suppress(OSError):  # short of descriptors: bubblewrap's own end has to do
                    self._watch(pid)
            self._built.set()

    def _on_exit(self) -> None:
        """Called when bubblewrap or the namespace's first process has ended: wait for both."""
        for pidfd in list(self._pidfds):
            if _has_ended(pidfd):
                self._loop.remove_reader(pidfd)
        if not _has_ended(self._pidfds[0]):
            return
        # Whatever killed bubblewrap may have left its child, which leaves the group before it asks for its death
        # signal (bubblewrap.c, setsid and the second handle_die_with_parent): it has been named by then.
        if self._init is None and self._status_fd is not None:
            self._on_status(self._status_fd)
        # The group's number is ours until waitpid.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        alive = [pidfd for pidfd in self._pidfds[1:] if not _has_ended(pidfd)]
        if alive:
            for pidfd in alive:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return
        if self.exit_code is None:
            self._finish(os.waitpid(self._pid, 0)[1])

    def _finish(self, status: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._output, _READ):
                self._take(data)
        for line in self._splitter.finish():
            self.lines.append(line)
        with contextlib.suppress(BlockingIOError):
            self._stderr += os.read(self._fds[1], _KEPT_STDERR)
        code = os.waitstatus_to_exitcode(status)
        if self._sandboxed and code > 128:
            code = 128 - code  # bubblewrap tells a signal as a shell does
        missing = self._missing_end(code)
        if missing is not None:
            self.lines.append(missing.model_dump_json().encode())
        self.exit_code = code
        self._close()
        if self._cgroup is not None:
            self._cgroup.remove()
        self._built.set()
        self.ended.set()
        self._announce()

    def _close(self) -> None:
        ours = [*self._fds, *self._pidfds]
        self._fds.clear()
        self._pidfds.clear()
        for descriptor in ours:
            self._loop.remove_reader(descriptor)
        close_all(ours)

    def _missing_end(self, code: int) -> Failure | None:
        """What a program that ended without saying why would have said."""
        if self.lines.final == "failure" or (code == 0 and self.lines.final is not None):
            return None
        if self._stopping:
            if self.lines.final is not None:
                return None
            return Failure(code="interrupted", message="The work was stopped before it could finish.")
        said = next((line for line in self._stderr.splitlines() if line.startswith(b"bwrap: ")), None)
        if said is not None and self.lines.last == 0:
            return Failure(
                code="sandbox-unavailable",
                message=f"The sandbox could not be built: {said.decode(errors='replace')[:500]}",
                remedy="Run `cloister doctor`.",
            )
        if self._cgroup is not None and self._cgroup.out_of_memory():
            return Failure(code="out-of-space", message="The work was ended because memory ran out.")
        how = f"signal {-code} ({_signal_name(-code)})" if code < 0 else f"exit status {code}"
        remedy = "If the machine ran out of memory, ask for less of it at once." if code == -9 else None
        return Failure(
            code="job-failed",
            message=f"The {self.spec.program} ended without a result: {how}.",
            remedy=remedy,
        )


def _has_ended(pidfd: int) -> bool:
    """Whether the process of this descriptor has ended, waited for or not."""

    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
