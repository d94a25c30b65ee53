"""A merged model put into a running appliance's store as a merge would have left it, without the training."""

from __future__ import annotations

import json
import os

from tests.conftest import PASSPHRASE, Appliance

from cloister.api import ObjectKind
from cloister.appliance.ids import new_id
from cloister.appliance.seal import MANIFEST_KEY
from cloister.appliance.state import ClassificationRow, ObjectRow, open_state
from cloister.appliance.store import utc_now
from cloister.home import Home
from cloister.vault import ObjectWriter, Vault, sign_manifest, write_manifest


def plant_models(appliance: Appliance, models: dict[str, tuple[str, dict[str, bytes]]]) -> None:
    """By name: how the dataset is classified that it came of (only the state knows that one), and its files."""
    vault = Vault.open(appliance.home.keys)
    vault.unlock(PASSPHRASE.encode())
    try:
        for name, (classification, files) in models.items():
            _plant(appliance.home, vault, name, classification, files)
    finally:
        vault.close()


def _plant(home: Home, vault: Vault, name: str, classification: str, files: dict[str, bytes]) -> None:
    dataset, model = new_id(ObjectKind.DATASET), new_id(ObjectKind.MODEL)
    folder = home.objects / "model" / model / "v1"
    writer = ObjectWriter(folder, object_id=model, kind="model", key=vault.new_data_key(model))
    for path, content in files.items():
        with writer.create(path) as file:
            file.write(content)
    manifest = sign_manifest(
        writer.finish(created_at="2026-11-22T00:00:00+00:00"), vault.signing_key(MANIFEST_KEY)
    )
    write_manifest(folder, manifest)
    engine, sessions = open_state(home.state)
    with sessions.begin() as session:
        session.add(
            ClassificationRow(object_id=dataset, classification=classification, set_at=utc_now(), set_by="x")
        )
        for object_id, kind, called, inputs in (
            (dataset, ObjectKind.DATASET, f"{name}-data", []),
            (model, ObjectKind.MODEL, name, [dataset]),
        ):
            session.add(
                ObjectRow(
                    object_id=object_id,
                    version=1,
                    kind=kind,
                    name=called,
                    created_at=utc_now(),
                    created_by="x",
                    sealed_bytes=manifest.sealed_bytes if kind == ObjectKind.MODEL else 0,
                    manifest_sha256=manifest.sha256 if kind == ObjectKind.MODEL else "0" * 64,
                    inputs=inputs,
                    counts={},
                    details={},
                )
            )
    engine.dispose()


def files_of(canary: bytes, size: int) -> dict[str, bytes]:
    """Files like a model's; the weights have the canary and then noise."""
    return {
        "config.json": json.dumps({"model_type": "llama"}).encode(),
        "tokenizer.json": b"{}",
        "chat_template.jinja": b"{{ messages }}",
        "model.safetensors": canary + os.urandom(size),
    }
