"""The shell around every verb: what goes in, what may be said, and what never is."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.api import JobDocument
from cloister.errors import CloisterError, Interrupted, Tampered
from cloister.sandbox import memory_file
from cloister.worker.__main__ import check_sandbox, failure_of, place_of

SECRET = "the content of a row"
JOB: dict[str, Any] = {"job_id": "jb-000000000001", "verb": "self-check", "config": {}}

SHELL = """
import sys, types
from cloister.worker import __main__ as shell
verb = types.ModuleType("cloister.worker.verbs.trial")
exec({code!r}, verb.__dict__)
sys.modules[verb.__name__] = verb
shell.VERBS["self-check"] = verb.__name__
sys.exit(shell.main())
"""


def work(
    code: str | None = None,
    job: dict[str, Any] | bytes = JOB,
    *,
    sandbox: str | None = "none",
    environment: dict[str, str] | None = None,
) -> tuple[int, list[dict[str, Any]], str]:
    """Run a worker with a verb made of `code`; its exit status, events and all that it printed."""
    command = [sys.executable, "-m", "cloister.worker"]
    if code is not None:
        command = [sys.executable, "-c", SHELL.format(code=code)]
    env = {key: value for key, value in os.environ.items() if not key.startswith("CLOISTER")}
    env |= (environment or {}) | ({"CLOISTER_SANDBOX": sandbox} if sandbox else {})
    document = job if isinstance(job, bytes) else json.dumps(job).encode()
    ran = subprocess.run(command, input=document, capture_output=True, env=env, timeout=300)
    text = ran.stdout.decode() + ran.stderr.decode()
    return ran.returncode, [json.loads(line) for line in ran.stdout.splitlines()], text


def test_a_verbs_values_are_the_result() -> None:
    status, events, _ = work(
        "def run(job, emit):\n"
        "    emit.progress('step', 0, 2); emit.metrics(1, {'loss': 0.5, 'bad': float('nan')})\n"
        "    emit.notice('warning', 'careful'); emit.progress('step', 2, 2)\n"
        "    return {'rows': 2, 'job': job.job_id}\n"
    )
    assert status == 0
    assert [event["event"] for event in events] == ["progress", "metrics", "notice", "progress", "result"]
    assert events[1]["values"] == {"loss": 0.5}
    assert events[-1]["values"] == {"rows": 2, "job": "jb-000000000001"}


def test_libraries_cannot_print_to_anyone() -> None:
    status, events, text = work(
        "import os, sys, warnings, logging\n"
        "def run(job, emit):\n"
        f"    print({SECRET!r}); print({SECRET!r}, file=sys.stderr); os.write(1, {SECRET!r}.encode())\n"
        f"    os.write(2, {SECRET!r}.encode()); warnings.warn({SECRET!r}); logging.error({SECRET!r})\n"
        f"    os.system('echo {SECRET}; echo {SECRET} >&2')\n"
        "    return {'left': len(sys.stdin.read())}\n"
    )
    assert (status, [event["event"] for event in events]) == (0, ["result"])
    assert events[0]["values"] == {"left": 0}
    assert SECRET not in text


def test_an_unknown_exception_gives_its_type_and_place_and_no_text() -> None:
    status, events, text = work(
        "import json\n"
        "def run(job, emit):\n"
        f"    try: json.loads({SECRET!r})\n"
        f"    except ValueError: raise KeyError({SECRET!r})\n"
    )
    assert status == 1
    assert SECRET not in text
    assert events == [
        {
            "event": "failure",
            "code": "error",
            "message": "KeyError in cloister.worker.verbs.trial:4",
            "where": None,
            "remedy": None,
            "values": {},
        }
    ]


def test_an_error_of_ours_is_told_in_full_with_its_exit_status() -> None:
    status, events, _ = work(
        "from cloister.errors import Tampered\n"
        "def run(job, emit):\n"
        "    error = Tampered('It does not open.', where='rows.bin', remedy='Restore it.')\n"
        "    error.values = {'chunk': 3}\n"
        "    raise error\n"
    )
    assert status == Tampered.exit_code
    (failure,) = events
    assert failure["code"] == "tampered"
    assert (failure["message"], failure["where"], failure["remedy"]) == (
        "It does not open.",
        "rows.bin",
        "Restore it.",
    )
    assert failure["values"] == {"chunk": 3}


@pytest.mark.parametrize(
    "code",
    [
        "raise MemoryError",
        "raise OSError(28, 'No space')",
        "bytearray(1 << 60)",
        "class OutOfMemoryError(RuntimeError): pass\n    raise OutOfMemoryError('x')",
    ],
)
def test_what_runs_out_is_named(code: str) -> None:
    _, events, _ = work(f"def run(job, emit):\n    {code}\n")
    assert events[0]["code"] == "out-of-space"


@pytest.mark.parametrize(
    "ending",
    ["raise SystemExit(0)", "raise KeyboardInterrupt", "import no_such_module", "return {'x': object()}"],
)
def test_every_other_end_is_a_failure(ending: str) -> None:
    status, events, _ = work(f"def run(job, emit):\n    {ending}\n")
    assert status == 1
    assert [event["event"] for event in events] == ["failure"]


@pytest.mark.parametrize(
    ("job", "where"),
    [
        (b"", "job"),
        (b"{", "job"),
        (json.dumps({**JOB, "verb": SECRET}).encode(), "verb"),
        (json.dumps({**JOB, SECRET[:3]: 1}).encode(), "the"),
        (json.dumps({**JOB, "threads": SECRET}).encode(), "threads"),
        (json.dumps({**JOB, "verb": "serve"}).encode(), "serve"),
    ],
)
def test_a_job_that_does_not_fit_is_refused_without_its_values(job: bytes, where: str) -> None:
    status, events, text = work(job=job)
    assert status == 2
    assert (events[0]["code"], events[0]["where"]) == ("invalid-input", where)
    assert SECRET not in text


def test_a_job_without_end_is_refused() -> None:
    _, events, _ = work(job=b"x" * (17 << 20))
    assert events[0]["event"] == "failure"


def test_no_work_without_the_promised_sandbox() -> None:
    status, events, _ = work("def run(job, emit): return {}", sandbox=None)
    assert (status, events[0]["code"]) == (9, "sandbox-unavailable")
    status, events, _ = work("def run(job, emit): return {}", sandbox="bwrap")
    assert (status, events[0]["code"]) == (9, "sandbox-unavailable")
    assert "no system-call filter" in events[0]["message"]
    with pytest.raises(CloisterError):
        check_sandbox("docker")


def test_the_process_is_hardened_before_it_reads_its_job() -> None:
    _, events, _ = work(
        "from cloister.sandbox.harden import *\n"
        "def run(job, emit): return {'dumpable': dumpable(), 'core': core_limit()}\n"
    )
    assert events[0]["values"] == {"dumpable": False, "core": 0}


def test_the_job_document_is_emptied_once_it_is_read() -> None:
    document = memory_file("job", json.dumps(JOB).encode())
    env = os.environ | {"CLOISTER_SANDBOX": "none"}
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "cloister.worker"],
            stdin=document,
            capture_output=True,
            env=env,
            timeout=300,
        )
        assert json.loads(ran.stdout.splitlines()[-1])["event"] == "result"
        assert os.fstat(document).st_size == 0
    finally:
        os.close(document)


def test_sigterm_asks_the_verb_to_stop() -> None:
    code = (
        "import time\nfrom cloister.errors import Interrupted\n"
        "def run(job, emit):\n"
        "    emit.progress('step', 0, 9)\n"
        "    while not emit.should_stop(): time.sleep(0.01)\n"
        "    raise Interrupted('Stopped at step 4.', remedy='Resume it.')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", SHELL.format(code=code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"CLOISTER_SANDBOX": "none"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(JOB).encode())
        process.stdin.close()
        assert json.loads(process.stdout.readline())["event"] == "progress"
        process.send_signal(signal.SIGTERM)
        failure = json.loads(process.stdout.readline())
    assert process.returncode == Interrupted.exit_code
    assert (failure["code"], failure["message"]) == ("interrupted", "Stopped at step 4.")


def test_a_worker_whose_reader_is_gone_ends() -> None:
    code = "def run(job, emit):\n    while True: emit.metrics(1, {'x': 1.0})\n"
    with subprocess.Popen(
        [sys.executable, "-c", SHELL.format(code=code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"CLOISTER_SANDBOX": "none"},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(JOB).encode())
        process.stdin.close()
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 1


@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    text=st.text(min_size=20),
    kind=st.sampled_from([ValueError, KeyError, OSError, RuntimeError, UnicodeError]),
)
def test_no_failure_ever_holds_an_exceptions_text(text: str, kind: type[Exception]) -> None:
    try:
        raise kind(text)
    except Exception as error:
        failure = failure_of(error)
        assert failure.message == place_of(error)
        assert text not in failure.model_dump_json()


def test_the_whole_path_through_the_launcher(tmp_path: Path) -> None:
    """A real worker in a real sandbox, asked by a real launcher, finds that it cannot get out."""
    import asyncio
    import shutil

    from cloister.api import Mount, SandboxSpec
    from cloister.errors import Unavailable
    from cloister.launcher.client import LauncherClient

    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    out = tmp_path / "work" / "jb-000000000001" / "out"
    out.mkdir(parents=True)
    socket_path = tmp_path / "run" / "launcher" / "launcher.sock"
    job = JobDocument(
        job_id="jb-000000000001", verb="self-check", config={"host_sockets": [str(socket_path)]}, threads=1
    )

    async def check() -> None:
        client = LauncherClient(socket_path)
        deadline = time.monotonic() + 120
        while True:
            try:
                await client.ping()
                break
            except Unavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
        spec = SandboxSpec(
            sandbox_id="jb-000000000001",
            program="worker",
            mounts=(Mount(source=str(out), inside="/out", writable=True),),
        )
        document = memory_file("job", job.model_dump_json().encode())
        await client.start(spec, [document])
        events = [event async for event in client.follow("jb-000000000001")]
        assert os.fstat(document).st_size == 0
        os.close(document)
        result = json.loads(events[-2].line or "")
        assert result["event"] == "result", result
        assert result["values"]["failed"] == []
        assert f"unix:{socket_path}" in {one["name"] for one in result["values"]["checks"]}
        assert events[-1].exit_code == 0

    with subprocess.Popen([sys.executable, "-m", "cloister.launcher", "--home", str(tmp_path)]) as process:
        try:
            asyncio.run(check())
        finally:
            process.terminate()
