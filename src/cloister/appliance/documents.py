"""What a sandbox is given: the document with its configuration and just its keys, and what is mounted.

It names objects and hands out keys; it starts nothing.
"""

from __future__ import annotations

import base64
import shutil
from typing import Any, Literal

from cloister.api import Grant, JobDocument, Mount, ObjectKind, SandboxSpec, TrainConfig
from cloister.appliance.devices import each_of, gpu_of
from cloister.appliance.jobs import EXPORT, made_by, places_of
from cloister.appliance.parts import Parts
from cloister.appliance.seal import MODEL_SIGNING, PSEUDONYMS
from cloister.appliance.state import DeploymentRow, JobRow, ObjectRow
from cloister.errors import NotFound
from cloister.sandbox import memory_file
from cloister.vault.files import make_folders


def worker_documents(
    parts: Parts, row: JobRow, roles: list[str], unwritten: dict[str, Any]
) -> tuple[JobDocument, SandboxSpec]:
    """A job's document, with the keys of just its objects, and the sandbox around it.

    `roles` are those of its descriptors, in order; `unwritten` settings take the place of the row's.
    """
    vault = parts.seal.vault  # locked, it raises before anything is touched
    output, mounts = _output(parts, row) if row.subject is not None else (None, [])
    if row.verb == EXPORT:
        unwritten = {**unwritten, "secret": _b64(vault.secret(MODEL_SIGNING))}
    if row.verb == "evaluate":  # as they are when it starts: no part of what was asked for
        unwritten = {**unwritten, "costs": parts.settings.prices.costs.model_dump()}
    if row.verb in ("derive", "import") and row.config.get("personal") == "replace":
        unwritten = {**unwritten, "secret": _b64(vault.secret(PSEUDONYMS))}
    config = TrainConfig.frozen(row.config).model_dump() if row.verb == "train" else row.config
    inputs: dict[str, Grant] = {}
    with parts.state.read() as session:
        for role, reference in row.inputs.items():
            stored = session.get_one(ObjectRow, (reference["object_id"], reference["version"]))
            inputs[role], mount = _granted(parts, stored, f"/in/{role}")
            mounts.append(mount)
    document = JobDocument.model_validate(
        {
            "job_id": row.job_id,
            "verb": row.verb,
            "config": {**config, **unwritten},
            "inputs": inputs,
            "output": output,
            "descriptors": {role: 3 + index for index, role in enumerate(roles)},
            "resume": row.resume,
            "threads": parts.settings.queue.threads,
            "device": _kind(row.device),
        }
    )
    spec = SandboxSpec(
        sandbox_id=row.job_id,
        program="worker",
        mounts=tuple(mounts),
        tmp_mib=parts.settings.sandboxes.tmp_mib,
        shm_mib=parts.settings.sandboxes.shm_mib * places_of(row),  # over it processes reach one another
        descriptors=tuple(roles),
        threads=parts.settings.queue.threads,
        gpus=_gpus(row.device),
    )
    return document, spec


def engine_documents(parts: Parts, row: DeploymentRow, model: ObjectRow) -> tuple[JobDocument, SandboxSpec]:
    """An engine's document and sandbox, with an empty folder for its socket."""
    folder = parts.home.engine_folder(row.deployment_id)
    shutil.rmtree(folder, ignore_errors=True)
    make_folders(folder)
    grant, mount = _granted(parts, model, "/in/model")
    document = JobDocument(
        job_id=row.deployment_id,
        verb="serve",
        config=row.config,
        inputs={"model": grant},
        socket_dir="/run/engine" if _isolated(parts) else str(folder),
        threads=parts.settings.queue.threads,
        device=_kind(row.device),
    )
    spec = SandboxSpec(
        sandbox_id=row.deployment_id,
        program="engine",
        mounts=(mount, Mount(source=str(folder), inside="/run/engine", writable=True)),
        tmp_mib=parts.settings.sandboxes.tmp_mib,
        shm_mib=parts.settings.sandboxes.shm_mib,
        threads=parts.settings.queue.threads,
        gpus=_gpus(row.device),
    )
    return document, spec


def in_memory(document: JobDocument) -> int:
    """A descriptor of an anonymous file in memory that holds the document, at its start."""
    return memory_file("job", document.model_dump_json().encode())


def _kind(device: str | None) -> Literal["cpu", "cuda"]:
    return "cuda" if _gpus(device) else "cpu"


def _gpus(device: str | None) -> tuple[int, ...]:
    """The GPUs that the sandbox sees; inside they are counted from `cuda:0`."""
    numbers = (gpu_of(name) for name in each_of(device))
    return tuple(number for number in numbers if number is not None)


def _isolated(parts: Parts) -> bool:
    return parts.settings.sandbox == "required"


def _granted(parts: Parts, stored: ObjectRow, inside: str) -> tuple[Grant, Mount]:
    """One object to be read, with its key where it is sealed."""
    folder = str(parts.catalogue.folder(stored))
    sealed = stored.kind != ObjectKind.BASE
    grant = Grant(
        object_id=stored.object_id,
        kind=ObjectKind(stored.kind),
        version=stored.version,
        path=inside if _isolated(parts) else folder,
        key=_b64(parts.seal.vault.data_key(stored.object_id, stored.version)) if sealed else None,
        manifest_sha256=stored.manifest_sha256,
    )
    return grant, Mount(source=folder, inside=inside)


def _output(parts: Parts, row: JobRow) -> tuple[Grant, list[Mount]]:
    """What a job makes, with its key, and the one folder that it may write to; empty, unless it goes on."""
    subject = row.subject or ""
    kind, version = made_by(row)
    folder = parts.home.output_folder(row.job_id)
    if not row.resume:
        shutil.rmtree(folder.parent, ignore_errors=True)
    make_folders(folder)
    grant = Grant(
        object_id=subject,
        kind=kind,
        version=version,
        path="/out" if _isolated(parts) else str(folder),
        key=_output_key(parts, subject, kind, version),
    )
    return grant, [Mount(source=str(folder), inside="/out", writable=True)]


def _output_key(parts: Parts, subject: str, kind: ObjectKind, version: int) -> str | None:
    if kind == ObjectKind.BASE:
        return None
    vault = parts.seal.vault
    try:
        return _b64(vault.data_key(subject, version))  # an attempt before this one has made it
    except NotFound:
        return _b64(vault.new_data_key(subject, version))


def _b64(key: bytes) -> str:
    return base64.b64encode(key).decode()
