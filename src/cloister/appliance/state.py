"""The state database: what exists, what was asked for, how far it is. No key, no row, no answer.

Tables only; what the rows mean to a client is in `records`. Changed by Alembic migrations alone.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, DateTime, Engine, Integer, String, TypeDecorator, create_engine, event
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from cloister.api import DeploymentState

Sessions = sessionmaker[Session]


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so it is put back on reading."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value else None


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
        datetime: UtcTime,
    }


class ObjectRow(Base):
    __tablename__ = "objects"

    object_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True, default=1)
    kind: Mapped[str] = mapped_column(String(16), index=True)
    name: Mapped[str] = mapped_column(String(63), index=True)
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    sealed_bytes: Mapped[int]
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    inputs: Mapped[list[str]] = mapped_column(default=list)
    counts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


class JobRow(Base):
    """`last_event` is the number of the last sandbox line that was taken in, for following on.

    `stopping` is the final state that whoever stops it wants, from before its entry until its end. `asked_by` is the
    uid of whoever asked for it last, by starting, resuming or retrying it; null in rows from before that was kept.
    `attempts` is how often it was started since.
    """

    __tablename__ = "jobs"

    job_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    verb: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), index=True)
    subject: Mapped[str | None] = mapped_column(String(15))
    name: Mapped[str] = mapped_column(String(63))
    config: Mapped[dict[str, Any]]
    inputs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    requested_by: Mapped[str]
    asked_by: Mapped[int | None]
    priority: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    output_version: Mapped[int] = mapped_column(default=1)
    attempts: Mapped[int] = mapped_column(default=0)
    resume: Mapped[bool] = mapped_column(default=False)
    stopping: Mapped[str | None] = mapped_column(String(16))
    device: Mapped[str | None] = mapped_column(String(16))
    last_event: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any] | None]
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[dict[str, Any] | None]


class RunRow(Base):
    __tablename__ = "runs"

    run_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    dataset: Mapped[str] = mapped_column(String(15))
    base: Mapped[str] = mapped_column(String(15))
    holdout: Mapped[str | None] = mapped_column(String(15))
    train: Mapped[dict[str, Any]]
    evaluate: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    train_job: Mapped[str] = mapped_column(String(15))
    evaluate_job: Mapped[str | None] = mapped_column(String(15))
    adapter: Mapped[str | None] = mapped_column(String(15))
    evaluation: Mapped[dict[str, Any] | None]


LIVE = (DeploymentState.STARTING, DeploymentState.READY, DeploymentState.RESTARTING)
"""States of a deployment that has an engine, or is to have one."""


class PointRow(Base):
    """What a run's job said of itself at one step: numbers by name, never content."""

    __tablename__ = "points"

    job_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    values: Mapped[dict[str, Any]]


class DeploymentRow(Base):
    """`asked_by` is the uid of whoever started it, null in rows from before that was kept; `approval` is the id of
    the approval that it was started under, null where it took none. `ready_at` is when its engine first answered."""

    __tablename__ = "deployments"

    deployment_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), index=True)
    model: Mapped[str] = mapped_column(String(15))
    state: Mapped[str] = mapped_column(String(16), index=True)
    config: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    restarts: Mapped[int] = mapped_column(default=0)
    last_event: Mapped[int] = mapped_column(default=0)
    error: Mapped[dict[str, Any] | None]
    device: Mapped[str | None] = mapped_column(String(16))
    asked_by: Mapped[int | None]
    approval: Mapped[str | None] = mapped_column(String(15))
    ready_at: Mapped[datetime | None]


class ClientRow(Base):
    __tablename__ = "clients"

    client_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), index=True)
    deployments: Mapped[list[str]] = mapped_column(default=list)
    key_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    created_by: Mapped[str]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class ShredRow(Base):
    """One shred: `asked`, `intended` (entered, nothing is found any more), `done`; or `abandoned`.

    `items` are the object versions that it destroys, `jobs` those whose work folders go. `approved` is the
    digest of the items that an approval named.
    """

    __tablename__ = "shreds"

    shred_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    object_id: Mapped[str] = mapped_column(String(15))
    version: Mapped[int | None]
    name: Mapped[str] = mapped_column(String(63))
    take_down: Mapped[bool]
    asked_at: Mapped[datetime]
    asked_by: Mapped[str]
    done_at: Mapped[datetime | None]
    items: Mapped[list[dict[str, Any]]] = mapped_column(default=list)
    jobs: Mapped[list[str]] = mapped_column(default=list)
    keys: Mapped[int] = mapped_column(default=0)
    sealed_bytes: Mapped[int] = mapped_column(default=0)
    final_after: Mapped[datetime | None]
    ledger_index: Mapped[int | None]
    problem: Mapped[str | None]
    approval_id: Mapped[str | None] = mapped_column(String(15))
    approved: Mapped[str | None] = mapped_column(String(64))


class TombstoneRow(Base):
    """What is left of a shredded object version or run (of which `version` is 0): that it was, and its end."""

    __tablename__ = "tombstones"

    object_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(63), index=True)
    shredded_at: Mapped[datetime]
    shredded_by: Mapped[str]
    shred_id: Mapped[str] = mapped_column(String(15))
    ledger_index: Mapped[int]


class HoldRow(Base):
    __tablename__ = "holds"

    hold_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    object_id: Mapped[str] = mapped_column(String(15), index=True)
    name: Mapped[str] = mapped_column(String(63))
    reason: Mapped[str]
    placed_at: Mapped[datetime]
    placed_by: Mapped[str]
    released_at: Mapped[datetime | None]
    released_by: Mapped[str | None]


class BackupRow(Base):
    """A backup that was made and read back. `discarded_at`: its key archive was destroyed, or so it was said."""

    __tablename__ = "backups"

    backup_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    made_at: Mapped[datetime]
    made_by: Mapped[str]
    where: Mapped[str]
    keys_until: Mapped[datetime]
    discarded_at: Mapped[datetime | None]
    packs: Mapped[int]
    copied: Mapped[int]
    copied_bytes: Mapped[int]
    objects_sha256: Mapped[str] = mapped_column(String(64))
    keys_sha256: Mapped[str] = mapped_column(String(64))
    ledger_entries: Mapped[int]


class AlertRow(Base):
    """An alert that lasts. It goes when its cause does."""

    __tablename__ = "alerts"

    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    severity: Mapped[str] = mapped_column(String(8))
    cause: Mapped[str]
    affects: Mapped[str]
    command: Mapped[str]
    raised_at: Mapped[datetime]
    acknowledged_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None]


class ClassificationRow(Base):
    """What a dataset is, all its versions. One that has none counts as the strictest."""

    __tablename__ = "classifications"

    object_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    classification: Mapped[str] = mapped_column(String(16))
    set_at: Mapped[datetime]
    set_by: Mapped[str]


OPEN = ("pending", "approved")
"""States of an approval in which it can be decided on or used, unless it has expired."""
KEPT = "kept"
"""That of one that stands for the deployments that were started under it, after the policy set changed."""


class ApprovalRow(Base):
    """Something that was asked for, frozen. `request` is as it was asked, `digest` of what it is about. Of a policy
    set that was proposed, `request` holds the files while it is open, and their digest afterwards.

    `state` is pending, approved, refused, withdrawn, void, used or kept; that it expired is seen from the times.
    """

    __tablename__ = "approvals"

    approval_id: Mapped[str] = mapped_column(String(15), primary_key=True)
    state: Mapped[str] = mapped_column(String(16), index=True)
    action: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    thing: Mapped[str] = mapped_column(String(64))
    name: Mapped[str] = mapped_column(String(64))
    classification: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64), index=True)
    request: Mapped[dict[str, Any]]
    summary: Mapped[list[str]]
    data: Mapped[list[str]]
    signature_needed: Mapped[bool]
    requested_by: Mapped[str]
    requester: Mapped[int]
    requested_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    document: Mapped[str]
    decided_by: Mapped[str | None]
    decider: Mapped[int | None]
    decided_at: Mapped[datetime | None]
    stands_until: Mapped[datetime | None]
    reason: Mapped[str | None]
    signature: Mapped[str | None]
    signer: Mapped[str | None]
    used_at: Mapped[datetime | None]

    def open_at(self, now: datetime) -> bool:
        """Whether somebody can decide on it, or use it, at that moment."""
        until = self.expires_at if self.state == "pending" else self.stands_until
        return self.state in OPEN and (until is None or until > now)


class PolicySetRow(Base):
    """A policy set that is or was in force. `origin`: shipped, folder (of the settings), settings (accepted
    there by its digest), or approved."""

    __tablename__ = "policy_sets"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    files: Mapped[dict[str, Any]]
    origin: Mapped[str] = mapped_column(String(16))
    in_force: Mapped[bool] = mapped_column(index=True)
    since: Mapped[datetime]
    approval_id: Mapped[str | None] = mapped_column(String(15))


class ReplyRow(Base):
    """What a request with an idempotency key was answered; `status` is null until it was. `digest` is SHA-256
    of path, query and body."""

    __tablename__ = "replies"

    uid: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    digest: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(index=True)
    status: Mapped[int | None]
    body: Mapped[str]


class EventRow(Base):
    """`sqlite_autoincrement`: a number is never used twice, even after old events are pruned."""

    __tablename__ = "events"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's own form

    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[datetime]
    kind: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str | None] = mapped_column(String(15))
    data: Mapped[dict[str, Any]] = mapped_column(default=dict)


class OwedRow(Base):
    """An entry that the ledger may lack; `since` is how many entries it had when this was noted."""

    __tablename__ = "owed"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012 - SQLAlchemy's own form

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    entry: Mapped[dict[str, Any]]
    since: Mapped[int]


def open_state(path: Path) -> tuple[Engine, Sessions]:
    """Open the database, bring it to the newest migration, and make every commit durable."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10}, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    migrate(engine)
    return engine, sessionmaker(engine, expire_on_commit=False)


def migrate(engine: Engine) -> None:
    """Apply the migrations that this database lacks."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
