"""The authority's socket: HTTP with JSON, problem details for errors, events as server-sent events.

Every route asks the authority and formats its answer; nothing is decided here. Who asks is the
connection's account (see `peer`), never anything that the request says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from cloister import __version__
from cloister.api import (
    ApiClient,
    BaseImport,
    ClassifyRequest,
    ClientRequest,
    CosignedHead,
    Curve,
    DatasetImport,
    Deployment,
    EngineLoad,
    GatewayHello,
    GatewaySecrets,
    GatewayView,
    HeadsLeft,
    IssuedClient,
    Job,
    JobTicket,
    LedgerEntry,
    LedgerProof,
    LedgerStatus,
    LockRequest,
    MergeRequest,
    ObjectKind,
    Passphrase,
    PlanRequest,
    PriorityRequest,
    Problem,
    Run,
    RunPlan,
    RunRequest,
    ServeRequest,
    Status,
    StoredObject,
)
from cloister.appliance import records
from cloister.appliance.approval_routes import approval_routes
from cloister.appliance.audit_http import audit_router
from cloister.appliance.authority import Authority
from cloister.appliance.bounds import Bounds
from cloister.appliance.caller import Caller
from cloister.appliance.curves import MOST
from cloister.appliance.dataset_routes import dataset_routes
from cloister.appliance.engine_load import loads
from cloister.appliance.evaluation_routes import evaluation_routes
from cloister.appliance.export_routes import export_routes
from cloister.appliance.guard import may, may_by, require_guarded
from cloister.appliance.health_routes import health_routes
from cloister.appliance.http_erasure import erasure_routes
from cloister.appliance.policy_routes import policy_routes
from cloister.appliance.repeats import Repeats
from cloister.appliance.vault_routes import vault_routes
from cloister.errors import CloisterError, InvalidInput, NotFound
from cloister.logs import place
from cloister.verifier import Cosignature

log = structlog.get_logger()

MAX_ENTRIES = 1_000
LISTS = {
    "datasets": ("dataset.list", "Dataset"),
    "bases": ("base.list", "Base"),
    "models": ("model.list", "Model"),
}


def _problem(error: CloisterError) -> JSONResponse:
    problem = records.problem(error)
    return JSONResponse(problem.model_dump(), problem.status, media_type="application/problem+json")


def _validation_problem(error: RequestValidationError) -> JSONResponse:
    fields = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
    return _problem(InvalidInput(fields or "not a valid request"))


def create_app(authority: Authority) -> FastAPI:
    """The application over one authority."""
    app = FastAPI(title="Cloister", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(
        Repeats,
        state=authority.state,
        has_role=authority.guard.has_role,
        require=authority.guard.require_route,
        refuse=_problem,
    )
    app.add_middleware(Bounds, settings=authority.settings.api, refuse=_problem)
    app.state.guard = authority.guard

    @app.exception_handler(CloisterError)
    async def _cloister_error(_: Request, error: CloisterError) -> JSONResponse:
        return _problem(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _validation_problem(error)

    @app.exception_handler(HTTPException)
    async def _http_error(_: Request, error: HTTPException) -> JSONResponse:
        code = NotFound.code if error.status_code == 404 else InvalidInput.code
        problem = Problem(title="Error", status=error.status_code, code=code, detail=str(error.detail))
        return JSONResponse(problem.model_dump(), error.status_code, media_type="application/problem+json")

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        log.error("http.error", cause=place(error))
        return _problem(
            CloisterError("the authority failed", remedy="See its log in the home's `logs` folder.")
        )

    app.include_router(_vault_and_status(authority))
    app.include_router(vault_routes(authority))
    app.include_router(_serving_and_clients(authority))
    app.include_router(_events_and_audit(authority))
    app.include_router(audit_router(authority))
    app.include_router(erasure_routes(authority))
    app.include_router(policy_routes(authority))
    app.include_router(health_routes(authority))
    app.include_router(approval_routes(authority))
    app.include_router(export_routes(authority))
    app.include_router(dataset_routes(authority))
    app.include_router(evaluation_routes(authority))
    app.include_router(_objects_and_jobs(authority))  # last: it has routes that match any collection
    require_guarded(app)
    return app


def _vault_and_status(authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/status", dependencies=[may("appliance.status")])
    async def status() -> Status:
        return await authority.overview.status()

    @router.get("/openapi.json", dependencies=[may("appliance.status")])
    async def openapi(request: Request) -> dict[str, Any]:
        app: FastAPI = request.app
        return app.openapi()

    @router.post("/init", status_code=204, dependencies=[may("vault.init")])
    async def initialise(peer: Caller, body: Passphrase) -> None:
        await authority.seal.initialise(peer, body.passphrase)
        _tell(authority, "vault.unlocked")

    @router.post("/unlock", status_code=204, dependencies=[may("vault.unlock")])
    async def unlock(peer: Caller, body: Passphrase) -> None:
        await authority.seal.unlock(peer, body.passphrase)
        _tell(authority, "vault.unlocked")

    @router.post("/lock", status_code=204, dependencies=[may("vault.lock")])
    async def lock(peer: Caller, body: LockRequest) -> None:
        await authority.lock(peer, body)

    return router


def _tell(authority: Authority, kind: str) -> None:
    with authority.state.change() as change:
        change.event(kind)


def _objects_and_jobs(authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1")
    collections = {"datasets": ObjectKind.DATASET, "bases": ObjectKind.BASE, "models": ObjectKind.MODEL}

    def kind_of(collection: str) -> ObjectKind:
        if collection not in collections:
            raise NotFound("there is no such collection", where=collection[:64])
        return collections[collection]

    @router.post("/datasets", status_code=202, dependencies=[may("dataset.import")])
    async def import_dataset(peer: Caller, body: DatasetImport) -> JobTicket:
        return await authority.requests.import_dataset(peer, body)

    @router.post("/datasets/{reference}/classify", dependencies=[may("dataset.classify")])
    async def classify(peer: Caller, reference: str, body: ClassifyRequest) -> StoredObject:
        return await authority.classifying.stricter(peer, reference, body)

    @router.post("/datasets/{reference}/declassify", dependencies=[may("dataset.declassify")])
    async def declassify(peer: Caller, reference: str, body: ClassifyRequest) -> StoredObject:
        return await authority.classifying.milder(peer, reference, body)

    @router.post("/bases", status_code=202, dependencies=[may("base.import")])
    async def import_base(peer: Caller, body: BaseImport) -> JobTicket:
        return await authority.requests.import_base(peer, body)

    @router.post("/models", status_code=202, dependencies=[may("model.merge")])
    async def merge(peer: Caller, body: MergeRequest) -> Job:
        return await authority.requests.merge(peer, body)

    @router.post("/runs", status_code=202, dependencies=[may("run.start")])
    async def start_run(peer: Caller, body: RunRequest) -> Run:
        return await authority.requests.start_run(peer, body)

    @router.post("/plan", dependencies=[may("run.list")])
    async def plan(body: PlanRequest) -> RunPlan:
        return authority.run_plans.plan(body)

    @router.get("/runs", dependencies=[may("run.list")])
    async def runs() -> list[Run]:
        return authority.overview.runs()

    @router.get("/runs/{reference}", dependencies=[may("run.list")])
    async def run(reference: str) -> Run:
        return authority.overview.run(reference)

    @router.get("/runs/{reference}/curve", dependencies=[may("run.list")])
    async def curve(reference: str, most: Annotated[int, Query(ge=2, le=100_000)] = MOST) -> Curve:
        return authority.overview.curve(reference, most)

    @router.post("/runs/{reference}/resume", status_code=202, dependencies=[may("run.resume")])
    async def resume_run(peer: Caller, reference: str) -> Run:
        return await authority.requests.resume_run(peer, reference)

    @router.post("/runs/{reference}/cancel", status_code=202, dependencies=[may("run.cancel")])
    async def cancel_run(peer: Caller, reference: str) -> Run:
        return await authority.requests.cancel_run(peer, reference)

    @router.post("/runs/{reference}/pause", status_code=202, dependencies=[may("run.pause")])
    async def pause_run(peer: Caller, reference: str) -> Run:
        return await authority.requests.pause_run(peer, reference)

    @router.post("/runs/{reference}/retry", status_code=202, dependencies=[may("run.resume")])
    async def retry_run(peer: Caller, reference: str) -> Run:
        return await authority.requests.retry_run(peer, reference)

    @router.get("/jobs", dependencies=[may("job.list")])
    async def jobs() -> list[Job]:
        return authority.overview.jobs()

    @router.get("/jobs/{job_id}", dependencies=[may("job.list")])
    async def job(job_id: str) -> Job:
        return authority.overview.job(job_id)

    @router.post("/jobs/{job_id}/cancel", status_code=202, dependencies=[may("job.cancel")])
    async def cancel_job(peer: Caller, job_id: str) -> Job:
        await authority.queue.cancel(peer, job_id)
        return authority.overview.job(job_id)

    @router.post("/jobs/{job_id}/pause", status_code=202, dependencies=[may("job.pause")])
    async def pause_job(peer: Caller, job_id: str) -> Job:
        await authority.queue.pause(peer, job_id)
        return authority.overview.job(job_id)

    @router.post("/jobs/{job_id}/raise", dependencies=[may("job.raise")])
    async def raise_job(peer: Caller, job_id: str, body: PriorityRequest) -> Job:
        await authority.priorities.put_ahead(peer, job_id, body.priority)
        return authority.overview.job(job_id)

    @router.post("/jobs/{job_id}/lower", dependencies=[may("job.lower")])
    async def lower_job(peer: Caller, job_id: str, body: PriorityRequest) -> Job:
        await authority.priorities.put_behind(peer, job_id, body.priority)
        return authority.overview.job(job_id)

    @router.post("/jobs/{job_id}/retry", status_code=202, dependencies=[may("job.resume")])
    async def retry_job(peer: Caller, job_id: str) -> Job:
        await authority.queue.retry(peer, job_id)
        return authority.overview.job(job_id)

    @router.post("/jobs/{job_id}/resume", status_code=202, dependencies=[may("job.resume")])
    async def resume_job(peer: Caller, job_id: str) -> Job:
        await authority.queue.resume(peer, job_id)
        return authority.overview.job(job_id)

    @router.get("/{collection}", dependencies=[may_by(LISTS)])
    async def objects(collection: str) -> list[StoredObject]:
        return authority.overview.objects(kind_of(collection))

    @router.get("/{collection}/{reference}", dependencies=[may_by(LISTS)])
    async def stored_object(collection: str, reference: str) -> StoredObject:
        return authority.overview.object(kind_of(collection), reference)

    return router


def _serving_and_clients(authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.post("/deployments", status_code=202, dependencies=[may("deployment.start")])
    async def serve(peer: Caller, body: ServeRequest) -> Deployment:
        return await authority.serve(peer, body)

    @router.get("/deployments", dependencies=[may("deployment.list")])
    async def deployments() -> list[Deployment]:
        return authority.serving.listed()

    @router.get("/deployments/load", dependencies=[may("deployment.list")])
    async def engine_loads() -> list[EngineLoad]:
        return await loads(authority.serving.listed(only_live=True))

    @router.post("/deployments/{reference}/stop", dependencies=[may("deployment.stop")])
    async def stop(
        peer: Caller, reference: str, drain_s: Annotated[float, Query(ge=0, le=3600)] = 0
    ) -> Deployment:
        return await authority.serving.stop(peer, reference, drain_s=drain_s)

    @router.post("/clients", status_code=201, dependencies=[may("client.issue")])
    async def issue(peer: Caller, body: ClientRequest) -> IssuedClient:
        return await authority.clients.issue(peer, body)

    @router.get("/clients", dependencies=[may("client.list")])
    async def clients() -> list[ApiClient]:
        return authority.clients.listed()

    @router.post("/clients/{reference}/revoke", dependencies=[may("client.revoke")])
    async def revoke(peer: Caller, reference: str) -> ApiClient:
        return await authority.clients.revoke(peer, reference)

    @router.get("/gateway/secrets", dependencies=[may("gateway.connect")])
    async def gateway_secrets(peer: Caller) -> GatewaySecrets:
        keys = authority.seal.gateway_secrets()
        await authority.recorder.record(peer, "gateway.keys")
        return keys

    @router.post("/gateway/hello", status_code=204, dependencies=[may("gateway.connect")])
    async def gateway_hello(peer: Caller, body: GatewayHello) -> None:
        await authority.recorder.record(peer, "gateway.hello", url=body.url)

    @router.get("/gateway/view", dependencies=[may("gateway.connect")])
    async def gateway_view() -> GatewayView:
        return authority.overview.gateway_view()

    return router


def _events_and_audit(authority: Authority) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/events", dependencies=[may("appliance.events")])
    async def events(
        after: Annotated[int, Query(ge=0, lt=1 << 63)] = 0,
        last_event_id: Annotated[int, Header(ge=0, lt=1 << 63)] = 0,
    ) -> StreamingResponse:
        async def lines() -> AsyncIterator[str]:
            async for event in authority.state.follow(max(after, last_event_id)):
                if event is None:
                    yield ": keep-alive\n\n"
                else:
                    yield f"id: {event.seq}\ndata: {event.model_dump_json()}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @router.get("/audit/head", dependencies=[may("ledger.head")])
    async def head() -> LedgerStatus:
        return authority.overview.ledger_status()

    @router.get("/audit/key", dependencies=[may("ledger.head")])
    async def key() -> dict[str, str]:
        return {"vkey": authority.ledger.vkey}

    @router.get("/audit/entries", response_model=list[LedgerEntry], dependencies=[may("ledger.read")])
    async def entries(
        start: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 100
    ) -> Response:
        def read() -> bytes:  # entries are kept as JSON: each gets its index, nothing is parsed
            found = enumerate(authority.ledger.raw_entries(start, start + limit), start)
            return b"[%b]" % b",".join(b'{"index":%d,%b' % (index, raw[1:]) for index, raw in found)

        return Response(await asyncio.to_thread(read), media_type="application/json")

    @router.get("/audit/proof/{ledger}/{index}", dependencies=[may("ledger.read")])
    async def prove(
        ledger: Literal["control", "gateway"], index: Annotated[int, Path(ge=0, lt=1 << 63)]
    ) -> LedgerProof:
        return await authority.witnessing.prove(ledger, index)

    @router.post("/audit/left", status_code=204, dependencies=[may("ledger.carry")])
    async def left(peer: Caller, body: HeadsLeft) -> None:
        await authority.witnessing.left(peer, body)

    @router.post("/audit/cosigned", dependencies=[may("ledger.carry")])
    async def cosigned(peer: Caller, body: CosignedHead) -> list[Cosignature]:
        return await authority.witnessing.take_in(peer, body)

    @router.post("/audit/flush", status_code=204, dependencies=[may("ledger.sign")])
    async def flush() -> None:
        await authority.flush_ledger()

    return router
