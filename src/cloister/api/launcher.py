"""Authority and launcher: what a sandbox is made of, and how it goes on; JSON lines over a Unix socket.

Knows no key and no job: a job document passes as a descriptor.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from cloister.api.words import Document, ObjectId
from cloister.api.worker import Failure


class Mount(Document):
    """One host path that a sandbox sees, at `inside`. Only the output folder and an engine's socket
    folder are ever writable."""

    source: str
    inside: str
    writable: bool = False


class SandboxSpec(Document):
    """What the launcher is asked to build. The job document comes as a descriptor, never in here.

    `tmp_mib` and `shm_mib` size the RAM-backed `/tmp` and `/dev/shm`. `descriptors` names the extra
    descriptors in the order in which they are passed; they become 3, 4, … inside.
    """

    sandbox_id: ObjectId
    program: Literal["worker", "engine"]
    mounts: tuple[Mount, ...] = ()
    tmp_mib: int = Field(default=1024, ge=1)
    shm_mib: int = Field(default=256, ge=1)
    gpus: tuple[int, ...] = ()
    descriptors: tuple[str, ...] = ()
    threads: int = 0


class SandboxState(Document):
    """One sandbox as the launcher sees it. `exit_code` is None while it runs; negative is a signal."""

    sandbox_id: ObjectId
    program: Literal["worker", "engine"]
    pid: int
    started_at: datetime
    events: int
    exit_code: int | None = None
    rss_bytes: int | None = None


class LauncherRequest(Document):
    """`start` carries `spec` and descriptors (the job document first); `follow` streams
    `SandboxEvent`s from number `after` on and ends with the one that carries `exit_code`."""

    verb: Literal["start", "stop", "follow", "list", "forget", "ping"]
    sandbox_id: ObjectId | None = None
    spec: SandboxSpec | None = None
    after: int = 0
    grace_s: float = 10.0


class SandboxEvent(Document):
    """A line that the sandbox printed (`event`, still to be validated), or its end (`exit_code`)."""

    number: int
    line: str | None = None
    exit_code: int | None = None


class LauncherReply(Document):
    """`no_sandbox`, in the answer to a `ping`: why the launcher can build no sandbox; None where it can."""

    ok: bool
    no_sandbox: str | None = None
    error: Failure | None = None
    sandboxes: tuple[SandboxState, ...] = ()
