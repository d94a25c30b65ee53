"""The words spoken on the sockets: every document that crosses a process boundary, and nothing else.

Three conversations use them: client ↔ authority (HTTP over a Unix socket), authority ↔ launcher
(JSON lines over a Unix socket), and authority → worker → authority (one `JobDocument` on standard
input, one `WorkerEvent` a line on standard output). No document ever holds a row, a prompt or an
answer; only `JobDocument` holds keys, and it only ever lies in memory.

Each subject has a module. All their words are had from here, `from cloister.api import Run`; a module is
loaded when the first of its words is asked for, so that a process builds only the documents that it speaks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloister.api.approvals import *  # noqa: F403
    from cloister.api.backups import *  # noqa: F403
    from cloister.api.clients import *  # noqa: F403
    from cloister.api.datasets import *  # noqa: F403
    from cloister.api.evaluations import *  # noqa: F403
    from cloister.api.events import *  # noqa: F403
    from cloister.api.jobs import *  # noqa: F403
    from cloister.api.launcher import *  # noqa: F403
    from cloister.api.ledger import *  # noqa: F403
    from cloister.api.models import *  # noqa: F403
    from cloister.api.plans import *  # noqa: F403
    from cloister.api.policy import *  # noqa: F403
    from cloister.api.rendering import *  # noqa: F403
    from cloister.api.runs import *  # noqa: F403
    from cloister.api.serving import *  # noqa: F403
    from cloister.api.shredding import *  # noqa: F403
    from cloister.api.system import *  # noqa: F403
    from cloister.api.vault import *  # noqa: F403
    from cloister.api.words import *  # noqa: F403
    from cloister.api.worker import *  # noqa: F403

_WORDS = {
    "approvals": (
        "APPROVAL_NAMESPACE",
        "Approval",
        "ApprovalDecision",
    ),
    "backups": (
        "Backup",
        "BackupRequest",
    ),
    "clients": (
        "ApiClient",
        "BodiesPolicy",
        "ClientRequest",
        "GatewayHello",
        "GatewaySecrets",
        "GatewayView",
        "IssuedClient",
    ),
    "datasets": (
        "Chosen",
        "ClassifyRequest",
        "ColumnMap",
        "DatasetImport",
        "DatasetReport",
        "DeriveConfig",
        "DeriveRequest",
        "Encoding",
        "ImportConfig",
        "LabelFigures",
        "LengthFigures",
        "MAX_SHOWN_ROWS",
        "MAX_SOURCES",
        "NearFigures",
        "PersonalFigures",
        "PersonalType",
        "RepeatFigures",
        "ReportConfig",
        "ReportRequest",
        "RowRange",
        "RowsConfig",
        "SourceFormat",
    ),
    "evaluations": (
        "Costs",
        "ErrorsConfig",
        "EvaluateConfig",
        "EvaluationRequest",
        "TableConfig",
    ),
    "events": (
        "Alert",
        "EVENTS_LOST",
        "Event",
        "STREAM_GAP",
        "STREAM_RESET",
    ),
    "jobs": (
        "FINAL_STATES",
        "Job",
        "JobState",
        "JobTicket",
        "PriorityRequest",
        "StoredObject",
    ),
    "launcher": (
        "LauncherReply",
        "LauncherRequest",
        "Mount",
        "SandboxEvent",
        "SandboxSpec",
        "SandboxState",
    ),
    "ledger": (
        "BodyRequest",
        "CosignedHead",
        "HeadsLeft",
        "LedgerEntry",
        "LedgerMatches",
        "LedgerName",
        "LedgerProof",
        "LedgerStatus",
        "LedgerWitness",
        "LogState",
        "RevealConfig",
        "RevealResult",
        "RevealTicket",
        "ShredBodiesRequest",
        "ShredBodiesResult",
        "SinkStatus",
    ),
    "models": (
        "BaseImport",
        "BaseImportConfig",
        "ExportConfig",
        "ExportForm",
        "ExportRequest",
        "MergeConfig",
        "MergeRequest",
        "ModelSigningKey",
    ),
    "plans": (
        "PlanAdvice",
        "PlanPart",
        "PlanRequest",
        "RunPlan",
        "ServePlan",
    ),
    "policy": (
        "PolicyAnswer",
        "PolicyCell",
        "PolicyProposal",
        "PolicyQuestion",
        "PolicyRule",
        "PolicySetInfo",
        "PolicyTable",
        "PolicyText",
        "WhoAmI",
    ),
    "rendering": (
        "LossOn",
        "RenderConfig",
        "RenderRequest",
        "TemplateName",
    ),
    "runs": (
        "Curve",
        "CurvePoint",
        "LoraConfig",
        "Run",
        "RunRequest",
        "TrainConfig",
    ),
    "serving": (
        "Deployment",
        "DeploymentState",
        "EngineLoad",
        "ServeConfig",
        "ServeRequest",
    ),
    "shredding": (
        "ForgetConfig",
        "ForgetRequest",
        "Hold",
        "HoldRequest",
        "Shred",
        "ShredItem",
        "ShredPlan",
        "ShredRequest",
        "ShredUse",
    ),
    "system": (
        "BannerColour",
        "Environment",
        "GpuStatus",
        "ProcessStatus",
        "Status",
    ),
    "vault": (
        "AddedSlot",
        "CheckLine",
        "KekRotated",
        "LockRequest",
        "NewSlot",
        "Opening",
        "Passphrase",
        "RootRotated",
        "RotateConfig",
        "SlotSecret",
        "SlotView",
    ),
    "words": (
        "Classification",
        "Document",
        "ID_PREFIX",
        "LARGEST",
        "MAX_VERSION",
        "Name",
        "ONCE_PATHS",
        "ObjectId",
        "ObjectKind",
        "Problem",
        "Seed",
    ),
    "worker": (
        "Failure",
        "Grant",
        "JobDocument",
        "Metrics",
        "Notice",
        "Progress",
        "Result",
        "SelfCheckConfig",
        "WorkerEvent",
    ),
}
"""Every public word, by the module of this package that defines it."""

_MODULE_OF = {word: module for module, words in _WORDS.items() for word in words}

__all__ = sorted(_MODULE_OF)

if not TYPE_CHECKING:  # a type checker that saw it would take every misspelt word for one of ours

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        word = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = word
        return word

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
