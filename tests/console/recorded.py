"""An appliance that never was, as documents: what the console shows of it is the same each time."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cloister.api import (
    Alert,
    ApiClient,
    Approval,
    Backup,
    Curve,
    CurvePoint,
    DatasetReport,
    Deployment,
    EngineLoad,
    Environment,
    EvaluateConfig,
    Event,
    Hold,
    Job,
    LabelFigures,
    LedgerEntry,
    LedgerMatches,
    LedgerStatus,
    LedgerWitness,
    LengthFigures,
    NearFigures,
    PersonalFigures,
    PlanPart,
    PolicyAnswer,
    PolicyQuestion,
    PolicyRule,
    ProcessStatus,
    Progress,
    RenderRequest,
    RepeatFigures,
    RowsConfig,
    Run,
    RunPlan,
    ServeConfig,
    ServePlan,
    ShredItem,
    ShredPlan,
    SlotView,
    Status,
    StoredObject,
    TrainConfig,
    WhoAmI,
)
from cloister.errors import Unavailable
from cloister.policy.actions import ACTIONS

NOW = datetime(2026, 3, 4, 3, 0, tzinfo=UTC)
DIGEST = "5" * 64


def before(**span: float) -> datetime:
    return NOW - timedelta(**span)


def stored(kind: str, prefix: str, name: str, **more: Any) -> StoredObject:
    values: dict[str, Any] = {
        "object_id": f"{prefix}-{name[:1] * 12}",
        "kind": kind,
        "version": 1,
        "name": name,
        "created_at": before(days=3),
        "created_by": "ines",
        "sealed_bytes": 1 << 24,
        "manifest_sha256": DIGEST,
    }
    return StoredObject(**(values | more))


def job(letter: str, verb: str, state: str, **more: Any) -> Job:
    values: dict[str, Any] = {
        "job_id": f"jb-{letter * 12}",
        "verb": verb,
        "state": state,
        "subject": None,
        "requested_by": "tariq",
        "created_at": before(hours=2),
    }
    return Job(**(values | more))


def run(name: str, train: Job, **more: Any) -> Run:
    values: dict[str, Any] = {
        "run_id": f"rn-{name[:1] * 12}",
        "name": name,
        "dataset": "ds-cccccccccccc",
        "base": "bm-ssssssssssss",
        "holdout": None,
        "train": TrainConfig(),
        "evaluate": EvaluateConfig(),
        "created_at": before(hours=2),
        "created_by": "tariq",
        "train_job": train,
    }
    return Run(**(values | more))


LIVE = job(
    "b",
    "train",
    "running",
    device="cpu",
    started_at=before(minutes=40),
    progress=Progress(stage="train", done=120, total=400, remaining_s=1980),
    metrics={"step": 120, "loss": 0.41, "holdout_loss": 0.52, "learning_rate": 1.6e-4, "tokens_per_s": 2710},
)


def _interval(value: float, half: float = 0.04) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def _line(name: str, accuracy: float, gain: float | None, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "figures": {"accuracy": _interval(accuracy), "macro_f1": _interval(accuracy - 0.02)},
        "gain": None if gain is None else _interval(gain),
        "consistency": _interval(0.9),
        "examples": 0.0,
        "instructed": False,
        "prompt_tokens": 212.0,
        "latency_s": 0.21,
        "seconds": 0.03,
        "cost": 0.4,
        "pays_after": None,
    } | more


FULL = {
    "table": {
        "rows": 139,
        "kind": "classification",
        "primary": "accuracy",
        "lines": [
            _line("base", 0.41, 0.525, instructed=True, pays_after=1800.0),
            _line("few-shot", 0.78, 0.155, examples=8.0, prompt_tokens=1900.0, cost=2.1, pays_after=900.0),
            _line("tuned", 0.935, None),
        ],
        "groups": [[{"rows": 80, "figures": {"base": 0.4, "few-shot": 0.8, "tuned": 0.95}}]],
        "general": {
            "items": 60,
            "base": _interval(0.5),
            "tuned": _interval(0.49),
            "change": _interval(-0.01),
            "kinds": {"arithmetic": [0.4, 0.38]},
        },
        "currency": "EUR",
        "training_cost": 1.7,
        "pays_after_person": 12.0,
    },
    "verdict": {
        "advice": "deploy",
        "against": "few-shot",
        "sentences": ["Fine-tuning beats few-shot prompting by 15.5 points: deploy it."],
    },
    "notes": ["a group of 3 rows was left out"],
}
"""An evaluation's whole table, as a run's `evaluation["full"]` has it."""
CURVE = Curve(
    run_id="rn-ffffffffffff",
    name="first",
    points=[CurvePoint(step=step, values={"loss": 3.0 / step}) for step in range(10, 440, 10)],
)
REPORT = DatasetReport(
    rows=1500,
    train_rows=1361,
    holdout_rows=139,
    task="classification",
    characters=LengthFigures(
        total=610_000,
        shortest=41,
        longest=1920,
        median=380,
        p95=900,
        p99=1500,
        histogram=[(256, 300), (512, 800), (1024, 350), (2048, 50)],
    ),
    turns={1: 1400, 2: 100},
    labels=LabelFigures(distinct=3, rows=[900, 500, 100]),
    empty_answers=2,
    first_empty=[17, 230],
    repeats=RepeatFigures(one_in=1, duplicates=12, conflicting_inputs=3, conflicting_rows=7, leaked=0),
    near=NearFigures(compared=1500, similar=40, leaked=4, first=[1, 8]),
    lost={"longer than 1024 tokens": 5},
    first_lost={"longer than 1024 tokens": [3]},
    personal=PersonalFigures(looked_at=1500, rows=31, found={"email": {"question": 30, "answer": 2}}),
)
LOOKED = job("l", "report", "done", result=REPORT.model_dump(mode="json"))
PLAN = RunPlan(
    device="NVIDIA H100",
    parts=[
        PlanPart(name="base", bytes=5 << 30, of="NF4, 8.0 B parameters"),
        PlanPart(name="activations", bytes=4 << 30, of="2 rows of 1,024 tokens"),
    ],
    memory=9 << 30,
    memory_measured=True,
    available=80 << 30,
    fits=True,
    rows=1361,
    tokens=310_000,
    lengths_measured=True,
    steps=256,
    seconds=2040.0,
    seconds_low=1500.0,
    seconds_high=2800.0,
    time_measured=False,
    energy_kwh=0.41,
    money=1.7,
    serve=ServePlan(memory=17 << 30, available=80 << 30, fits=True),
)
MEASURED = {
    "rows": 139,
    "base": {"loss": 4.554, "exact_match": 0.0, "macro_f1": 0.11},
    "tuned": {"loss": 0.0087, "exact_match": 0.935, "macro_f1": 0.94},
}


class Recorded:
    """Answers like `cloister.client.Client`, from what it holds; `change` it to show another state."""

    def __init__(self, **status: Any) -> None:
        self._ended = threading.Event()
        self.answers: dict[str, Any] = {
            "status": self._status(**status),
            "whoami": WhoAmI(
                account="ines",
                uid=1000,
                roles=["steward", "trainer", "operator"],
                actions=[action.name for action in ACTIONS if action.name != "slot.list"],
                policies=DIGEST,
            ),
            "alerts": [
                Alert(
                    key="disk-low",
                    severity="critical",
                    cause="2.1 GiB are free on the disk of the home",
                    affects="new runs and imports wait",
                    command="cloister doctor",
                    raised_at=before(minutes=12),
                )
            ],
            "datasets": [
                stored(
                    "dataset",
                    "ds",
                    "claims",
                    classification="confidential",
                    counts={"rows": 1500, "holdout_rows": 139},
                ),
                stored(
                    "dataset",
                    "ds",
                    "letters",
                    classification="restricted",
                    counts={"rows": 90210, "holdout_rows": 9000},
                ),
            ],
            "bases": [stored("base", "bm", "small", sealed_bytes=9_000_000)],
            "models": [
                stored(
                    "model",
                    "mm",
                    "merged",
                    inputs=["ad-aaaaaaaaaaaa"],
                    classification="confidential",
                    details={
                        "base": "nf4",
                        "loss_adapter": 0.0094,
                        "loss_merged": 0.0095,
                        "greedy_agreement": 1.0,
                    },
                )
            ],
            "runs": [
                run(
                    "first",
                    job(
                        "a", "train", "done", result={"steps": 430, "seconds": 317.0, "holdout_loss": 0.0087}
                    ),
                    evaluate_job=job("e", "evaluate", "done"),
                    adapter="ad-aaaaaaaaaaaa",
                    evaluation=MEASURED,
                    created_at=before(days=1),
                ),
                run("second", LIVE),
                run(
                    "third",
                    job("q", "train", "queued", position=1, starts_in_s=2000.0),
                    created_at=before(minutes=5),
                ),
            ],
            "jobs": [LIVE, job("q", "train", "queued", position=1, starts_in_s=2000.0)],
            "deployments": [
                Deployment(
                    deployment_id="dp-cccccccccccc",
                    name="claims",
                    model="mm-mmmmmmmmmmmm",
                    state="ready",
                    config=ServeConfig(),
                    created_at=before(hours=20),
                    created_by="omar",
                    device="cpu",
                ),
                Deployment(
                    deployment_id="dp-dddddddddddd",
                    name="claims",
                    model="mm-gggggggggggg",
                    state="stopped",
                    config=ServeConfig(),
                    created_at=before(days=9),
                    created_by="omar",
                ),
            ],
            "clients": [
                ApiClient(
                    client_id="cl-dddddddddddd",
                    name="claims-desk",
                    deployments=["claims"],
                    created_at=before(days=2),
                    created_by="omar",
                    expires_at=NOW + timedelta(days=12),
                ),
                ApiClient(
                    client_id="cl-xxxxxxxxxxxx",
                    name="old-portal",
                    created_at=before(days=200),
                    created_by="omar",
                    revoked_at=before(days=30),
                ),
            ],
            "approvals": [
                Approval(
                    approval_id="ap-aaaaaaaaaaaa",
                    state="pending",
                    action="deployment.start",
                    kind="Deployment",
                    thing="mm-mmmmmmmmmmmm",
                    name="claims",
                    classification="confidential",
                    digest=DIGEST,
                    summary=["serve merged (mm-mmmmmmmmmmmm) as claims"],
                    signature_needed=False,
                    requested_by="omar",
                    requested_at=before(minutes=30),
                    expires_at=NOW + timedelta(hours=71),
                    document="…",
                )
            ],
            "holds": [
                Hold(
                    hold_id="lh-hhhhhhhhhhhh",
                    object_id="ds-llllllllllll",
                    name="letters",
                    reason="case 4711",
                    placed_at=before(days=1),
                    placed_by="ines",
                )
            ],
            "slots": [SlotView(slot=1, kind="passphrase", state="good", detail="Argon2id, 256 MiB")],
            "backups": [
                Backup(
                    backup_id="bk-bbbbbbbbbbbb",
                    made_at=before(days=1),
                    made_by="ana",
                    where="/mnt/backup",
                    keys_until=NOW + timedelta(days=89),
                    packs=12,
                    copied=3,
                    copied_bytes=1 << 25,
                    objects_sha256=DIGEST,
                    keys_sha256=DIGEST,
                    ledger_entries=812,
                )
            ],
        }
        self.answers |= {
            "plan": PLAN,
            "last_report": REPORT,
            "report": LOOKED,
            "watch_job": [LOOKED],
            "run_curve": CURVE,
            "engine_loads": [
                EngineLoad(
                    deployment_id="dp-cccccccccccc",
                    running=2,
                    waiting=0,
                    cache_used=0.25,
                    cache_asked=8000,
                    cache_found=6000,
                )
            ],
        }
        self.entries = [
            LedgerEntry(
                index=812 + i,
                time=before(minutes=10 - i).isoformat(),
                actor=actor,
                identified_by="SO_PEERCRED uid=1000",
                action=action,
                objects=objects,
                decision=decision,
            )
            for i, (actor, action, objects, decision) in enumerate(
                [
                    ("tariq", "run.start", ["rn-ssssssssssss"], "allow"),
                    ("cloisterd", "job.train", ["jb-bbbbbbbbbbbb"], None),
                    ("mallory", "dataset.shred", ["ds-cccccccccccc"], "deny"),
                    ("omar", "client.issue", ["cl-dddddddddddd"], "allow"),
                ]
            )
        ]
        self.stream = [
            Event(
                seq=n,
                time=before(minutes=40),
                kind="job.metrics",
                subject=LIVE.job_id,
                data={"step": step, "values": values},
            )
            for n, (step, values) in enumerate(
                [
                    (
                        s,
                        {"loss": 4.0 / s, "learning_rate": 2e-4 * min(1, s / 20)}
                        | ({"holdout_loss": 4.2 / s} if s % 40 == 0 else {}),
                    )
                    for s in range(5, 125, 5)
                ],
                1,
            )
        ]
        self.away = False

    @staticmethod
    def _status(**changes: Any) -> Status:
        witness = LedgerWitness(
            ledger="control", left_at=before(hours=3), left_size=800, command="cloister audit carry"
        )
        ledger = LedgerStatus(
            origin="cloister/test", entries=816, signed=815, witnessed=True, witnesses=[witness]
        )
        values: dict[str, Any] = {
            "version": "0.1.0",
            "home": "/nowhere",
            "initialised": True,
            "locked": False,
            "sandbox": "bubblewrap",
            "ledger": ledger,
            "processes": [
                ProcessStatus(name=name, state="running") for name in ("authority", "launcher", "gateway")
            ],
            "jobs": {"running": 1, "queued": 1},
            "deployments": [],
            "last_seq": 24,
            "gateway_url": "http://127.0.0.1:8421",
            "environment": Environment(name="prod-frankfurt", colour="red"),
        }
        return Status(**(values | changes))

    def __getattr__(self, name: str) -> Any:
        if name not in self.answers:
            raise AttributeError(name)
        if self.away:
            raise Unavailable(
                "the authority does not answer: nothing listens on its socket",
                remedy="Start it with `cloister up`.",
            )
        return lambda *_, **__: self.answers[name]

    def events(self, after: int = 0) -> Iterator[Event]:
        if self.away:
            raise Unavailable(
                "the authority does not answer: nothing listens on its socket",
                remedy="Start it with `cloister up`.",
            )
        yield from (event for event in self.stream if event.seq > after)
        self._ended.wait()

    def close(self) -> None:
        self._ended.set()

    def search_ledger(self, limit: int = 50, **wanted: Any) -> LedgerMatches:
        if wanted.get("ledger") == "gateway":
            answered = [
                LedgerEntry(
                    index=n,
                    time=before(seconds=300 - n).isoformat(),
                    actor="cl-dddddddddddd",
                    identified_by="api-key",
                    action="inference.completion",
                    objects=["dp-cccccccccccc", "mm-mmmmmmmmmmmm"],
                    details={
                        "duration_ms": 400 + n,
                        "prompt_tokens": 200,
                        "completion_tokens": 40,
                        "status": 200 if n else 503,
                    },
                )
                for n in range(0, 300, 2)
            ]
            return LedgerMatches(entries=answered, more=False, size=300, indexed=True)
        return LedgerMatches(entries=self.entries, more=False, size=816, indexed=True)

    def explain(self, question: PolicyQuestion) -> PolicyAnswer:
        rule = PolicyRule(
            policy_id="own-duty", file="separation.cedar", source="forbid (principal, action, resource);"
        )
        return PolicyAnswer(
            account="ines",
            roles=["steward"],
            action=question.action,
            kind="Appliance",
            allowed=False,
            policies=["own-duty"],
            problem=None,
            roles_that_may=["admin"],
            demand="no",
            forbids=[rule],
        )

    def show_rows(self, dataset: str, request: RowsConfig, output: int) -> Job:
        for row in request.rows:
            message = {"role": "user", "content": f"canary \x1b[31m number {row}\nsecond line"}
            line = {"row": row, "side": "train", "label": "theft", "messages": [message]}
            os.write(output, json.dumps(line).encode() + b"\n")
        return LOOKED

    def render_row(self, dataset: str, request: RenderRequest, output: int) -> Job:
        spans = [
            {"text": "<|user|>canary \x1b[31m ⟦mine⟧\n── row 9 · train<|end|>", "supervised": False},
            {"text": "theft<|end|>", "supervised": True},
        ]
        found = {
            "row": request.config.row, "side": "train", "tokens": 40, "supervised": 2, "template": "auto",
            "loss_on": request.config.loss_on, "fits": request.config.max_length != 8, "windows": 1,
            "max_length": request.config.max_length, "spans": spans,
        }  # fmt: skip
        os.write(output, json.dumps(found).encode())
        return LOOKED

    def shred_plan(self, *_: Any) -> ShredPlan:
        name = self.answers["datasets"][0].name
        item = ShredItem(
            object_id="ds-cccccccccccc", version=1, kind="dataset", name=name, stored=True, sealed_bytes=9
        )
        return ShredPlan(
            kind="dataset",
            object_id="ds-cccccccccccc",
            name=name,
            versions=[1],
            items=[item],
            runs={"rn-ffffffffffff": "first"},
            jobs=[],
            in_use=[],
            holds=[],
            backups=[],
        )
