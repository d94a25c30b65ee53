"""The launcher with real sandboxes: what goes in, what comes out, and how each end is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from launcher_process import SANDBOX, Running  # type: ignore[import-not-found]

from cloister.api import Mount, SandboxSpec
from cloister.errors import Conflict, Denied, InvalidInput, NotFound, Unavailable
from cloister.sandbox import memory_file

Launch = Callable[..., Running]

RESULT = 'print(\'{"event":"result","values":{}}\', flush=True)\n'
SLEEP = "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"


def test_job_descriptors_and_output_pass_through(launch: Launch) -> None:
    running = launch(
        "import os, sys\n"
        "print(sys.stdin.read(), os.read(3, 99).decode(), os.read(4, 99).decode(), flush=True)\n"
        "print(sorted(map(int, os.listdir('/proc/self/fd'))), flush=True)\n"
        "open('/out/file', 'w').write('made')\n" + RESULT
    )
    pipes = [os.pipe(), os.pipe()]
    for index, (_, write) in enumerate(pipes):
        os.write(write, b"descriptor %d" % index)
        os.close(write)

    async def check() -> None:
        state = await running.start(job=b"the job", extra=[read for read, _ in pipes])
        assert state.pid > 0
        events = await running.events()
        assert [event.number for event in events] == [1, 2, 3, 4]
        assert events[0].line == "the job descriptor 0 descriptor 1"
        assert events[1].line == "[0, 1, 2, 3, 4, 5]"  # 5 is the listing's own
        assert json.loads(events[2].line or "")["event"] == "result"
        assert (events[3].line, events[3].exit_code) == (None, 0)
        (listed,) = await running.client.list()
        assert (listed.exit_code, listed.events, listed.rss_bytes) == (0, 3, None)

    asyncio.run(check())
    for read, _ in pipes:
        os.close(read)
    assert (running.output_folder() / "file").read_text() == "made"
    assert len(os.listdir(f"/proc/{running.pid}/fd")) < 20  # nothing of the sandbox stays open


def test_a_hundred_descriptors_arrive(launch: Launch, tmp_path: Path) -> None:
    running = launch(
        "import os\nprint(all(os.read(3 + n, 9) == b'%d' % n for n in range(100)), flush=True)\n" + RESULT
    )
    files = [memory_file(f"file {index}", b"%d" % index) for index in range(100)]

    async def check() -> None:
        await running.start(extra=files)
        assert (await running.events())[0].line == "True"

    asyncio.run(check())
    for file in files:
        os.close(file)


def test_follow_resumes_from_any_number(launch: Launch) -> None:
    running = launch("for n in range(1, 501): print('line', n)\n" + RESULT)

    async def check() -> None:
        await running.start()
        whole = await running.events()
        assert [event.line for event in whole[:500]] == [f"line {number}" for number in range(1, 501)]
        for after in (0, 1, 17, 255, 256, 257, 499, 500, 501, 502, 9999):
            assert await running.events(after=after) == [
                event for event in whole if event.number > after or event.exit_code is not None
            ]

    asyncio.run(check())


def test_followers_see_lines_as_they_come_and_may_leave(launch: Launch) -> None:
    running = launch("import sys\nfor line in open('/out/pipe'): print(line.strip(), flush=True)\n" + RESULT)
    os.mkfifo(running.output_folder() / "pipe")

    async def check() -> None:
        await running.start()
        with (running.output_folder() / "pipe").open("w") as pipe:
            async for event in running.client.follow(SANDBOX):  # leaves after one
                assert event.line == "first"
                break
            else:
                raise AssertionError
            pipe.write("second\n")

    async def feed() -> None:
        await running.start()
        pipe = await asyncio.to_thread((running.output_folder() / "pipe").open, "w")
        one, two = running.client.follow(SANDBOX), running.client.follow(SANDBOX)
        for text in ("first", "second", "third"):
            pipe.write(text + "\n")
            pipe.flush()
            assert (await anext(one)).line == text
            assert (await anext(two)).line == text
        await one.aclose()
        pipe.close()
        rest = [event async for event in two]
        assert rest[-1].exit_code == 0

    asyncio.run(feed())


def test_a_flood_and_long_lines_stay_bounded_and_the_result_is_kept(launch: Launch) -> None:
    running = launch(
        RESULT
        + "import sys\n"
        + "sys.stdout.write('x' * (3 << 20) + '\\n')\n"
        + "for n in range(60000): sys.stdout.write('{} {}\\n'.format(n, 'y' * 100))\n"
        + "sys.stdout.write('last'); sys.stdout.flush()\n"
    )

    async def check() -> None:
        await running.start()
        live = [event.number async for event in running.client.follow(SANDBOX)]
        assert live == sorted(set(live))
        events = await running.events()
        assert len(events) <= 20_002
        assert json.loads(events[0].line or "")["event"] == "result"
        assert events[0].number == 1
        assert [event.number for event in events[1:]] == list(range(events[1].number, 60_005))
        assert events[-2].line == "last"
        assert events[-1].exit_code == 0
        resident = int(Path(f"/proc/{running.pid}/statm").read_text().split()[1]) * 4096
        assert resident < 200 << 20

    asyncio.run(check())


def test_an_overlong_line_becomes_a_notice(launch: Launch) -> None:
    running = launch("print('a'); print('x' * (2 << 20)); print('b')\n" + RESULT)

    async def check() -> None:
        await running.start()
        lines = [event.line or "" for event in await running.events()]
        assert (lines[0], lines[2]) == ("a", "b")
        assert json.loads(lines[1])["event"] == "notice"

    asyncio.run(check())


def test_stop_gives_grace_and_then_kills(launch: Launch) -> None:
    running = launch(
        "import os, signal, sys, time\n"
        "def end(*_): os.write(1, b'stopping\\n'); os._exit(12)\n"  # print is not for signal handlers
        "signal.signal(signal.SIGTERM, end if sys.stdin.read() == 'polite' else signal.SIG_IGN)\n" + SLEEP
    )

    async def check() -> None:
        for index, (job, grace, code) in enumerate([(b"polite", 20.0, 12), (b"rude", 0.3, -9)]):
            name = f"jb-00000000000{index}"
            await running.start(name, job=job)
            follow = running.client.follow(name)
            assert (await anext(follow)).line == "up"
            state = await running.client.stop(name, grace)
            assert state.exit_code == code
            rest = [event async for event in follow]
            assert rest[-1].exit_code == code
            assert json.loads(rest[-2].line or "")["code"] == "interrupted"
            assert (await running.client.stop(name, 1)).exit_code == code  # again: nothing more happens

    asyncio.run(check())
    assert running.wait_for_no_processes() == []


def test_stop_while_it_is_being_built(launch: Launch) -> None:
    running = launch(SLEEP)

    async def check() -> None:
        starting = asyncio.ensure_future(running.start())
        while not await running.client.list():
            await asyncio.sleep(0)
        state = await running.client.stop(SANDBOX, 5)
        assert state.exit_code is not None
        await starting

    asyncio.run(check())
    assert running.wait_for_no_processes() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_that_is_killed_says_so(launch: Launch, number: signal.Signals) -> None:
    running = launch(SLEEP)

    async def check() -> None:
        await running.start()
        follow = running.client.follow(SANDBOX)
        await anext(follow)
        (state,) = await running.client.list()
        assert state.rss_bytes is not None
        assert state.rss_bytes > 4 << 20
        os.kill(state.pid, number)
        rest = [event async for event in follow]
        failure = json.loads(rest[0].line or "")
        assert failure["code"] == "job-failed"
        assert number.name in failure["message"]
        assert rest[1].exit_code == -number

    asyncio.run(check())


def test_a_crash_leaks_nothing_of_its_report(launch: Launch) -> None:
    running = launch("raise ValueError('the content of a row')")

    async def check() -> None:
        await running.start()
        events = await running.events()
        assert "content" not in str(events)
        assert (
            json.loads(events[0].line or "")["message"] == "The worker ended without a result: exit status 1."
        )
        assert events[1].exit_code == 1

    asyncio.run(check())


def test_mounts_are_confined_to_the_home(launch: Launch, tmp_path: Path) -> None:
    running = launch(RESULT)
    outside = tmp_path / "outside"
    outside.mkdir()
    link = running.output_folder() / "link"
    link.symlink_to(outside)
    for folder in ("keys", "state", "ledger/control", "run", "objects/dataset/x"):
        (running.home / folder).mkdir(parents=True, exist_ok=True)

    async def start(source: Path, *, writable: bool = True) -> None:
        spec = SandboxSpec(
            sandbox_id="jb-000000000009",
            program="worker",
            mounts=(Mount(source=str(source), inside="/out", writable=writable),),
        )
        job = memory_file("job", b"")
        try:
            await running.client.start(spec, [job])
        finally:
            os.close(job)

    for refused in (
        outside,
        link,
        running.home / "keys",
        running.home / "state",
        running.home / "ledger" / "control",
        running.home / "run",
        running.home / "work",
        running.home / "work" / ".." / "keys",
        running.home / "objects" / "dataset" / "x",
        Path("/"),
        Path("/etc"),
    ):
        with pytest.raises(Denied):
            asyncio.run(start(refused))
    with pytest.raises(NotFound):
        asyncio.run(start(running.home / "work" / "nothing"))
    asyncio.run(start(running.home / "objects" / "dataset" / "x", writable=False))


def test_requests_that_do_not_fit_are_refused(launch: Launch) -> None:
    running = launch(SLEEP)

    async def check() -> None:
        with pytest.raises(NotFound):
            await running.client.stop("jb-00000000000z")
        with pytest.raises(NotFound):
            await running.events("jb-00000000000z")
        await running.client.forget("jb-00000000000z")
        await running.start()
        with pytest.raises(Conflict):
            await running.start()
        with pytest.raises(Conflict):
            await running.client.forget(SANDBOX)
        with pytest.raises(InvalidInput, match="descriptors"):
            await running.start("jb-000000000002", descriptors=("source",))
        await running.client.stop(SANDBOX, 0)
        await running.client.forget(SANDBOX)
        assert await running.client.list() == ()
        await running.start()  # the id is free again

    asyncio.run(check())


@pytest.mark.parametrize(
    "request_line", [b"", b"{}", b"[]\n", b"{\n", b'{"verb":"dance"}\n', b"\xff\xfe\n", b"x" * 70_000]
)
def test_a_broken_request_is_answered_and_harms_nobody(launch: Launch, request_line: bytes) -> None:
    running = launch(RESULT)

    async def check() -> None:
        reader, writer = await asyncio.open_unix_connection(str(running.client.path))
        writer.write(request_line)
        writer.write_eof()
        reply = json.loads(await reader.read())
        assert reply["ok"] is False
        assert reply["error"]["code"] == "invalid-input"
        writer.close()
        await running.client.ping()

    asyncio.run(check())


def test_another_account_is_refused(launch: Launch) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to change account")
    running = launch(RESULT)
    assert running.client.path.stat().st_mode & 0o777 == 0o600
    code = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1]); os.setgid(12345); os.setuid(12345)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect('launcher.sock')\n"
        's.sendall(b\'{"verb":"list"}\\n\'); print(s.recv(4096).decode())'
    )
    # Even where the socket's modes would let it in.
    running.client.path.chmod(0o666)
    running.client.path.parent.chmod(0o755)
    command = [sys.executable, "-c", code, str(running.client.path.parent)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(ran.stdout)["error"]["code"] == "denied", ran.stderr


def test_a_second_launcher_is_refused(launch: Launch) -> None:
    running = launch(RESULT)
    command = [sys.executable, "-m", "cloister.launcher", "--home", str(running.home)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == Conflict.exit_code
    assert "Another launcher" in ran.stderr
    asyncio.run(running.client.ping())


def test_without_a_launcher_it_says_so(tmp_path: Path) -> None:
    from cloister.launcher.client import LauncherClient

    with pytest.raises(Unavailable, match="does not answer"):
        asyncio.run(LauncherClient(tmp_path / "none.sock").ping())


def test_without_a_sandbox_the_program_is_told(launch: Launch) -> None:
    running = launch(
        "import os, sys\nprint(os.environ['CLOISTER_SANDBOX'], sys.stdin.read(), flush=True)\n" + RESULT,
        "--sandbox",
        "none",
    )

    async def check() -> None:
        await running.start(job=b"job")
        events = await running.events()
        assert events[0].line == "none job"
        assert events[-1].exit_code == 0

    asyncio.run(check())


def test_a_sandbox_that_cannot_be_built_says_why(launch: Launch) -> None:
    running = launch(RESULT)

    async def check() -> None:
        await running.start(gpus=(4711,))
        events = await running.events()
        failure = json.loads(events[0].line or "")
        assert failure["code"] == "sandbox-unavailable"
        assert "/dev/nvidia4711" in failure["message"]
        assert events[1].exit_code == 1

    asyncio.run(check())
