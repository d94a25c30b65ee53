"""Authority and worker: one `JobDocument` on standard input, one `WorkerEvent` a line on standard output.

Only a `JobDocument` holds keys, and it only ever lies in memory. What a verb is asked to do stands with its
subject: runs, datasets, models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, field_validator

from cloister.api.words import Document, ObjectId, ObjectKind


class SelfCheckConfig(Document):
    """Nothing to do but to try, from inside, to get out. `host_sockets` are paths of the host."""

    host_sockets: tuple[str, ...] = ()


class Grant(Document):
    """The right to open one object: where it lies *inside the sandbox*, and its data key.

    `key` is 32 bytes in base64, or None for an object that is stored in the open (a base model).
    `manifest_sha256` pins the manifest file of an input; None for an output.
    """

    object_id: ObjectId
    kind: ObjectKind
    version: int = 1
    path: str
    key: str | None = None
    manifest_sha256: str | None = None


class JobDocument(Document):
    """All that a worker knows. Arrives on standard input; its keys exist nowhere else in the sandbox.

    `descriptors` maps a role (`source`, `report`, `output`, or `file:<i>`) to an inherited descriptor number.
    `resume` says that the output folder may hold checkpoints of an earlier attempt.
    """

    job_id: ObjectId
    verb: Literal[
        "import",
        "dry-run",
        "base",
        "train",
        "evaluate",
        "merge",
        "rotate",
        "forget",
        "report",
        "derive",
        "rows",
        "render",
        "reveal",
        "errors",
        "export",
        "serve",
        "self-check",
    ]
    config: dict[str, Any]
    inputs: dict[str, Grant] = {}
    output: Grant | None = None
    descriptors: dict[str, int] = {}
    resume: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 0
    socket_dir: str | None = None


class Progress(Document):
    """How far the job is. `remaining_s` is an estimate in seconds, None while there is none."""

    event: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int
    remaining_s: float | None = None

    @field_validator("remaining_s")
    @classmethod
    def _never_negative(cls, value: float | None) -> float | None:
        return None if value is None else max(0.0, value)


class Metrics(Document):
    """Numbers of one moment, by name (`loss`, `holdout_loss`, `learning_rate`, `tokens_per_s`)."""

    event: Literal["metrics"] = "metrics"
    step: int = Field(ge=0)
    values: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,63}$")], float] = Field(
        max_length=64
    )


class Notice(Document):
    """A sentence for the operator, without content."""

    event: Literal["notice"] = "notice"
    level: Literal["info", "warning"]
    message: str = Field(max_length=1000)


class Result(Document):
    """The job's end, with something made. `values` are numbers and short words that the authority keeps.

    A run whose numbers went wrong, and that has an adapter from before, says so in `values["failure"]` (`code`,
    `message`, `remedy`): the adapter is kept, and the job ends as failed.
    """

    event: Literal["result"] = "result"
    values: dict[str, Any] = {}


class Failure(Document):
    """The job's end, badly: what an exception of `cloister.errors` says, and nothing of the data."""

    event: Literal["failure"] = "failure"
    code: str
    message: str = Field(max_length=2000)
    where: str | None = Field(default=None, max_length=500)
    remedy: str | None = Field(default=None, max_length=1000)
    values: dict[str, Any] = {}


WorkerEvent = Annotated[Progress | Metrics | Notice | Result | Failure, Field(discriminator="event")]
