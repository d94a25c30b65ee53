"""The worker's verb `base`: a model's files on descriptors become a base model object, in the open.

Knows the job document; the checks are `cloister.models.base`'s.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cloister.api import BaseImportConfig, JobDocument
from cloister.datasets.templates import same_as_ours
from cloister.errors import CloisterError, Interrupted, InvalidInput
from cloister.models.base import import_base
from cloister.models.files import Files, read_bytes, read_json
from cloister.vault import ObjectReader, ObjectWriter

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Copy `descriptors["file:<i>"]`, named by the configuration's `files[i]`, into `output`.

    Returns:
        the model's details (architecture, parameters, sizes).

    Raises:
        InvalidInput: a file is refused.
        Interrupted: the job was asked to stop.
    """
    config = BaseImportConfig.model_validate(job.config)
    output = job.output
    if output is None:
        raise InvalidInput("a base model needs an output", where=job.job_id)
    if len(set(config.files)) < len(config.files):
        raise InvalidInput("a file name comes twice", where=job.job_id)
    files: dict[str, int] = {}
    for number, name in enumerate(config.files):
        descriptor = job.descriptors.get(f"file:{number}")
        if descriptor is None:
            raise InvalidInput("the file was not passed", where=name)
        files[name] = descriptor
    writer_key = base64.b64decode(output.key) if output.key else None
    writer = ObjectWriter(
        Path(output.path),
        object_id=output.object_id,
        kind=output.kind,
        version=output.version,
        key=writer_key,
    )

    def progress(done: int, total: int) -> None:
        if emit.should_stop():
            raise Interrupted("the import was stopped; nothing was kept", where=job.job_id)
        emit.progress("copy", done, total)

    details = import_base(files, writer, progress)
    counts = {name: details[name] for name in ("parameters", "tensors", "shards")}
    writer.finish(
        created_at=datetime.now(UTC).isoformat(),
        counts=counts,
        details=details,
    )
    with ObjectReader(Path(output.path), object_id=output.object_id, key=writer_key) as stored:
        told = template_notice(stored)
    if told is not None:
        emit.notice("info", told)
    return details


def template_notice(files: Files) -> str | None:
    """How a model's own chat template compares with ours; None where it has none that can be read."""
    try:
        config = read_json(files, "tokenizer_config.json")
        own = config.get("chat_template")
        if "chat_template.jinja" in set(files.files):
            own = read_bytes(files, "chat_template.jinja").decode()
        if not isinstance(own, str):
            return None
        added = read_json(files, "tokenizer.json").get("added_tokens") or []
        special = {token["content"] for token in added if token.get("special")}
        bos = config.get("bos_token") or ""
        found = same_as_ours(own, special, bos if isinstance(bos, str) else str(bos.get("content", "")))
    except (CloisterError, KeyError, TypeError, AttributeError, UnicodeDecodeError):
        return None
    same = [name for name, equal in found.items() if equal]
    if same:
        return f"Its own chat template writes what ours for {' and '.join(same)} writes, on every example."
    if found:
        return (
            f"Its own chat template writes otherwise than ours ({', '.join(found)}), whose special tokens it has: "
            "`template: auto` keeps its own, which is what it was trained with."
        )
    return None
