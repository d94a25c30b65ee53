"""The words spoken on the sockets: every document that crosses a process boundary, and nothing else.

Three conversations use them: client ↔ authority (HTTP over a Unix socket), authority ↔ launcher
(JSON lines over a Unix socket), and authority → worker → authority (one `JobDocument` on standard
input, one `WorkerEvent` a line on standard output). No document ever holds a row, a prompt or an
answer; only `JobDocument` holds keys, and it only ever lies in memory.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

_ID = r"^[a-z]{2}-[0-9a-hjkmnp-tv-z]{12}$"


def _no_id(name: str) -> str:
    """A name that looked like an id could stand for another thing than it says."""
    if re.match(_ID, name):
        raise ValueError("a name does not have the form of an id")
    return name


Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$"), AfterValidator(_no_id)]
"""What people call a thing: lower-case letters, digits, `.`, `_`, `-`; at most 63 characters, and no id."""

ObjectId = Annotated[str, StringConstraints(pattern=_ID)]
"""Two letters for the kind, a dash, twelve characters of Crockford's base 32."""


class Document(BaseModel):
    """Base of all: unknown fields are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectKind(StrEnum):
    DATASET = "dataset"
    BASE = "base"
    ADAPTER = "adapter"
    EVALUATION = "evaluation"
    MODEL = "model"


MAX_VERSION = 999_999_999
"""Of an object: what the name of its folder has room for."""

ID_PREFIX: dict[str, str] = {
    ObjectKind.DATASET: "ds",
    ObjectKind.BASE: "bm",
    ObjectKind.ADAPTER: "ad",
    ObjectKind.EVALUATION: "ev",
    ObjectKind.MODEL: "mm",
    "run": "rn",
    "job": "jb",
    "deployment": "dp",
    "client": "cl",
    "shred": "sh",
    "hold": "lh",
    "backup": "bk",
    "approval": "ap",
}


# --- what a job is asked to do: the frozen configurations -------------------------------------


class ColumnMap(Document):
    """Which columns of a table, or fields of flat JSON objects, make a row.

    `input` with `output`, or with `label` for a classification; or `text` alone, for plain text. Without any of
    them the format is recognised. `groups` are columns by which results are told apart later; `ignore` are
    further fields that a recognised JSON format may have.
    """

    input: str | None = None
    output: str | None = None
    label: str | None = None
    system: str | None = None
    text: str | None = None
    groups: tuple[str, ...] = Field(default=(), max_length=16)
    ignore: tuple[str, ...] = Field(default=(), max_length=64)


SourceFormat = Literal["auto", "jsonl", "json", "csv", "parquet", "text", "lines"]


class ImportConfig(Document):
    """How a source becomes a dataset.

    `source_name` is only for messages (`file:line: field: rule`). `max_dropped` is how many bad rows
    may be left out; 0 means that one bad row refuses the whole import. `holdout` is the share of rows
    (0 to 0.5) kept apart; identical inputs always land on one side. `format` says how rows are laid out;
    in the format `text` blank lines separate them, in `lines` each line is one.
    """

    source_name: str = Field(max_length=255)
    format: SourceFormat = "auto"
    columns: ColumnMap | None = None
    system_prompt: str | None = Field(default=None, max_length=16_384)
    holdout: float = Field(default=0.1, ge=0.0, le=0.5)
    max_dropped: int = Field(default=0, ge=0)
    max_row_bytes: int = Field(default=1 << 20, ge=1024, le=64 << 20)
    seed: int = 0


class BaseImportConfig(Document):
    """How a folder of model files becomes a base model. `files[i]` names the i-th descriptor."""

    files: tuple[str, ...]


class LoraConfig(Document):
    """The adapter: rank, scale and dropout; on every linear layer.

    `alpha / rank` multiplies B·A; with `rslora` (rank-stabilised) it is `alpha / sqrt(rank)`, which keeps high ranks
    learning. `dora` trains the length of each output row of a weight apart from its direction: nearer to full
    fine-tuning at low ranks, slower, served merged like any other.
    """

    rank: int = Field(default=16, ge=1, le=512)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    rslora: bool = False
    dora: bool = False


TemplateName = Literal["auto", "model", "llama3", "qwen3", "chatml"]
"""Whose chat template: the model's own (`auto`, `model`), or one of ours."""

LossOn = Literal["assistant", "last", "all"]
"""Which tokens are learnt: those of every assistant turn, of the last turn alone, or all."""


class TrainConfig(Document):
    """One fine-tuning run, frozen. Counts of rows are of the training split.

    `batch_size` is rows an optimizer step; `micro_batch_size` how many of them go through the model at
    once (same result, less memory). `max_length` is in tokens: longer conversations refuse the run, longer plain
    texts are read in windows of so many. Intervals `eval_every` and `checkpoint_every` are in optimizer steps, 0
    meaning once an epoch.

    `max_rows` is how many rows of the training side are learnt, drawn by `seed`, the fewer among the more; 0 all.

    `template`: `auto` and `model` are the base model's own chat template; ours have to fit its tokenizer.
    `packing` lays the rows of a step end to end, no padding between them and none seeing another: `auto` where a
    probe finds that exact (on a CPU also only where there is much to pad), `on` refuses where it is not, `off` pads
    rows of like length side by side.
    `patience` ends a run after so many evaluations in a row without a lower hold-out loss; 0 never.
    `optimizer` `auto` is 8-bit paged AdamW on a GPU, AdamW elsewhere. `gradient_checkpointing` `auto` recomputes
    activations only where the probe runs out of memory without. `processes` share each step's rows, one GPU each.
    """

    method: Literal["qlora", "lora"] = "qlora"
    lora: LoraConfig = LoraConfig()
    epochs: float = Field(default=3.0, gt=0, le=1000)
    max_steps: int | None = Field(default=None, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    batch_size: int = Field(default=16, ge=1)
    micro_batch_size: int = Field(default=16, ge=1)
    max_length: int = Field(default=1024, ge=8)
    max_rows: int = Field(default=0, ge=0)
    loss_on: LossOn = "assistant"
    template: TemplateName = "auto"
    packing: Literal["auto", "on", "off"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    patience: int = Field(default=0, ge=0)
    eval_every: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=0, ge=0)
    seed: int = 0


class Costs(Document):
    """Prices, from the settings: `hour` of the device, `case` what a person's minutes on one case cost, `preparation`
    what it took to make the data ready."""

    currency: str = "EUR"
    hour: float | None = None
    case: float | None = None
    preparation: float | None = None


class TableConfig(Document):
    """The whole table: prompting, retrieval, and a larger base where one is granted.

    `few_shot` and `retrieve` are examples before a question, fewer where they do not fit; 0 leaves the line out.
    On `alike_rows` rows each question is asked again: `repeat` times at temperature 0.7, and in other words.
    `metric` names a function of the file that is handed over, whose SHA-256 is `metric_sha256`; so of a glossary.
    """

    few_shot: int = Field(default=8, ge=0, le=256)
    retrieve: int = Field(default=8, ge=0, le=256)
    repeat: int = Field(default=2, ge=0, le=100)
    alike_rows: int = Field(default=24, ge=0, le=10_000)
    general: bool = True
    metric: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
    metric_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    glossary_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _file_and_function(self) -> TableConfig:
        if (self.metric is None) != (self.metric_sha256 is None):
            raise ValueError("a metric is a function and the digest of its file")
        return self


class EvaluateConfig(Document):
    """Base against tuned on the hold-out, with `table` the whole comparison. `max_rows` 0 means every row of it.

    `costs` are the authority's to fill in.
    """

    max_rows: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=96, ge=1, le=4096)
    batch_size: int = Field(default=64, ge=1)
    seed: int = 0
    table: TableConfig | None = None
    costs: Costs | None = None


class ErrorsConfig(Document):
    """The rows of an evaluation that the tuned model answered worst: so many, the worst first."""

    worst: int = Field(default=10, ge=1, le=1000)


class MergeConfig(Document):
    """Merge into 16 bits; both candidates are measured on up to `max_rows` hold-out rows.

    Refused where the better candidate's greedy agreement with the adapter is under `min_agreement` or
    its loss differs by more than `max_loss_gap` (nats a supervised token).
    """

    max_rows: int = Field(default=128, ge=1)
    max_new_tokens: int = Field(default=96, ge=1, le=4096)
    min_agreement: float = Field(default=0.98, ge=0, le=1)
    max_loss_gap: float = Field(default=0.02, ge=0)
    seed: int = 0


class ServeConfig(Document):
    """How vLLM serves one merged model."""

    max_model_len: int = Field(default=1024, ge=16)
    max_num_seqs: int = Field(default=16, ge=1)
    kv_cache_gib: float = Field(default=0.25, gt=0)
    gpu_memory_utilization: float = Field(default=0.85, gt=0, le=0.98)
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class ForgetConfig(Document):
    """A dataset's next version, without the rows that mention one of `identifiers`.

    Compared without regard to case, white space and Unicode form (NFKC, invisible characters left out);
    anywhere in a text, or with `whole_words` only where no letter or digit stands next to it.
    """

    identifiers: tuple[Annotated[str, StringConstraints(max_length=512)], ...] = Field(
        min_length=1, max_length=1000, repr=False
    )
    whole_words: bool = False


ExportForm = Literal["encrypted", "plain"]


class ReportConfig(Document):
    """What is looked at. `quality`: lengths, balance, duplicates, conflicts, leakage. `personal`: personal data, in
    every `personal_every`-th row. `max_length` is in tokens of the base model that the job was given, if any."""

    quality: bool = True
    personal: bool = False
    personal_every: int = Field(default=1, ge=1, le=1_000_000)
    max_length: int | None = Field(default=None, ge=8)


PersonalType = Literal[
    "name", "address", "email", "phone", "iban", "card", "national_id", "birth_date", "record_number"
]
RowRange = tuple[Annotated[int, Field(ge=0, lt=1 << 53)], Annotated[int, Field(ge=0, lt=1 << 53)]]
"""Numbers of rows from 0, the first and the last."""
_Text = Annotated[str, StringConstraints(min_length=1, max_length=4096)]


class Chosen(Document):
    """By their content, which rows are taken: it goes to the worker only, the ledger has a keyed digest of it.

    A row is taken that has one of `labels`, in each of the `groups` one of its values, a text that each of
    `matching` finds something in, and none that one of `not_matching` does. Patterns are regular expressions.
    """

    labels: tuple[_Text, ...] = Field(default=(), max_length=10_000, repr=False)
    groups: dict[str, tuple[_Text, ...]] = Field(default={}, max_length=64, repr=False)
    matching: tuple[_Text, ...] = Field(default=(), max_length=64, repr=False)
    not_matching: tuple[_Text, ...] = Field(default=(), max_length=64, repr=False)


class DeriveConfig(Document):
    """How a dataset comes of others: rows chosen, rid of repeats, some of them drawn, corrected, rid of personal data.

    `rows` and `without` are ranges of numbers in the first dataset. `side` takes only that side. Lengths are in
    characters of all texts of a row. `corrections` says that a file of them comes as a descriptor. `personal`: a
    placeholder (`redact`) or a consistent made-up value (`replace`) for what is found of `types`.
    One dataset's rows keep their side; those of several are split anew.
    """

    side: Literal["all", "train", "holdout"] = "all"
    rows: tuple[RowRange, ...] = Field(default=(), max_length=10_000)
    without: tuple[RowRange, ...] = Field(default=(), max_length=10_000)
    min_characters: int = Field(default=0, ge=0)
    max_characters: int | None = Field(default=None, ge=1)
    corrections: bool = False
    personal: Literal["redact", "replace"] | None = None
    types: tuple[PersonalType, ...] = ()
    dedupe: Literal["exact", "near"] | None = None
    sample: int | None = Field(default=None, ge=1)
    seed: int = 0
    chosen: Chosen = Chosen()


MAX_SHOWN_ROWS = 100


class RowsConfig(Document):
    """Which rows a worker writes out, by number from 0; with `labels` also the names of the labels."""

    rows: tuple[Annotated[int, Field(ge=0, lt=1 << 53)], ...] = Field(default=(), max_length=MAX_SHOWN_ROWS)
    labels: bool = False

    @model_validator(mode="after")
    def _something(self) -> RowsConfig:
        if not self.rows and not self.labels:
            raise ValueError("name rows, or ask for the labels")
        return self


class RenderConfig(Document):
    """Which row is rendered, by number from 0, and how a run would: see `TrainConfig`. Nothing is left out where the
    row is longer than `max_length`; that is told."""

    row: int = Field(ge=0, lt=1 << 53)
    template: TemplateName = "auto"
    loss_on: LossOn = "assistant"
    max_length: int | None = Field(default=None, ge=8)


class ExportConfig(Document):
    """How a worker writes a merged model out.

    `record` accompanies the files: ids, digests of what is sealed, who allowed it; no content. `secret` is what
    the signing key is made from, 32 bytes in base64; it is in the job document only.
    """

    name: Name
    form: ExportForm
    recipients: tuple[str, ...] = ()
    record: dict[str, Any]
    secret: str = Field(repr=False)


class SelfCheckConfig(Document):
    """Nothing to do but to try, from inside, to get out. `host_sockets` are paths of the host."""

    host_sockets: tuple[str, ...] = ()


# --- authority → worker -----------------------------------------------------------------------


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


# --- worker → authority: one JSON document a line ---------------------------------------------


class Progress(Document):
    """How far the job is. `remaining_s` is an estimate in seconds, None while there is none."""

    event: Literal["progress"] = "progress"
    stage: str
    done: int
    total: int
    remaining_s: float | None = None


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
    """The job's end, well. `values` are numbers and short words that the authority keeps."""

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


# --- authority ↔ launcher ---------------------------------------------------------------------


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


# --- client ↔ authority -----------------------------------------------------------------------


ONCE_PATHS = (
    r"/v1/(runs|models|deployments|policy|(runs|jobs|deployments|clients|datasets|models|approvals|backups|alerts)/"
    r"[^/]+/(resume|retry|pause|cancel|stop|revoke|hold|release|classify|declassify|shred|give|refuse|withdraw"
    r"|discard|acknowledge))"
)
"""A pattern of the paths whose POST takes an `Idempotency-Key`: sent again with the same key, it is done once.
Neither these requests nor their answers hold a secret or a row."""


class Problem(BaseModel):
    """RFC 9457 problem details. `code` names the class in `cloister.errors`."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
    where: str | None = None
    remedy: str | None = None
    values: dict[str, Any] = {}


class Passphrase(Document):
    """Lies in the request body of `init` and `unlock`, over the Unix socket only."""

    passphrase: str = Field(min_length=1, max_length=1024, repr=False)


class SlotSecret(Document):
    """What opens an unlock slot: of the fields, just those of its `kind`. `slot` names one slot alone.

    `key` is a credential's bytes in base64; `shares` are SLIP-39 mnemonics, as many as are at hand.
    """

    kind: Literal["passphrase", "credential", "shares", "token"]
    slot: int | None = Field(default=None, ge=1)
    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    key: str | None = Field(default=None, max_length=8192, repr=False)
    shares: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(default=(), max_length=16, repr=False)
    pin: str | None = Field(default=None, min_length=1, max_length=255, repr=False)


class NewSlot(Document):
    """An unlock slot to make. `proof` opens another slot that exists.

    For `passphrase`: `passphrase`, and `memory_mib`, `iterations` and `lanes` of Argon2id. For
    `credential`: `key` (base64) and the credential's `name`. For `shares`: `threshold` of `count`. For
    `token`: the driver's path `module`, the label `token`, `key_id` (hex) and the `pin`.
    """

    kind: Literal["passphrase", "credential", "shares", "token"]
    proof: SlotSecret
    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    memory_mib: int = Field(default=256, ge=8, le=4096)
    iterations: int = Field(default=3, ge=1, le=64)
    lanes: int = Field(default=4, ge=1, le=16)
    key: str | None = Field(default=None, max_length=8192, repr=False)
    name: str = Field(default="cloister-unlock", max_length=64)
    threshold: int = Field(default=2, ge=2, le=16)
    count: int = Field(default=3, ge=2, le=16)
    module: str | None = Field(default=None, max_length=4096)
    token: str | None = Field(default=None, max_length=32)
    key_id: str | None = Field(default=None, max_length=128)
    pin: str | None = Field(default=None, min_length=1, max_length=255, repr=False)


class AddedSlot(BaseModel):
    """A slot that was made; `shares` are shown this one time."""

    slot: int
    kind: str
    shares: list[str] = Field(default=[], repr=False)


class SlotView(BaseModel):
    """An unlock slot. `state` is `good` or `damaged`; `detail` says what it asks for, in a few words."""

    slot: int
    kind: str
    state: Literal["good", "damaged"]
    detail: str


class Opening(BaseModel):
    """How far an unlocking is. With shares it may take several people: `given` of `needed` so far."""

    open: bool
    slot: int | None = None
    given: int = 0
    needed: int = 0


class KekRotated(BaseModel):
    """`version` is in use now; the `destroyed` ones are gone. `resumed`: an earlier one was completed."""

    version: int
    rewrapped: int
    destroyed: list[int]
    resumed: bool


class RootRotated(BaseModel):
    """The slot that remains, those that ended, and the rotation of the KEK that came with it."""

    kept: int
    ended: list[int]
    kek: KekRotated


class RotateConfig(Document):
    """One object version to re-encrypt under a fresh data key, as its next version."""

    kind: ObjectKind
    version: int = Field(ge=2)


class CheckLine(BaseModel):
    """One line of a check of the vault: how far it is, what it found wrong, or at the end the whole."""

    event: Literal["progress", "problem", "result"]
    done: int = 0
    total: int = 0
    where: str | None = None
    problem: str | None = None
    objects: int = 0
    keys: int = 0
    bytes: int = 0
    problems: int = 0


class LockRequest(Document):
    """`refuse` where work runs, `drain` it first, or `cut` it off (runs resume later)."""

    mode: Literal["refuse", "drain", "cut"] = "refuse"


class JobState(StrEnum):
    WAITING_SOURCE = "waiting-source"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    PAUSED = "paused"


FINAL_STATES = frozenset(
    {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED, JobState.PAUSED}
)
"""States that a job does not leave by itself."""


class Job(BaseModel):
    """One thing in the queue. `subject` is the object or run that it makes, `device` where it runs or ran.

    While it waits: `position` counts from 1, the one that starts next; `starts_in_s` is an estimate in seconds,
    None where nothing like it ended yet; `waits_for` says what is missing, if anything but its turn.
    """

    job_id: str
    verb: str
    state: JobState
    subject: str | None
    requested_by: str
    priority: int = 0
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempts: int = 0
    progress: Progress | None = None
    metrics: dict[str, float] = {}
    result: dict[str, Any] = {}
    error: Problem | None = None
    device: str | None = None
    position: int | None = None
    starts_in_s: float | None = None
    waits_for: str | None = None


class JobTicket(BaseModel):
    """A job that waits for descriptors: send them with `token` over the side socket."""

    job: Job
    token: str | None = None
    side_socket: str | None = None


class StoredObject(BaseModel):
    """One object version with its manifest's facts."""

    object_id: str
    kind: ObjectKind
    version: int
    name: str
    created_at: datetime
    created_by: str
    sealed_bytes: int
    manifest_sha256: str
    inputs: list[str] = []
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}
    classification: str | None = None


Classification = Literal["public", "internal", "confidential", "restricted"]


class DatasetImport(Document):
    """`classification` None takes that of the settings. A `dry_run` reads and reports; it makes no dataset."""

    name: Name
    config: ImportConfig
    classification: Classification | None = None
    dry_run: bool = False


class LengthFigures(BaseModel):
    """Lengths of rows. Those above 255 are counted in steps of 3%, and quantiles are as exact as that. `histogram` has
    the upper end of each step and how many rows are in it."""

    total: int
    shortest: int
    longest: int
    median: int
    p95: int
    p99: int
    histogram: list[tuple[int, int]]


class LabelFigures(BaseModel):
    """How many labels there are, and the rows of each, the most frequent first (100 of them at most)."""

    distinct: int
    rows: list[int]


class RepeatFigures(BaseModel):
    """Rows that equal an earlier one; inputs with more than one answer, and their rows; hold-out rows whose input
    is trained on. Where one content in `one_in` was followed, the counts are estimates."""

    one_in: int
    duplicates: int
    conflicting_inputs: int
    conflicting_rows: int
    leaked: int


class NearFigures(BaseModel):
    """Among `compared` rows: those that nearly are an earlier one, and hold-out rows that nearly are one trained on."""

    compared: int
    similar: int
    leaked: int
    first: list[int] = []


class PersonalFigures(BaseModel):
    """Personal data by type and by where it stands; `rows` of those `looked_at` have some. Detection, no guarantee."""

    looked_at: int
    rows: int
    found: dict[PersonalType, dict[str, int]]


class DatasetReport(BaseModel):
    """What there is to know of a dataset, in numbers. Rows are numbered from 0; `lost` counts by rule the rows that
    training would not take, `turns` rows by their number of turns (20: or more)."""

    rows: int
    train_rows: int
    holdout_rows: int
    task: str
    characters: LengthFigures | None = None
    turns: dict[int, int] = {}
    with_system: int = 0
    with_tools: int = 0
    plain_text: int = 0
    labels: LabelFigures | None = None
    empty_answers: int = 0
    first_empty: list[int] = []
    repeats: RepeatFigures | None = None
    near: NearFigures | None = None
    tokens: LengthFigures | None = None
    supervised_tokens: int = 0
    lost: dict[str, int] = {}
    first_lost: dict[str, list[int]] = {}
    personal: PersonalFigures | None = None


class ReportRequest(Document):
    """Look at a dataset; `base` names the model whose tokenizer counts."""

    config: ReportConfig = ReportConfig()
    base: str | None = Field(default=None, max_length=64)


class RenderRequest(Document):
    """Show a row as a run would learn it; `base` names the model whose tokenizer and template render."""

    base: str = Field(max_length=64)
    config: RenderConfig


class DeriveRequest(Document):
    """A new dataset `name` out of one dataset, and `others` merged with it. `classification` may be stricter than
    theirs, never milder."""

    name: Name
    config: DeriveConfig = DeriveConfig()
    others: tuple[Annotated[str, StringConstraints(max_length=64)], ...] = Field(default=(), max_length=16)
    classification: Classification | None = None


class ClassifyRequest(Document):
    """What a dataset is from now on. What was made of it follows."""

    classification: Classification


class BaseImport(Document):
    name: Name
    config: BaseImportConfig


class RunRequest(Document):
    """A fine-tuning to start. Datasets and bases by name or id; `holdout` overrides the split.

    With `from_run` it goes on with what that run has learnt: the same base, and an adapter of the same form.
    With `rebase_of` it repeats that run, and is refused where its data have a newer version by now.
    What has the higher priority starts first; among equals people take turns.
    """

    name: Name
    dataset: str
    base: str
    holdout: str | None = None
    from_run: str | None = None
    rebase_of: str | None = None
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()
    priority: int = Field(default=0, ge=-10, le=10)


class Run(BaseModel):
    """One fine-tuning: its jobs, and what came of it. `from_run` is the id of the run that it went on from."""

    run_id: str
    name: str
    dataset: str
    base: str
    holdout: str | None
    train: TrainConfig
    evaluate: EvaluateConfig | None
    created_at: datetime
    created_by: str
    train_job: Job
    evaluate_job: Job | None = None
    adapter: str | None = None
    evaluation: dict[str, Any] | None = None
    from_run: str | None = None


class EvaluationRequest(Document):
    """Measure a run's adapter again. `larger` is another base model to set against it, by name or id.

    The files that its table names by digest follow as descriptors, roles `metric` and `glossary`.
    """

    config: EvaluateConfig = EvaluateConfig(table=TableConfig())
    larger: str | None = Field(default=None, max_length=64)


class CurvePoint(BaseModel):
    """Numbers of one optimizer step, by name (`loss`, `holdout_loss`, `learning_rate`, `tokens_per_s`)."""

    step: int
    values: dict[str, float]


class Curve(BaseModel):
    """How a run went, step by step. `thinned`: there are more points than these."""

    run_id: str
    name: str
    points: list[CurvePoint]
    thinned: bool = False


class PlanRequest(Document):
    """A run that might be started: its parts by name or id."""

    dataset: str
    base: str
    holdout: str | None = None
    train: TrainConfig = TrainConfig()


class PlanPart(BaseModel):
    """What one part of a run takes, in bytes; `of` says what it depends on."""

    name: str
    bytes: int
    of: str


class PlanAdvice(BaseModel):
    """A change of the settings, on top of those before it, what it costs, and the memory that is then needed."""

    change: dict[str, Any]
    costs: str
    memory: int
    fits: bool


class ServePlan(BaseModel):
    """Whether the merged model could be served on the same device: bytes for it, and what there is."""

    memory: int
    available: int
    fits: bool


class RunPlan(BaseModel):
    """What a run will take, before it starts. Bytes, seconds, kilowatt-hours, the settings' currency.

    `memory_measured`, `time_measured`, `lengths_measured`: whether that comes from what was measured on this machine,
    or is estimated. `money` and `energy_kwh` are None where the settings have no price for them.
    """

    device: str
    parts: list[PlanPart]
    memory: int
    memory_measured: bool
    available: int
    fits: bool
    advice: list[PlanAdvice] = []
    rows: int
    tokens: int
    lengths_measured: bool
    steps: int
    seconds: float
    seconds_low: float
    seconds_high: float
    time_measured: bool
    energy_kwh: float | None = None
    money: float | None = None
    currency: str = "EUR"
    serve: ServePlan
    notes: list[str] = []


class MergeRequest(Document):
    name: Name
    run: str
    config: MergeConfig = MergeConfig()


class ServeRequest(Document):
    """`name` is what clients ask for as `model`."""

    name: Name
    model: str
    config: ServeConfig = ServeConfig()


class DeploymentState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


class Deployment(BaseModel):
    """One served model. `socket` is the engine's Unix socket, for the gateway; `device` is None while it
    waits for one."""

    deployment_id: str
    name: str
    model: str
    state: DeploymentState
    config: ServeConfig
    socket: str | None = None
    created_at: datetime
    created_by: str
    restarts: int = 0
    error: Problem | None = None
    device: str | None = None


class ClientRequest(Document):
    """A client application. `deployments` empty means all of them."""

    name: Name
    deployments: tuple[Name, ...] = ()
    expires_at: datetime | None = None


class ApiClient(BaseModel):
    """`key_hash` is HMAC-SHA-256 of the key under the gateway's pepper, in hex, for the gateway only."""

    client_id: str
    name: str
    deployments: list[str] = []
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    key_hash: str | None = None


class IssuedClient(BaseModel):
    """The one time that the key is shown."""

    client: ApiClient
    api_key: str = Field(repr=False)


# --- shredding, holds, forgetting ---------------------------------------------------------------


class ShredItem(BaseModel):
    """One object version that a shred destroys. Not `stored`: a job was cut off while it made it."""

    object_id: str
    version: int
    kind: ObjectKind
    name: str
    stored: bool
    sealed_bytes: int = 0


class ShredUse(BaseModel):
    """What uses something of a shred now: a deployment that is served, or a job that waits or runs."""

    id: str
    name: str
    state: str


class Hold(BaseModel):
    """A legal hold on a dataset: neither it nor what was derived from it is shredded meanwhile."""

    hold_id: str
    object_id: str
    name: str
    reason: str
    placed_at: datetime
    placed_by: str
    released_at: datetime | None = None
    released_by: str | None = None


class Backup(BaseModel):
    """One backup that was made. Its key archive opens what existed then, until `keys_until` at most.

    `packs` objects are in it, `copied` of them were not in the target before. `where` is what whoever
    asked called the target.
    """

    backup_id: str
    made_at: datetime
    made_by: str
    where: str
    keys_until: datetime
    discarded_at: datetime | None = None
    packs: int
    copied: int
    copied_bytes: int
    objects_sha256: str
    keys_sha256: str
    ledger_entries: int


class ShredPlan(BaseModel):
    """What shredding a thing takes with it, and what stands in its way.

    `kept_bodies` are prompts and answers of its models that policy kept.

    `backups` are those whose key archives could still open some of it; `final_after` is when the last
    of them ends by the retention of the settings, None where there is none.
    """

    kind: str
    object_id: str
    name: str
    versions: list[int]
    items: list[ShredItem]
    runs: dict[str, str]
    jobs: list[str]
    in_use: list[ShredUse]
    kept_bodies: int = 0
    holds: list[Hold]
    backups: list[Backup]
    final_after: datetime | None = None


class ShredRequest(Document):
    """`confirm` repeats the thing's name. `version` is one version of a dataset; None means all.

    With `take_down`, what uses it is stopped first; without, the shred is refused.
    """

    confirm: Name
    version: int | None = Field(default=None, ge=1, le=MAX_VERSION)
    take_down: bool = False


class Shred(BaseModel):
    """One shred. `asked`, then `intended` (entered; nothing opens it any more), then `done` and proved.

    `abandoned` where something stood in its way after all: nothing was destroyed.
    """

    shred_id: str
    state: Literal["asked", "intended", "done", "abandoned"]
    kind: str
    object_id: str
    name: str
    asked_at: datetime
    asked_by: str
    done_at: datetime | None = None
    objects: int = 0
    keys: int = 0
    sealed_bytes: int = 0
    final_after: datetime | None = None
    problem: str | None = None


class HoldRequest(Document):
    reason: str = Field(min_length=1, max_length=300)


class ForgetRequest(Document):
    """One person's request. The identifiers lie in this body and in the worker's memory only.

    `shred` says when the version with the rows goes, and with it what was derived from it: `later` keeps
    it until `dataset shred`; `now` needs the dataset's name in `confirm`.
    """

    config: ForgetConfig = Field(repr=False)
    shred: Literal["later", "now"] = "later"
    confirm: Name | None = None
    take_down: bool = False


# --- backups ------------------------------------------------------------------------------------


class BackupRequest(Document):
    """Make a backup into folders whose descriptors follow: `objects`, and `keys` where it is another.

    The key archive is encrypted to `recipients` (age) or under `passphrase`. Objects that the target has
    are not copied again; all are read back, or with `quick` only the new ones.
    """

    where: str = Field(max_length=1024)
    recipients: tuple[Annotated[str, StringConstraints(max_length=4096)], ...] = Field(
        default=(), max_length=16
    )
    passphrase: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    quick: bool = False


# --- exports ------------------------------------------------------------------------------------


class ExportRequest(Document):
    """Take a merged model out: `plain`, as a folder that others load, or `encrypted` to age recipients."""

    form: ExportForm
    recipients: tuple[Annotated[str, StringConstraints(max_length=4096)], ...] = Field(
        default=(), max_length=16
    )

    @model_validator(mode="after")
    def _somebody_opens_it(self) -> ExportRequest:
        if (self.form == "encrypted") != bool(self.recipients):
            raise ValueError("an encrypted export names recipients, a plain one names none")
        return self


class ModelSigningKey(BaseModel):
    """The public half of the key that signs exports, in PEM, and the SHA-256 of that, in hex."""

    public_key: str
    sha256: str


class GatewaySecrets(BaseModel):
    """What the gateway alone may ask for, and keeps in memory: its own keys, each 32 bytes in base64."""

    ledger_seed: str = Field(repr=False)
    pepper: str = Field(repr=False)
    cache_key: str = Field(repr=False)


class GatewayHello(Document):
    """A gateway tells that it listens."""

    pid: int
    url: str = Field(max_length=255)


class BodiesPolicy(Document):
    """Which bodies a gateway keeps. `public_key` is what they are sealed to, in base64; None while it cannot
    be had: what would have to be kept is then refused."""

    prompts: bool = False
    answers: bool = False
    public_key: str | None = None


class GatewayView(BaseModel):
    """What the gateway needs to know, as of event number `seq`. `policy` is the digest of the policy set in force.

    While there are `dead_sinks`, required audit sinks that have been down for too long, no model is asked.
    """

    seq: int
    clients: list[ApiClient]
    deployments: list[Deployment]
    bodies: BodiesPolicy = BodiesPolicy()
    policy: str | None = None
    dead_sinks: list[str] = []


STREAM_GAP = "stream.gap"
STREAM_RESET = "stream.reset"
EVENTS_LOST = frozenset({STREAM_GAP, STREAM_RESET})
"""Kinds of events after which whoever follows reads the state anew, and follows on."""


class Event(BaseModel):
    """One element of the ordered stream. Numbers grow by one and are never used twice.

    Two kinds are told to one follower alone, and carry `from` and `to`: `stream.gap`, in place of the events with those
    numbers, which are not kept any more (its own `seq` is `to`); `stream.reset`, where the follower has heard up to
    `from` of a stream that has come to `to` only, as after a backup was brought back.
    """

    seq: int
    time: datetime
    kind: str
    subject: str | None = None
    data: dict[str, Any] = {}


class ProcessStatus(BaseModel):
    name: str
    state: Literal["running", "stopped", "unknown"]
    pid: int | None = None
    detail: str | None = None


class LedgerWitness(BaseModel):
    """When a head of one ledger last left this machine, and which head a witness last cosigned.

    `overdue_since` is set where neither happened within the period of the settings (where witnesses are
    named: where none cosigned). `command` is what to do next.
    """

    ledger: str
    left_at: datetime | None = None
    left_size: int | None = None
    cosigned_at: datetime | None = None
    cosigned_size: int | None = None
    cosigned_by: str | None = None
    overdue_since: datetime | None = None
    command: str


class LedgerStatus(BaseModel):
    """`signed` is how many entries the last signed tree head covers; `failure` says why it refuses.

    `witnessed`: no ledger of this home is overdue.
    """

    origin: str
    entries: int
    signed: int
    root: str | None = None
    witnessed: bool = False
    witnesses: list[LedgerWitness] = []
    failure: str | None = None


class SinkStatus(BaseModel):
    """Where the ledgers are exported to. `behind` counts entries not sent yet; `down_s` is None while it works."""

    name: str
    to: str
    required: bool
    behind: int
    sent: int
    down_s: float | None = None
    problem: str | None = None


class HeadsLeft(BaseModel):
    """Tree heads that have left this machine: signed entries by ledger, and how they left."""

    sizes: dict[Literal["control", "gateway"], Annotated[int, Field(ge=0)]]
    how: Literal["export", "carry", "syslog"]


class CosignedHead(BaseModel):
    """A tree head of one ledger with cosignatures, as a signed note."""

    ledger: Literal["control", "gateway"]
    note: str = Field(max_length=1 << 19)


class LogState(BaseModel):
    """What somebody who copies a ledger needs beside its tiles. Entries are base 64.

    `tail` are the entries made since the signed tree head, the oldest first; `cosigned` the tree heads that
    witnesses cosigned, by the id of the witness's key.
    """

    vkey: str
    checkpoint: str
    tail: list[str] = []
    cosigned: dict[str, str] = {}


class LedgerProof(BaseModel):
    """A tlog-proof (c2sp.org/tlog-proof)."""

    proof: str


class GpuStatus(BaseModel):
    """A GPU as its driver tells of it; null is what it does not tell. Memory in bytes; errors since its last reset.

    `number` is that of `/dev/nvidiaN` and of the device `cuda:N`, `index` the one that `nvidia-smi` goes by. `holders`
    are ids of jobs and deployments. `problem`: lost, reset-required, unreadable; unknown while no driver answers.
    """

    number: int
    index: int
    name: str = ""
    memory_used: int | None = None
    memory_total: int | None = None
    utilisation_percent: int | None = None
    temperature_c: int | None = None
    slowdown_c: int | None = None
    power_w: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    repair_pending: bool = False
    repair_failed: bool = False
    throttled_by: list[str] = []
    recovery: str | None = None
    problem: str | None = None
    holders: list[str] = []


BannerColour = Literal["grey", "green", "blue", "amber", "red", "magenta"]


class Environment(BaseModel):
    """What this appliance is called on screens, and the colour of the banner with that name."""

    name: str | None = None
    colour: BannerColour = "grey"


class Status(BaseModel):
    version: str
    home: str
    initialised: bool
    locked: bool
    sandbox: str
    ledger: LedgerStatus
    processes: list[ProcessStatus]
    jobs: dict[str, int]
    deployments: list[Deployment]
    last_seq: int
    gateway_url: str | None = None
    warnings: list[str] = []
    sinks: list[SinkStatus] = []
    gpus: list[GpuStatus] = []
    environment: Environment = Environment()


class WhoAmI(BaseModel):
    """Who the authority takes a connection for. `actions` are those that it may do, `policies` the set's digest.

    `sole` says that the appliance has no roles and belongs to this one account.
    """

    account: str
    uid: int
    roles: list[str]
    groups: list[str] = []
    sole: bool = False
    actions: list[str] = []
    policies: str = ""


class Alert(BaseModel):
    """Something that somebody has to look at: why, who is affected, and the next safe command.

    `key` names it while it lasts; `acknowledged_by` has seen it, which ends nothing.
    """

    key: str
    severity: Literal["critical", "warning"]
    cause: str
    affects: str
    command: str
    raised_at: datetime
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None


class Approval(BaseModel):
    """Something that was asked for and takes somebody else's approval, frozen under `digest`.

    `summary` says what it is, for a person; `document` is what a signature signs, to the byte. `diff` is how
    proposed policies differ from those in force, where one approval is asked for. `thing` is what it is done
    to. An approval of a deployment may be used again while it stands, every other once; `kept` stands, after the
    policy set has changed, for the deployments that are served under it and for nothing else.
    """

    approval_id: str
    state: Literal["pending", "approved", "refused", "withdrawn", "void", "expired", "used", "kept"]
    action: str
    kind: str
    thing: str
    name: str
    classification: str
    digest: str
    summary: list[str]
    signature_needed: bool
    requested_by: str
    requested_at: datetime
    expires_at: datetime
    document: str
    decided_by: str | None = None
    decided_at: datetime | None = None
    stands_until: datetime | None = None
    reason: str | None = None
    signature: str | None = None
    signer: str | None = None
    used_at: datetime | None = None
    diff: str | None = None


APPROVAL_NAMESPACE = "cloister-approval"
"""The namespace of SSH signatures on approvals: one that was made for anything else does not count."""


class ApprovalDecision(Document):
    """`digest` repeats that of what was shown. `signature` is an armored SSH signature over the document."""

    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    reason: str | None = Field(default=None, min_length=1, max_length=300)
    signature: str | None = Field(default=None, max_length=16_384)


class PolicyQuestion(Document):
    """May `account` (default: who asks) do `action`? `kind` where the action has more than one.

    `thing` names what it would be done to; without, the answer is about the strictest of its kind. `form` is how,
    where the action has forms; without, the strictest of them.
    """

    action: str = Field(max_length=64)
    kind: str | None = Field(default=None, max_length=64)
    thing: str | None = Field(default=None, max_length=64)
    form: ExportForm | None = None
    account: str | None = Field(default=None, max_length=64)


class PolicyRule(BaseModel):
    """One policy of the set in force: its id, its file, and its Cedar text as it stands there."""

    policy_id: str
    file: str
    source: str


class PolicyAnswer(BaseModel):
    """What the policies say. `policies` decided; `roles_that_may` are those of which one is enough. `forbids` are
    those of the deciding ones that forbid it.

    `demand` is what it takes besides the role: `yes` (nothing), `approval`, `signed approval`, or `no`.
    """

    account: str
    roles: list[str]
    action: str
    kind: str
    allowed: bool
    policies: list[str]
    problem: str | None
    roles_that_may: list[str]
    demand: str = "no"
    thing: str | None = None
    classification: str | None = None
    form: str | None = None
    forbids: list[PolicyRule] = []


class PolicyCell(BaseModel):
    """One cell of the table: what one role alone gets. `demand` and `form` are as in `PolicyAnswer`; `situation` is
    what else the policies may look at: whose request an approval is of, what a model's evaluation showed."""

    action: str
    kind: str
    classification: str
    role: str
    demand: str
    policies: list[str]
    form: str | None = None
    situation: str | None = None


class PolicyTable(BaseModel):
    """Who may do what, by the set in force. `digest` is its SHA-256, as in every entry of the ledger."""

    digest: str
    cells: list[PolicyCell]


PolicyText = Annotated[str, StringConstraints(max_length=1 << 18)]


class PolicyProposal(Document):
    """Another policy set: the texts of its schema and `*.cedar` files by name, and of its tests."""

    files: dict[str, PolicyText] = Field(min_length=1, max_length=64)
    tests: dict[str, PolicyText] = Field(default={}, max_length=64)


class PolicySetInfo(BaseModel):
    """The set in force. `origin`: shipped, folder, settings (accepted by digest), or approved."""

    digest: str
    origin: str
    since: datetime | None = None
    approval: str | None = None
    files: dict[str, str]


class LedgerEntry(BaseModel):
    """One entry as kept: canonical JSON (RFC 8785) of this without `index`."""

    index: int
    time: str
    actor: str
    identified_by: str
    action: str
    objects: list[str] = []
    digests: dict[str, str] = {}
    policy: str | None = None
    decision: str | None = None
    reason: str | None = None
    details: dict[str, Any] = {}


LedgerName = Literal["control", "gateway"]


class LedgerMatches(BaseModel):
    """Entries that match a search, oldest first. `more` means that older ones match as well.

    `size` is how many entries the ledger had then; `indexed` says whether an index told where to look.
    """

    entries: list[LedgerEntry]
    more: bool
    size: int
    indexed: bool


class BodyRequest(Document):
    """The body that an entry commits to."""

    ledger: LedgerName
    index: int = Field(ge=0, lt=1 << 53)


class RevealConfig(Document):
    """How a worker opens one body. `key` is in base64, `commitment` in hex."""

    key: str = Field(repr=False)
    commitment: str
    origin: str


class RevealTicket(BaseModel):
    """Send the descriptor that the body is to be written to, role `output`, with `token` over the side socket."""

    reveal_id: str
    part: str
    token: str = Field(repr=False)
    side_socket: str


class RevealResult(BaseModel):
    """What was revealed: prompt or answer, how many bytes, and which entry says so."""

    part: str
    bytes: int
    entry: int


class ShredBodiesRequest(Document):
    """Exactly one of the two: one body, or all bodies of the days before `before`."""

    body: BodyRequest | None = None
    before: date | None = None

    @model_validator(mode="after")
    def _one(self) -> ShredBodiesRequest:
        if (self.body is None) == (self.before is None):
            raise ValueError("name one body, or a day")
        return self


class ShredBodiesResult(BaseModel):
    shredded: int
    left: int
    entry: int
