"""What can be asked of an authority, a method each; what they do is told with the routes (`deploy/openapi.json`)."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from pydantic import TypeAdapter

from cloister.api import (
    EVENTS_LOST,
    FINAL_STATES,
    AddedSlot,
    Alert,
    ApiClient,
    Approval,
    ApprovalDecision,
    Backup,
    BackupRequest,
    BaseImport,
    BodyRequest,
    CheckLine,
    ClassifyRequest,
    ClientRequest,
    CosignedHead,
    Curve,
    DatasetImport,
    DatasetReport,
    Deployment,
    DeploymentState,
    DeriveRequest,
    EngineLoad,
    ErrorsConfig,
    EvaluationRequest,
    Event,
    ExportRequest,
    ForgetRequest,
    HeadsLeft,
    Hold,
    HoldRequest,
    IssuedClient,
    Job,
    JobTicket,
    KekRotated,
    LedgerEntry,
    LedgerMatches,
    LedgerName,
    LedgerProof,
    LedgerStatus,
    LockRequest,
    LogState,
    MergeRequest,
    ModelSigningKey,
    NewSlot,
    Opening,
    Passphrase,
    PlanRequest,
    PolicyAnswer,
    PolicyProposal,
    PolicyQuestion,
    PolicySetInfo,
    PolicyTable,
    PriorityRequest,
    RenderRequest,
    ReportRequest,
    RevealResult,
    RevealTicket,
    RootRotated,
    RowsConfig,
    Run,
    RunPlan,
    RunRequest,
    ServeRequest,
    Shred,
    ShredBodiesRequest,
    ShredBodiesResult,
    ShredPlan,
    ShredRequest,
    SlotSecret,
    SlotView,
    Status,
    StoredObject,
    WhoAmI,
)
from cloister.client.connection import REQUEST_TIMEOUT_S, Connection, error_of, quoted, read_answer
from cloister.errors import (
    CloisterError,
    Conflict,
    JobFailed,
    Unavailable,
)

SLOT_TIMEOUT_S = 300.0
"""Key derivations and tokens take their time."""
WATCH_PATIENCE_S = 120.0
"""How long a job is watched without a word of the authority."""


class Client(Connection):
    """A method for each request. Errors: those of `cloister.errors`, as the authority raised them."""

    # --- vault and status ------------------------------------------------------------------

    def status(self) -> Status:
        return self._get("/v1/status", Status)

    def whoami(self) -> WhoAmI:
        return self._get("/v1/whoami", WhoAmI)

    def alerts(self) -> list[Alert]:
        """What somebody has to look at, critical ones first."""
        return self._get("/v1/alerts", list[Alert])

    def acknowledge(self, key: str) -> Alert:
        """Say that you have seen it."""
        return self._post(f"/v1/alerts/{quoted(key)}/acknowledge", None, Alert)

    def explain(self, question: PolicyQuestion) -> PolicyAnswer:
        """What the policies in force say to one question."""
        return self._post("/v1/policy/explain", question, PolicyAnswer)

    def policy_table(self) -> PolicyTable:
        """Who may do what, by the policies in force."""
        return self._get("/v1/policy/table", PolicyTable)

    def policies(self) -> PolicySetInfo:
        """The policy set in force, with its files."""
        return self._get("/v1/policy", PolicySetInfo)

    def propose_policies(self, proposal: PolicyProposal) -> PolicySetInfo:
        """Put another set in force, where that is approved. Errors: InvalidInput, Denied, ApprovalNeeded."""
        return self._post("/v1/policy", proposal, PolicySetInfo)

    # --- approvals ---------------------------------------------------------------------------

    def approvals(self) -> list[Approval]:
        """Everything that was asked to be approved, the oldest first."""
        return self._get("/v1/approvals", list[Approval])

    def approval(self, approval_id: str) -> Approval:
        return self._get(f"/v1/approvals/{quoted(approval_id)}", Approval)

    def approve(self, approval_id: str, decision: ApprovalDecision) -> Approval:
        return self._post(f"/v1/approvals/{quoted(approval_id)}/give", decision, Approval)

    def disapprove(self, approval_id: str, decision: ApprovalDecision) -> Approval:
        return self._post(f"/v1/approvals/{quoted(approval_id)}/refuse", decision, Approval)

    def withdraw(self, approval_id: str) -> Approval:
        return self._post(f"/v1/approvals/{quoted(approval_id)}/withdraw", None, Approval)

    def verify_approval(self, approval_id: str) -> Approval:
        """Have its kept signature checked again, as of the moment it was given. Errors: Unauthenticated."""
        return self._get(f"/v1/approvals/{quoted(approval_id)}/verify", Approval)

    # --- the vault ---------------------------------------------------------------------------

    def initialise(self, passphrase: str) -> None:
        self._send("/v1/init", Passphrase(passphrase=passphrase))

    def unlock(self, passphrase: str) -> None:
        self._send("/v1/unlock", Passphrase(passphrase=passphrase))

    def lock(self, request: LockRequest) -> None:
        self._send("/v1/lock", request, timeout=None)

    def open_with(self, secret: SlotSecret) -> Opening:
        """Unlock by any slot; with shares it may take several calls, also of several people."""
        return self._post("/v1/vault/unlock", secret, Opening, timeout=SLOT_TIMEOUT_S)

    def slots(self) -> list[SlotView]:
        return self._get("/v1/vault/slots", list[SlotView])

    def add_slot(self, request: NewSlot) -> AddedSlot:
        return self._post("/v1/vault/slots", request, AddedSlot, timeout=SLOT_TIMEOUT_S)

    def remove_slot(self, slot: int, proof: SlotSecret) -> None:
        self._send(f"/v1/vault/slots/{slot}/remove", proof, timeout=SLOT_TIMEOUT_S)

    def rotate_kek(self) -> KekRotated:
        return self._post("/v1/vault/rotate/kek", None, KekRotated, timeout=None)

    def rotate_root(self, proof: SlotSecret) -> RootRotated:
        return self._post("/v1/vault/rotate/root", proof, RootRotated, timeout=None)

    def rotate_object(self, reference: str) -> Job:
        return self._post(f"/v1/vault/rotate/objects/{quoted(reference)}", None, Job)

    def check_vault(self, *, quick: bool = False) -> Iterator[CheckLine]:
        """The lines of a check of the whole vault as they come; the last one is its result."""
        timeout = httpx.Timeout(REQUEST_TIMEOUT_S, read=None)
        for line in self._lines("POST", "/v1/vault/check", {"quick": quick}, timeout):
            yield CheckLine.model_validate_json(line)

    # --- objects ---------------------------------------------------------------------------

    def datasets(self) -> list[StoredObject]:
        return self._get("/v1/datasets", list[StoredObject])

    def dataset(self, reference: str) -> StoredObject:
        return self._get(f"/v1/datasets/{quoted(reference)}", StoredObject)

    def classify(self, reference: str, request: ClassifyRequest) -> StoredObject:
        """Classify a dataset more strictly. Errors: Conflict where it would not be."""
        return self._post(f"/v1/datasets/{quoted(reference)}/classify", request, StoredObject)

    def declassify(self, reference: str, request: ClassifyRequest) -> StoredObject:
        """Classify a dataset less strictly. Errors: ApprovalNeeded, Conflict."""
        return self._post(f"/v1/datasets/{quoted(reference)}/declassify", request, StoredObject)

    def bases(self) -> list[StoredObject]:
        return self._get("/v1/bases", list[StoredObject])

    def base(self, reference: str) -> StoredObject:
        return self._get(f"/v1/bases/{quoted(reference)}", StoredObject)

    def models(self) -> list[StoredObject]:
        return self._get("/v1/models", list[StoredObject])

    def model(self, reference: str) -> StoredObject:
        return self._get(f"/v1/models/{quoted(reference)}", StoredObject)

    def import_dataset(self, request: DatasetImport, descriptors: Mapping[str, int]) -> Job:
        """Queue an import; `source` is the file, `source:1` and so on those of `config.more`, `report` (optional) is
        where problems are written."""
        return self._deliver(self._post("/v1/datasets", request, JobTicket), descriptors)

    def source_goes(self, reference: str, filesystem: str, *, overwritten: bool) -> None:
        """Have entered that the caller, who imported this dataset, removes the file that it came from. Before doing so.

        Errors: Conflict where somebody else imported it; LedgerUnavailable, and then do not remove it.
        """
        kind = re.sub(r"[^a-z0-9._-]", "-", filesystem.lower())[:32] or "unknown"
        path = f"/v1/datasets/{quoted(reference)}/source-removal"
        self._send(f"{path}?filesystem={kind}&overwritten={str(overwritten).lower()}", None)

    def import_base(self, request: BaseImport, descriptors: Mapping[str, int]) -> Job:
        """Queue an import of model files; descriptor `file:<i>` is `request.config.files[i]`."""
        return self._deliver(self._post("/v1/bases", request, JobTicket), descriptors)

    def merge(self, request: MergeRequest) -> Job:
        return self._post("/v1/models", request, Job)

    def export_model(self, reference: str, request: ExportRequest, output: int) -> Job:
        """Have a model written to the descriptor `output`, a pipe that is read meanwhile (see `cloister.targets`).

        Errors: Denied, ApprovalNeeded, Locked, NotFound.
        """
        ticket = self._post(f"/v1/models/{quoted(reference)}/export", request, JobTicket)
        return self._deliver(ticket, {"output": output})

    def model_signing_key(self) -> ModelSigningKey:
        """The public half of the key that signs exports. Errors: Locked."""
        return self._get("/v1/exports/key", ModelSigningKey)

    # --- shredding, holds, forgetting, backups -------------------------------------------------

    def shred_plan(self, collection: str, reference: str, version: int | None = None) -> ShredPlan:
        """What a shred of one of `datasets`, `runs` or `models` would take with it."""
        query = {} if version is None else {"version": version}
        return self._get(f"/v1/{collection}/{quoted(reference)}/shred", ShredPlan, **query)

    def shred(self, collection: str, reference: str, request: ShredRequest) -> Shred:
        """Shred; answers when it is done and proved."""
        return self._post(f"/v1/{collection}/{quoted(reference)}/shred", request, Shred, timeout=None)

    def shreds(self) -> list[Shred]:
        return self._get("/v1/shreds", list[Shred])

    def finished_shred(self, shred_id: str) -> Shred:
        """Wait for a shred that something else began. Errors: Conflict where it was abandoned."""
        while True:
            with contextlib.suppress(Unavailable):
                found = self._get(f"/v1/shreds/{quoted(shred_id)}", Shred)
                if found.state == "abandoned":
                    raise Conflict(found.problem or "the shred was abandoned", where=found.name)
                if found.state == "done":
                    return found
            time.sleep(0.2)

    def hold(self, dataset: str, request: HoldRequest) -> Hold:
        return self._post(f"/v1/datasets/{quoted(dataset)}/hold", request, Hold)

    def release(self, dataset: str) -> list[Hold]:
        return self._post(f"/v1/datasets/{quoted(dataset)}/release", None, list[Hold])

    def holds(self) -> list[Hold]:
        return self._get("/v1/holds", list[Hold])

    def forget(self, dataset: str, request: ForgetRequest) -> Job:
        """Queue the next version of a dataset, without the rows that mention someone."""
        return self._post(f"/v1/datasets/{quoted(dataset)}/forget", request, Job)

    def report(self, dataset: str, request: ReportRequest) -> Job:
        """Queue a look at a dataset, in numbers."""
        return self._post(f"/v1/datasets/{quoted(dataset)}/report", request, Job)

    def last_report(self, dataset: str) -> DatasetReport:
        """The newest numbers about a dataset. Errors: NotFound where nobody has looked."""
        return self._get(f"/v1/datasets/{quoted(dataset)}/report", DatasetReport)

    def show_rows(self, dataset: str, request: RowsConfig, output: int) -> Job:
        """Have rows written to the descriptor `output`, a pipe that is read meanwhile; answers when they are.

        Errors: Denied, NotFound, InvalidInput.
        """
        ticket = self._post(f"/v1/datasets/{quoted(dataset)}/rows", request, JobTicket)
        return self.finished_job(self._deliver(ticket, {"output": output}).job_id)

    def render_row(self, dataset: str, request: RenderRequest, output: int) -> Job:
        """`show_rows` of one row as a run would learn it: its text in stretches, each with whether it is learnt.

        Errors: Denied, NotFound, InvalidInput where it cannot be rendered.
        """
        ticket = self._post(f"/v1/datasets/{quoted(dataset)}/render", request, JobTicket)
        return self.finished_job(self._deliver(ticket, {"output": output}).job_id)

    def derive(self, dataset: str, request: DeriveRequest, descriptors: Mapping[str, int] = {}) -> Job:
        """Queue a dataset made of others; `corrections` is their file, where the request says that there is one."""
        ticket = self._post(f"/v1/datasets/{quoted(dataset)}/derive", request, JobTicket)
        return self._deliver(ticket, descriptors) if ticket.token is not None else ticket.job

    def back_up(self, request: BackupRequest, descriptors: Mapping[str, int]) -> Job:
        """Begin a backup; `objects` is a folder's descriptor, `keys` (optional) that of another one."""
        return self._deliver(self._post("/v1/backups", request, JobTicket, timeout=None), descriptors)

    def backups(self) -> list[Backup]:
        return self._get("/v1/backups", list[Backup])

    def discard_backup(self, backup_id: str) -> Backup:
        return self._post(f"/v1/backups/{quoted(backup_id)}/discard", None, Backup)

    # --- runs and jobs -----------------------------------------------------------------------

    def start_run(self, request: RunRequest) -> Run:
        return self._post("/v1/runs", request, Run)

    def runs(self) -> list[Run]:
        return self._get("/v1/runs", list[Run])

    def run(self, reference: str) -> Run:
        return self._get(f"/v1/runs/{quoted(reference)}", Run)

    def evaluate_run(self, reference: str, request: EvaluationRequest, descriptors: Mapping[str, int]) -> Job:
        """Measure a run; `descriptors` are open files by role, those that the request names by digest.

        Errors: NotFound, Conflict, Denied, Locked.
        """
        ticket = self._post(f"/v1/runs/{quoted(reference)}/evaluate", request, JobTicket)
        return self._deliver(ticket, descriptors) if ticket.token is not None else ticket.job

    def evaluation_errors(self, reference: str, request: ErrorsConfig, output: int) -> Job:
        """Have the worst answers of a run's evaluation written to the descriptor `output`, a pipe that is read
        meanwhile: one JSON document, which is content.

        Errors: NotFound, Denied, Locked.
        """
        ticket = self._post(f"/v1/runs/{quoted(reference)}/errors", request, JobTicket)
        return self.finished_job(self._deliver(ticket, {"output": output}).job_id)

    def plan(self, request: PlanRequest) -> RunPlan:
        """What a run would take. Nothing starts."""
        return self._post("/v1/plan", request, RunPlan)

    def run_curve(self, reference: str, *, most: int = 2000) -> Curve:
        """How a run's training went, step by step; at most about so many points."""
        return self._get(f"/v1/runs/{quoted(reference)}/curve?most={most}", Curve)

    def resume_run(self, reference: str) -> Run:
        return self._post(f"/v1/runs/{quoted(reference)}/resume", None, Run)

    def retry_run(self, reference: str) -> Run:
        """Begin anew what ended without its result."""
        return self._post(f"/v1/runs/{quoted(reference)}/retry", None, Run)

    def pause_run(self, reference: str) -> Run:
        """Stop it at a checkpoint; its device is free for others until `resume_run`."""
        return self._post(f"/v1/runs/{quoted(reference)}/pause", None, Run, timeout=None)

    def cancel_run(self, reference: str) -> Run:
        return self._post(f"/v1/runs/{quoted(reference)}/cancel", None, Run, timeout=None)

    def jobs(self) -> list[Job]:
        return self._get("/v1/jobs", list[Job])

    def job(self, job_id: str) -> Job:
        return self._get(f"/v1/jobs/{quoted(job_id)}", Job)

    def cancel_job(self, job_id: str) -> Job:
        return self._post(f"/v1/jobs/{quoted(job_id)}/cancel", None, Job, timeout=None)

    def pause_job(self, job_id: str) -> Job:
        return self._post(f"/v1/jobs/{quoted(job_id)}/pause", None, Job, timeout=None)

    def raise_job(self, job_id: str, priority: int) -> Job:
        """Give a job a higher priority than it has: it starts before others. Errors: Conflict where that is none."""
        return self._post(f"/v1/jobs/{quoted(job_id)}/raise", PriorityRequest(priority=priority), Job)

    def lower_job(self, job_id: str, priority: int) -> Job:
        """Give a job a lower priority than it has: others start before it. Errors: Conflict where that is none."""
        return self._post(f"/v1/jobs/{quoted(job_id)}/lower", PriorityRequest(priority=priority), Job)

    def retry_job(self, job_id: str) -> Job:
        return self._post(f"/v1/jobs/{quoted(job_id)}/retry", None, Job)

    def resume_job(self, job_id: str) -> Job:
        return self._post(f"/v1/jobs/{quoted(job_id)}/resume", None, Job)

    def watch_job(self, job_id: str, patience_s: float = WATCH_PATIENCE_S) -> Iterator[Job]:
        """The job each time that it changes, the last time in a final state.

        Outlives a restart of the authority: it waits for it and takes up from the job as it is then.
        Errors: Unavailable where it does not come back within `patience_s`.
        """
        job = self.job(job_id)
        yield job
        after = 0
        silent_since: float | None = None
        while job.state not in FINAL_STATES:
            try:
                if after == 0:
                    after = self.status().last_seq
                    job = self.job(job_id)
                    silent_since = None
                    yield job
                    if job.state in FINAL_STATES:
                        return
                for event in self.events(after):
                    after = event.seq
                    if event.kind in EVENTS_LOST or (
                        event.subject == job_id and event.kind.startswith("job.")
                    ):
                        job = self.job(job_id)
                        yield job
                        if job.state in FINAL_STATES:
                            return
            except Unavailable as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > patience_s:
                    raise Unavailable(
                        f"the authority has not answered for {patience_s:g} s",
                        where=error.where,
                        remedy="Start it with `cloister up`; what its sandboxes do goes on meanwhile.",
                    ) from None
                after = 0
                time.sleep(0.5)

    def finished_job(self, job_id: str) -> Job:
        """Wait for a job. Errors: what it failed with, or JobFailed when it was cancelled or cut off."""
        *_, job = self.watch_job(job_id)
        if job.error is not None:
            raise error_of(job.error)
        if job.state != "done":
            raise JobFailed(f"the job was {job.state}", where=job_id)
        return job

    # --- serving -----------------------------------------------------------------------------

    def serve(self, request: ServeRequest) -> Deployment:
        return self._post("/v1/deployments", request, Deployment)

    def deployments(self) -> list[Deployment]:
        return self._get("/v1/deployments", list[Deployment])

    def engine_loads(self) -> list[EngineLoad]:
        """What the engines that answer say of their work and their cache."""
        return self._get("/v1/deployments/load", list[EngineLoad])

    def stop_deployment(self, reference: str, *, drain_s: float = 0) -> Deployment:
        """Stop serving: new requests are refused at once, those in progress have `drain_s` to end."""
        path = f"/v1/deployments/{quoted(reference)}/stop"
        return self._post(path, None, Deployment, params={"drain_s": drain_s}, timeout=None)

    def ready_deployment(self, deployment_id: str, timeout_s: float = 600.0) -> Deployment:
        """Wait until a deployment answers. Errors: Unavailable with its last problem after the time."""
        end = time.monotonic() + timeout_s
        while True:
            found = next(d for d in self.deployments() if d.deployment_id == deployment_id)
            if found.state == DeploymentState.READY:
                return found
            if found.state in (DeploymentState.STOPPED, DeploymentState.FAILED) or time.monotonic() > end:
                why = found.error.detail if found.error else f"it is {found.state}"
                raise Unavailable(f"the deployment is not ready: {why}", where=found.name)
            time.sleep(0.2)

    def issue_client(self, request: ClientRequest) -> IssuedClient:
        return self._post("/v1/clients", request, IssuedClient)

    def clients(self) -> list[ApiClient]:
        return self._get("/v1/clients", list[ApiClient])

    def revoke_client(self, reference: str) -> ApiClient:
        return self._post(f"/v1/clients/{quoted(reference)}/revoke", None, ApiClient)

    # --- events and audit ----------------------------------------------------------------------

    def events(self, after: int = 0) -> Iterator[Event]:
        """The ordered stream from after that number on. Errors: Unavailable when it breaks off.

        An event of a kind in `EVENTS_LOST` says that some before it are lost: read anew what you show, and go on.
        """
        for data in self._stream("/v1/events", after=after):
            yield read_answer(Event, data, "/v1/events")

    def ledger(self) -> LedgerStatus:
        return self._get("/v1/audit/head", LedgerStatus)

    def ledger_key(self) -> str:
        """The verifier key (`vkey`) of the control ledger."""
        return self._get("/v1/audit/key", dict[str, str])["vkey"]

    def entries(self, start: int = 0, limit: int = 100) -> list[LedgerEntry]:
        return self._get("/v1/audit/entries", list[LedgerEntry], start=start, limit=limit)

    def search_ledger(self, limit: int = 50, **wanted: Any) -> LedgerMatches:
        """The newest entries that match: `ledger`, `actor`, `action`, `object`, `since`, `until`, `before`, `index`."""
        query = {name: value for name, value in wanted.items() if value is not None}
        return self._get("/v1/audit/search", LedgerMatches, limit=limit, **query)

    def follow_ledger(self, after: int = 0, **wanted: Any) -> Iterator[LedgerEntry]:
        """Entries from that index on as they are made. Errors: Unavailable when it breaks off."""
        query = {name: value for name, value in wanted.items() if value is not None}
        for data in self._stream("/v1/audit/follow", after=after, **query):
            yield read_answer(LedgerEntry, data, "/v1/audit/follow")

    def log_state(self, ledger: LedgerName) -> LogState:
        """What a copy of a ledger needs beside its tiles. Errors: NotFound where nothing is signed yet."""
        return self._get(f"/v1/audit/log/{ledger}", LogState)

    def tile(self, ledger: LedgerName, path: str) -> bytes:
        """A tile or entry bundle, by its path in tlog-tiles without the leading `tile/`."""
        return self._request("GET", f"/v1/audit/log/{ledger}/tile/{path}", None)

    def prove(self, ledger: str, index: int) -> str:
        """A tlog-proof of one entry."""
        return self._get(f"/v1/audit/proof/{quoted(ledger)}/{index}", LedgerProof).proof

    def heads_left(self, heads: HeadsLeft) -> None:
        """Say that tree heads have left this machine."""
        self._send("/v1/audit/left", heads)

    def take_in(self, head: CosignedHead) -> list[dict[str, Any]]:
        """Hand in a cosigned tree head; returns the cosignatures that were new."""
        return self._post("/v1/audit/cosigned", head, list[dict[str, Any]])

    def reveal(self, ledger: LedgerName, index: int, output: int) -> RevealResult:
        """Have the body of an entry written to the descriptor `output`, a pipe that is read meanwhile."""
        ticket = self._post("/v1/audit/reveal", BodyRequest(ledger=ledger, index=index), RevealTicket)
        self._hand_over(ticket.token, ticket.side_socket, {"output": output})
        return TypeAdapter(RevealResult).validate_json(
            self._request("GET", f"/v1/audit/reveal/{quoted(ticket.reveal_id)}", None, timeout=None)
        )

    def shred_bodies(self, request: ShredBodiesRequest) -> ShredBodiesResult:
        return self._post("/v1/audit/shred-bodies", request, ShredBodiesResult, timeout=None)

    def flush_ledger(self) -> None:
        self._send("/v1/audit/flush", None)

    def _deliver(self, ticket: JobTicket, descriptors: Mapping[str, int]) -> Job:
        """Hand over what the job waits for; one that does not get it is taken out again."""
        try:
            assert ticket.token is not None and ticket.side_socket is not None
            self._hand_over(ticket.token, ticket.side_socket, descriptors)
        except BaseException:
            with contextlib.suppress(CloisterError):
                self.cancel_job(ticket.job.job_id)
            raise
        return self.job(ticket.job.job_id)
