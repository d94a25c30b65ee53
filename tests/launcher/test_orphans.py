"""A bubblewrap that is killed alone, while its child asks for no death signal yet: nothing of it is left."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, json, os, signal, time
from cloister.api import SandboxSpec
from cloister.launcher import sandboxes
from cloister.sandbox import PythonPaths
from cloister.sandbox.harden import adopt_orphans
from cloister.sandbox.spawn import Spawned

def killed_once_it_has_named_its_child(spec, **given):
    reading, writing = os.pipe()
    bubblewrap = os.fork()
    if bubblewrap == 0:
        os.setsid()
        first = os.fork()
        if first == 0:
            os.setsid()
            time.sleep(50)
            os._exit(0)
        while os.getsid(first) != first:
            time.sleep(0.001)
        os.write(writing, json.dumps({"child-pid": first}).encode() + b"\\n")
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writing)
    os.waitid(os.P_PID, bubblewrap, os.WEXITED | os.WNOWAIT)
    return Spawned(bubblewrap, reading)

async def launched():
    sandboxes.spawn_sandbox = killed_once_it_has_named_its_child
    spec = SandboxSpec(sandbox_id="jb-000000000000", program="worker")
    sandbox = sandboxes.Sandbox(spec, sandboxed=True, cgroup=None)
    with open(os.devnull, "rb") as stdin:
        await sandbox.start(stdin.fileno(), [], PythonPaths.current(), None)
    await sandbox.ended.wait()
    assert sandbox.exit_code == -signal.SIGKILL

adopt_orphans()  # as the launcher's keeper does
launcher = os.fork()
if launcher == 0:
    asyncio.run(launched())
    os._exit(0)
ends = {}
for _ in range(2):
    pid, status = os.wait()
    ends[pid == launcher] = os.waitstatus_to_exitcode(status)
print(ends[True], ends[False])
"""


def test_what_a_killed_bubblewrap_leaves_is_ended() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.stdout.split() == ["0", "-9"], ran.stderr
